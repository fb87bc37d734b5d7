"""`imagesearch cluster`."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grpc_kit.errors import NotFoundError
from imagesearch_analysis.choices import ClusterMethod
from imagesearch_cli.connection import connected
from imagesearch_cli.console import err, fail, note, show
from imagesearch_cli.option_values import check_attribute_name
from imagesearch_cli.options import (
    DEFAULT_COLLECTION,
    AsJson,
    CollectionName,
    Force,
    OpenOption,
    SnapshotFolder,
    Target,
    Where,
    output_option,
    seed_option,
)
from imagesearch_cli.progress import show_progress
from imagesearch_cli.snapshots import check_file, snapshot_of
from imagesearch_client import DEFAULT_TARGET, Client
from imagesearch_ingest.json_text import json_text

if TYPE_CHECKING:
    from imagesearch_analysis.clusters import Clusters
    from imagesearch_analysis.snapshot import Snapshot

AUTO = "auto"
PARALLEL_CALLS = 8
MIN_CLUSTERS, DEFAULT_MIN_SIZE, SHOWN_SIZES = 2, 5, 20
BATCH = 1000


def cluster(
    output: Annotated[
        Path,
        output_option(
            "File to write, with a row for each image, its cluster and its distance to the center: .csv or .jsonl."
        ),
    ],
    collection: CollectionName = DEFAULT_COLLECTION,
    clusters: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="Number of clusters. auto chooses the number, up to 100, with the most distinct clusters.",
        ),
    ] = AUTO,
    method: Annotated[
        ClusterMethod,
        typer.Option(
            help="kmeans works for any number of images. hdbscan finds dense groups; images in no group are in cluster "
            "-1."
        ),
    ] = ClusterMethod.KMEANS,
    min_size: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="hdbscan: minimum number of images in a cluster. [default: 5]"),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the most central images of each cluster: .html, .png or .pdf."),
    ] = None,
    write_attribute: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Store each image's cluster in this attribute of the image. Other attributes stay."
        ),
    ] = "",
    seed: Annotated[int, seed_option("Seed of the random parts. The same seed finds the same clusters.")] = 0,
    where: Where = None,
    snapshot: SnapshotFolder = None,
    opens: OpenOption = None,
    force: Force = False,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Group images that look alike into clusters. Cluster 0 is the largest.

    Example: imagesearch cluster -c images --clusters 20 -o clusters.csv --report clusters.html

    Example: imagesearch cluster -c products --method hdbscan -o clusters.csv --write-attribute look
    """
    count = _count(clusters, method)
    if min_size is not None and method is not ClusterMethod.HDBSCAN:
        raise typer.BadParameter("has no effect without --method hdbscan", param_hint="--min-size")
    check_attribute_name(write_attribute, "--write-attribute")
    check_file(output, (".csv", ".jsonl"), "--output", force=force)
    check_file(report, (".html", ".png", ".pdf"), "--report", force=force)
    # NumPy and scikit-learn take a while to import.
    from imagesearch_analysis.cluster_files import write_sheet, write_table  # noqa: PLC0415
    from imagesearch_analysis.clusters import hdbscan, k_means  # noqa: PLC0415

    gone = None
    with snapshot_of(target, collection, where, snapshot, opens=opens) as found:
        if write_attribute and not force:
            _check_unused(found, write_attribute)
        if method is ClusterMethod.HDBSCAN:
            with err.status("finding clusters"):
                made = hdbscan(found, min_size or DEFAULT_MIN_SIZE, seed)
        else:
            with show_progress(len(found)) as bar:
                made = k_means(found, count, seed, bar.reach)
        write_table(output, found, made)
        if report is not None:
            write_sheet(report, found, made)
        if write_attribute:
            with connected(target) as client, show_progress(len(found)) as bar:
                gone = write_clusters(client, found, made, write_attribute, bar.reach)
        _summarise(found, made, gone, as_json=as_json)
    for path in (output, report):
        if path is not None:
            note(f"wrote {path}")


def _count(text: str, method: ClusterMethod) -> int | None:
    """Return the number of --clusters, or None for auto."""
    if text == AUTO:
        return None
    if method is ClusterMethod.HDBSCAN:
        raise typer.BadParameter("has no effect with --method hdbscan, which finds the number", param_hint="--clusters")
    if not text.isdecimal() or int(text) < MIN_CLUSTERS:
        raise typer.BadParameter(
            f"{text!r} must be auto, or a number of at least {MIN_CLUSTERS}", param_hint="--clusters"
        )
    return int(text)


def _check_unused(snapshot: "Snapshot", attribute: str) -> None:
    """End the command if images have the attribute already: its values would be lost."""
    if taken := sum(value is not None for value in snapshot.attribute_values(attribute)):
        fail(
            f"{taken} of {len(snapshot)} images have the attribute {attribute} already",
            "Name another attribute with --write-attribute, or add --force to replace its values.",
        )


def write_clusters(
    client: Client, snapshot: "Snapshot", clusters: "Clusters", attribute: str, report: Callable[[int], None]
) -> int:
    """Store each image's cluster in an attribute. Return how many images no longer exist.

    Raises ServiceError. Attributes that were written before the error stay, and a second call repeats them safely.
    """

    def update(one: tuple[str, int]) -> bool:
        image_id, label = one
        try:
            client.update(snapshot.collection, image_id, attributes={attribute: label})
        except NotFoundError as error:
            if error.reason != "IMAGE_NOT_FOUND":
                raise
            return False
        return True

    gone = 0
    with ThreadPoolExecutor(PARALLEL_CALLS) as threads:
        for begin in range(0, len(snapshot), BATCH):
            ids: Sequence[str] = snapshot.ids[begin : begin + BATCH]
            labels = clusters.labels[begin : begin + BATCH].tolist()
            done = list(threads.map(update, zip(ids, labels, strict=True)))
            gone += done.count(False)
            report(begin + len(done))
    return gone


def _summarise(snapshot: "Snapshot", clusters: "Clusters", gone: int | None, *, as_json: bool) -> None:
    sizes = clusters.sizes()
    noise = len(snapshot) - sum(sizes)
    if as_json:
        summary = {
            "collection": snapshot.collection,
            "images": len(snapshot),
            "clusters": clusters.count,
            "sizes": sizes,
            "in_none": noise,
            "silhouette": clusters.silhouette,
        }
        print(json_text(summary if gone is None else summary | {"written": len(snapshot) - gone}))
        return
    none = f"; {noise} images in no cluster" if noise else ""
    measure = "" if clusters.silhouette is None else f"; silhouette {clusters.silhouette:.3f}"
    shown = ", ".join(map(str, sizes[:SHOWN_SIZES])) + (", ..." if len(sizes) > SHOWN_SIZES else "")
    show(
        f"{clusters.count} clusters in {len(snapshot)} images of {snapshot.collection}; images in each: "
        f"{shown or 'none'}{none}{measure}"
    )
    if gone:
        note(f"{gone} images were deleted in the meantime and have no attribute")
