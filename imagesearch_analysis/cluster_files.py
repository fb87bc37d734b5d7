"""Writes clusters: a table of all images, and a sheet with the most central pictures of each cluster."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from imagesearch_analysis.clusters import Clusters
from imagesearch_analysis.pages import render_page
from imagesearch_analysis.pictures import map_in_threads, thumbnail_url
from imagesearch_analysis.snapshot import Snapshot, SnapshotImage
from imagesearch_ingest.atomic_file import atomic_write, write_text
from imagesearch_ingest.json_text import json_text, rounded

COLUMNS = ("id", "cluster", "distance")
# The largest numbers of clusters on a page and in a picture, and of images of each.
PAGE_CLUSTERS, PICTURE_CLUSTERS, SHOWN_IMAGES = 200, 50, 8
THUMBNAIL = 160


def rows(snapshot: Snapshot, clusters: Clusters) -> Iterator[dict[str, Any]]:
    """Return a row for each image, by id; an image in no cluster has the distance None."""
    columns = zip(snapshot.ids, clusters.labels.tolist(), clusters.distances.tolist(), strict=True)
    for image_id, cluster, distance in columns:
        yield {"id": image_id, "cluster": cluster, "distance": rounded(distance) if cluster >= 0 else None}


def write_table(target: Path, snapshot: Snapshot, clusters: Clusters) -> None:
    """Write the rows as CSV or JSON lines, a complete file or none. Raises OSError."""
    found = rows(snapshot, clusters)
    with atomic_write(target) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        if target.suffix.lower() == ".csv":
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)
        else:
            file.writelines(json_text(row, readable=True) + "\n" for row in found)


def write_sheet(target: Path, snapshot: Snapshot, clusters: Clusters) -> None:
    """Write the most central images of each cluster as a page (.html) or a picture. Raises OSError."""
    is_page = target.suffix.lower() == ".html"
    sizes = clusters.sizes()[: PAGE_CLUSTERS if is_page else PICTURE_CLUSTERS]
    images = [
        [snapshot.image(position) for position in clusters.most_central(number, SHOWN_IMAGES)]
        for number in range(len(sizes))
    ]
    if is_page:
        _write_page(target, snapshot, clusters, sizes, images)
    else:
        _draw(target, sizes, images)


def _write_page(
    target: Path,
    snapshot: Snapshot,
    clusters: Clusters,
    sizes: Sequence[int],
    images: Sequence[Sequence[SnapshotImage]],
) -> None:
    facts = {
        "images": len(snapshot),
        "clusters": clusters.count,
        "in no cluster": int((clusters.labels < 0).sum()),
        "silhouette": "none" if clusters.silhouette is None else f"{clusters.silhouette:.3f}",
    }
    shown = [{"size": size, "images": list(_figures(row))} for size, row in zip(sizes, images, strict=True)]
    page = render_page(
        "clusters.html",
        title=f"Clusters of {snapshot.collection}",
        facts=facts,
        clusters=shown,
        hidden=clusters.count - len(sizes),
    )
    write_text(target, page)


def _figures(images: Sequence[SnapshotImage]) -> Iterator[dict[str, str]]:
    urls = map_in_threads(lambda image: thumbnail_url(image.uri, THUMBNAIL, image.region), images)
    for image, url in zip(images, urls, strict=True):
        yield {"name": image.id, "url": url}


def _draw(target: Path, sizes: Sequence[int], images: Sequence[Sequence[SnapshotImage]]) -> None:
    from imagesearch_analysis.tiles import Tile, draw_tiles, shorten  # noqa: PLC0415 - matplotlib imports slowly

    tiles = [
        [
            Tile(
                image.uri,
                (f"cluster {number}: {size} images" if image is row[0] else "") + f"\n{shorten(image.id)}",
                image.region,
            )
            for image in row
        ]
        for number, (size, row) in enumerate(zip(sizes, images, strict=True))
    ]
    figure = draw_tiles(tiles, SHOWN_IMAGES)
    with atomic_write(target) as partial:
        figure.savefig(partial, format=target.suffix[1:].lower(), dpi=80)
