"""`imagesearch neighbors`."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from imagesearch_cli.connection import connected
from imagesearch_cli.options import AsJson, Target, Where, condition_of
from imagesearch_cli.output import err, out
from imagesearch_cli.snapshots import (
    CollectionArgument,
    Force,
    SnapshotFolder,
    check_attribute,
    check_file,
    ending_well,
    fail,
    progress,
    read,
)
from imagesearch_client import DEFAULT_TARGET
from imagesearch_ingest.json_text import json_text

if TYPE_CHECKING:
    from imagesearch_analysis.snapshot import Snapshot

SUFFIXES = (".json", ".jsonl", ".parquet", ".csv")


def neighbors(
    collection: CollectionArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", dir_okay=False, help="The file to write: .json, .jsonl, .parquet or .csv.")
    ],
    k: Annotated[int, typer.Option("--k", "-k", min=1, max=1000, help="Neighbours of each image.")] = 10,
    id_attribute: Annotated[
        str, typer.Option(help="Call images by this attribute, such as product_id, and not by their ids.")
    ] = "",
    digits: Annotated[
        int | None, typer.Option("--round", min=0, max=15, help="Decimal places of the scores_of_pairs. [default: all]")
    ] = None,
    min_score: Annotated[float | None, typer.Option(help="Leave out neighbours that score less.")] = None,
    with_self: Annotated[
        bool, typer.Option("--with-self", help="Let each image be among its own neighbours, as one of the k.")
    ] = False,
    where: Where = None,
    snapshot: SnapshotFolder = None,
    force: Force = False,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Write the k nearest neighbours of every image of a collection, found by comparing all with all.

    One record for each image: {"id": ..., "neighbors": [{"id": ..., "score": ...}, ...]}, the nearest first, equal
    ones by id. The score is that of a search: the cosine, the inner product, or 1 / (1 + distance), with the Euclidean
    "distance" beside it.

    A run that was cut off goes on when it is run again: what is done is in FILE.parts until the file is whole.

    Example: imagesearch neighbors images -o neighbors.jsonl

    Example: imagesearch neighbors products -o similar.json -k 20 --id-attribute product_id --round 4 --min-score 0.5
    """
    condition_of(where)
    check_file(output, SUFFIXES, "--output", force=force)
    check_attribute(id_attribute, "--id-attribute")
    # They bring numpy, which takes a while to import.
    from imagesearch_analysis.neighbor_files import RecordOptions, records, write_neighbors  # noqa: PLC0415
    from imagesearch_analysis.neighbors import NeighborParts  # noqa: PLC0415

    begin = time.perf_counter()
    parts = NeighborParts(output)
    with ending_well(), parts.locked():
        with connected(target) as client:
            found = read(client, collection, where, snapshot or parts.snapshot_folder, replace=snapshot is None)
        with found:
            names = _names(found, id_attribute)
            with progress(len(found)) as bar:
                parts.compute(found, k, with_self=with_self, on_progress=bar.reach)
            if parts.dropped:
                err.print(f"{parts.dropped} parts of an earlier run were of another collection, or of other options")
            options = RecordOptions(found.metric, digits, min_score)
            write_neighbors(output, records(names, parts.read(found), options), found.metric)
            images = len(found)
        parts.remove()
    seconds = time.perf_counter() - begin
    if as_json:
        told = {"collection": found.collection, "file": str(output), "images": images, "k": k, "resumed": parts.resumed}
        print(json_text(told | {"seconds": round(seconds, 3)}))
    else:
        resumed = f", {parts.resumed} of them by a run before" if parts.resumed else ""
        out.print(f"{k} neighbours of {images} images in {output}{resumed}; {seconds:.1f} s", soft_wrap=True)


def _names(snapshot: "Snapshot", attribute: str) -> Sequence[str]:
    """What each image is called."""
    if not attribute:
        return snapshot.ids
    names = snapshot.attribute_values(attribute)
    missing = [position for position, name in enumerate(names) if name is None]
    if missing:
        fail(
            f"{len(missing)} of {len(snapshot)} images have no attribute {attribute}, such as "
            f"{snapshot.ids[missing[0]]}; --where {attribute} leaves them out"
        )
    return cast("Sequence[str]", names)
