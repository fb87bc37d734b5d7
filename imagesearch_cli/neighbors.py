"""`imagesearch neighbors`."""

import time
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from imagesearch_cli.connection import connected
from imagesearch_cli.console import fail, note, show
from imagesearch_cli.option_values import check_attribute_name, parse_where
from imagesearch_cli.options import (
    DEFAULT_COLLECTION,
    AsJson,
    CollectionName,
    Force,
    SnapshotFolder,
    Target,
    Where,
    limit_option,
    output_option,
)
from imagesearch_cli.progress import show_progress
from imagesearch_cli.snapshots import analysis_errors, check_file, read_snapshot
from imagesearch_client import DEFAULT_TARGET
from imagesearch_ingest.json_text import json_text

if TYPE_CHECKING:
    from imagesearch_analysis.snapshot import Snapshot


class NeighborFormat(Enum):
    """The format of a file of neighbors."""

    JSON = "json"
    JSONL = "jsonl"
    PARQUET = "parquet"
    CSV = "csv"


SUFFIXES = tuple(f".{file_format.value}" for file_format in NeighborFormat)


def neighbors(
    output: Annotated[
        Path, output_option("File to write: .json, .jsonl, .parquet or .csv, or any file with --format.")
    ],
    collection: CollectionName = DEFAULT_COLLECTION,
    file_format: Annotated[
        NeighborFormat | None,
        typer.Option("--format", case_sensitive=False, help="Format of the file. [default: by its suffix]"),
    ] = None,
    limit: Annotated[int, limit_option("Number of neighbors of each image.", 1000)] = 10,
    id_attribute: Annotated[
        str, typer.Option(metavar="NAME", help="Attribute to write instead of the ids, such as product_id.")
    ] = "",
    decimals: Annotated[
        int | None, typer.Option(min=0, max=15, metavar="N", help="Decimal places of the scores. [default: all]")
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(metavar="SCORE", help="Leave out neighbors with lower scores.")
    ] = None,
    include_self: Annotated[
        bool, typer.Option("--include-self", help="Keep each image among its own neighbors, as one of --limit.")
    ] = False,
    where: Where = None,
    snapshot: SnapshotFolder = None,
    force: Force = False,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Write the nearest neighbors of every image in a collection. The search is exact.

    The file has a record for each image: {"id": ..., "neighbors": [{"id": ..., "score": ...}, ...]}. The nearest
    neighbor comes first; neighbors with equal scores are sorted by id. The score is that of a search: the cosine, the
    inner product, or 1 / (1 + distance), with the Euclidean "distance" beside it.

    If the command is interrupted, run it again: it resumes from the folder FILE.parts.

    Example: imagesearch neighbors -c images -o neighbors.jsonl

    Example: imagesearch neighbors -c products -o similar.json -k 20 --id-attribute product_id --decimals 4
    """
    parse_where(where)
    check_file(output, SUFFIXES if file_format is None else None, "--output", force=force)
    check_attribute_name(id_attribute, "--id-attribute")
    # NumPy takes a while to import.
    from imagesearch_analysis.neighbor_files import RecordOptions, records, write_neighbors  # noqa: PLC0415
    from imagesearch_analysis.neighbors import NeighborParts  # noqa: PLC0415

    begin = time.perf_counter()
    parts = NeighborParts(output)
    with analysis_errors(), parts.locked():
        with connected(target) as client:
            found = read_snapshot(
                client, collection, where, snapshot or parts.snapshot_folder, replace=snapshot is None
            )
        with found:
            names = _names(found, id_attribute)
            with show_progress(len(found)) as bar:
                parts.compute(found, limit, with_self=include_self, on_progress=bar.reach)
            if parts.dropped:
                note(f"{parts.dropped} parts of an earlier run belong to another collection or to other options")
            options = RecordOptions(found.metric, decimals, min_score)
            chosen = "" if file_format is None else file_format.value
            write_neighbors(output, records(names, parts.read(found), options), found.metric, chosen)
            images = len(found)
        parts.remove()
    seconds = time.perf_counter() - begin
    if as_json:
        summary = {"collection": found.collection, "file": str(output), "images": images, "k": limit}
        print(json_text(summary | {"resumed": parts.resumed, "seconds": round(seconds, 3)}))
    else:
        resumed = f", {parts.resumed} of them from an earlier run" if parts.resumed else ""
        show(f"{limit} neighbors of {images} images in {output}{resumed}; {seconds:.1f} s")


def _names(snapshot: "Snapshot", attribute: str) -> Sequence[str]:
    """Return what to write for each image: its id, or the value of an attribute."""
    if not attribute:
        return snapshot.ids
    names = snapshot.attribute_values(attribute)
    missing = [position for position, name in enumerate(names) if name is None]
    if missing:
        fail(
            f"{len(missing)} of {len(snapshot)} images have no attribute {attribute}, such as "
            f"{snapshot.ids[missing[0]]}",
            f"--where {attribute} leaves them out.",
        )
    return cast("Sequence[str]", names)
