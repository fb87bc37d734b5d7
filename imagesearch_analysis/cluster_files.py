"""What is written of clusters: a table of all images, and a sheet with the most central pictures of each."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from imagesearch_analysis.clusters import Clusters
from imagesearch_analysis.pages import write_page
from imagesearch_analysis.pictures import at_once, data_uri, read_picture
from imagesearch_analysis.snapshot import Described, Snapshot
from imagesearch_ingest.atomic_file import atomic_write
from imagesearch_ingest.json_text import json_text, rounded

COLUMNS = ("id", "cluster", "distance")
SHOWN_CLUSTERS, SHOWN_IMAGES = 200, 8
THUMBNAIL = 160
DRAWN_CLUSTERS = 50


def rows(snapshot: Snapshot, clusters: Clusters) -> Iterator[dict[str, Any]]:
    """A row for each image, by id; the distance to the middle of its cluster is None where it is in none."""
    columns = zip(snapshot.ids, clusters.labels.tolist(), clusters.distances.tolist(), strict=True)
    for image_id, cluster, distance in columns:
        yield {"id": image_id, "cluster": cluster, "distance": rounded(distance) if cluster >= 0 else None}


def write_table(target: Path, snapshot: Snapshot, clusters: Clusters) -> None:
    """Writes the rows as CSV or JSON lines, whole or not at all. Raises OSError."""
    found = rows(snapshot, clusters)
    with atomic_write(target) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        if target.suffix.lower() == ".csv":
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)
        else:
            file.writelines(json_text(row, readable=True) + "\n" for row in found)


def write_sheet(target: Path, snapshot: Snapshot, clusters: Clusters) -> None:
    """Writes a page (.html) or draws a picture of the most central images of each cluster. Raises OSError."""
    is_page = target.suffix.lower() == ".html"
    sizes = clusters.sizes()[: SHOWN_CLUSTERS if is_page else DRAWN_CLUSTERS]
    images = [
        [snapshot.describe(place) for place in clusters.central(number, SHOWN_IMAGES)] for number in range(len(sizes))
    ]
    if is_page:
        _write_sheet_page(target, snapshot, clusters, sizes, images)
    else:
        _draw(target, sizes, images)


def _write_sheet_page(
    target: Path, snapshot: Snapshot, clusters: Clusters, sizes: Sequence[int], images: Sequence[Sequence[Described]]
) -> None:
    facts = {
        "images": len(snapshot),
        "clusters": clusters.count,
        "in no cluster": int((clusters.labels < 0).sum()),
        "silhouette": "none" if clusters.silhouette is None else f"{clusters.silhouette:.3f}",
    }
    shown = [{"size": size, "images": list(_with_pictures(row))} for size, row in zip(sizes, images, strict=True)]
    more = clusters.count - len(sizes)
    write_page(
        target, "clusters.html", title=f"Clusters of {snapshot.collection}", facts=facts, clusters=shown, more=more
    )


def _with_pictures(images: Sequence[Described]) -> Iterator[dict[str, Any]]:
    pictures = at_once(lambda image: read_picture(image.uri, THUMBNAIL, image.region), images)
    for image, picture in zip(images, pictures, strict=True):
        yield {"image": image, "picture": picture and data_uri(picture)}


def _draw(target: Path, sizes: Sequence[int], images: Sequence[Sequence[Described]]) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 - of use for this alone

    from imagesearch_analysis.plot import TILE_INCHES, Tile, draw_tile, shorten  # noqa: PLC0415 - as above

    figure = Figure(
        figsize=(SHOWN_IMAGES * TILE_INCHES, max(1, len(sizes)) * (TILE_INCHES + 0.45)), layout="constrained"
    )
    grid = figure.subplots(max(1, len(sizes)), SHOWN_IMAGES, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, (axes, size, row) in enumerate(zip(grid, sizes, images, strict=False)):
        for place, (tile, image) in enumerate(zip(axes, row, strict=False)):
            title = f"cluster {number}: {size} images" if place == 0 else ""
            draw_tile(tile, Tile(image.id, image.uri, image.region), f"{title}\n{shorten(image.id)}", bold=False)
    with atomic_write(target) as partial:
        figure.savefig(partial, format=target.suffix[1:].lower(), dpi=80)
