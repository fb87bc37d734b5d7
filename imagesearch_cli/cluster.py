"""`imagesearch cluster`."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from grpc_kit.errors import NotFoundError
from imagesearch_analysis.choices import ClusterMethod
from imagesearch_cli.connection import connected
from imagesearch_cli.options import AsJson, OpenOption, Target, Where
from imagesearch_cli.output import err, out
from imagesearch_cli.snapshots import (
    CollectionArgument,
    Force,
    SnapshotFolder,
    check_attribute,
    check_file,
    fail,
    progress,
    snapshot_of,
)
from imagesearch_client import DEFAULT_TARGET, Client
from imagesearch_ingest.json_text import json_text

if TYPE_CHECKING:
    from imagesearch_analysis.clusters import Clusters
    from imagesearch_analysis.snapshot import Snapshot

AUTO = "auto"
CALLERS = 8
MIN_CLUSTERS, DEFAULT_MIN_SIZE, SHOWN_SIZES = 2, 5, 20
# Images whose attribute is written before the next ones are read.
WRITTEN_AT_ONCE = 1000


def cluster(
    collection: CollectionArgument,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="A row for each image, its cluster and its distance to the middle: .csv or .jsonl."
        ),
    ],
    clusters: Annotated[
        str, typer.Option(help="How many, or auto: as many as make the clusters most distinct, up to 100.")
    ] = AUTO,
    method: Annotated[
        ClusterMethod,
        typer.Option(help="kmeans for any number of images, hdbscan for dense groups and those in none, -1."),
    ] = ClusterMethod.KMEANS,
    min_size: Annotated[
        int | None, typer.Option(min=2, help="hdbscan: the fewest images of a cluster. [default: 5]")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Show the most central pictures of each cluster: .html, .png or .pdf.")
    ] = None,
    write: Annotated[
        str, typer.Option(metavar="ATTRIBUTE", help="Write each image's cluster into this attribute; others stay.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of what is random: the same one gives the same clusters.")] = 0,
    where: Where = None,
    snapshot: SnapshotFolder = None,
    opens: OpenOption = None,
    force: Force = False,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Put images that are alike into clusters; cluster 0 is the largest.

    Example: imagesearch cluster images --clusters 20 -o clusters.csv --sheet clusters.html

    Example: imagesearch cluster products --method hdbscan -o clusters.csv --write look
    """
    count = _count(clusters, method)
    if min_size is not None and method is not ClusterMethod.HDBSCAN:
        raise typer.BadParameter("is for --method hdbscan", param_hint="--min-size")
    check_attribute(write, "--write")
    check_file(output, (".csv", ".jsonl"), "--output", force=force)
    if sheet is not None:
        check_file(sheet, (".html", ".png", ".pdf"), "--sheet", force=force)
    # They bring numpy and scikit-learn, which take a while to import.
    from imagesearch_analysis.cluster_files import write_sheet, write_table  # noqa: PLC0415
    from imagesearch_analysis.clusters import hdbscan, k_means  # noqa: PLC0415

    gone = None
    with snapshot_of(target, collection, where, snapshot, opens=opens) as found:
        if write and not force:
            _check_new(found, write)
        if method is ClusterMethod.HDBSCAN:
            with err.status("finding clusters"):
                made = hdbscan(found, min_size or DEFAULT_MIN_SIZE, seed)
        else:
            with progress(len(found)) as bar:
                made = k_means(found, count, seed, bar.reach)
        write_table(output, found, made)
        if sheet is not None:
            write_sheet(sheet, found, made)
        if write:
            with connected(target) as client, progress(len(found)) as bar:
                gone = write_back(client, found, made, write, bar.reach)
        _tell(found, made, gone, as_json=as_json)
    for path in (output, sheet):
        if path is not None:
            err.print(Text(f"wrote {path}"))


def _count(text: str, method: ClusterMethod) -> int | None:
    """The number of clusters that is wanted; None leaves it open."""
    if text == AUTO:
        return None
    if method is ClusterMethod.HDBSCAN:
        raise typer.BadParameter("hdbscan finds out how many there are", param_hint="--clusters")
    if not text.isdecimal() or int(text) < MIN_CLUSTERS:
        raise typer.BadParameter(
            f"{text!r} should be auto, or a number from {MIN_CLUSTERS} on", param_hint="--clusters"
        )
    return int(text)


def _check_new(snapshot: "Snapshot", attribute: str) -> None:
    """Ends the command if images have the attribute already, whose values nothing would bring back."""
    if taken := sum(value is not None for value in snapshot.attribute_values(attribute)):
        fail(
            f"{taken} of {len(snapshot)} images have the attribute {attribute} already, which --write would replace; "
            "name another attribute, or replace it by --force"
        )


def write_back(
    client: Client, snapshot: "Snapshot", clusters: "Clusters", attribute: str, tell: Callable[[int], None]
) -> int:
    """Writes each image's cluster into an attribute; gives how many images are not there any more.

    Raises ServiceError; what was written by then stays, and to do it again is right.
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
    with ThreadPoolExecutor(CALLERS) as threads:
        for begin in range(0, len(snapshot), WRITTEN_AT_ONCE):
            ids: Sequence[str] = snapshot.ids[begin : begin + WRITTEN_AT_ONCE]
            labels = clusters.labels[begin : begin + WRITTEN_AT_ONCE].tolist()
            done = list(threads.map(update, zip(ids, labels, strict=True)))
            gone += done.count(False)
            tell(begin + len(done))
    return gone


def _tell(snapshot: "Snapshot", clusters: "Clusters", gone: int | None, *, as_json: bool) -> None:
    sizes = clusters.sizes()
    noise = len(snapshot) - sum(sizes)
    if as_json:
        told = {
            "collection": snapshot.collection,
            "images": len(snapshot),
            "clusters": clusters.count,
            "sizes": sizes,
            "in_none": noise,
            "silhouette": clusters.silhouette,
        }
        print(json_text(told if gone is None else told | {"written": len(snapshot) - gone}))
        return
    none = f", {noise} images in none" if noise else ""
    measure = "" if clusters.silhouette is None else f"; silhouette {clusters.silhouette:.3f}"
    shown = ", ".join(map(str, sizes[:SHOWN_SIZES])) + (", ..." if len(sizes) > SHOWN_SIZES else "")
    out.print(
        f"{clusters.count} clusters of {len(snapshot)} images of {snapshot.collection}, of {shown or 'no'} images"
        f"{none}{measure}",
        highlight=False,
        soft_wrap=True,
    )
    if gone:
        err.print(f"{gone} images were removed meanwhile, and have no attribute")
