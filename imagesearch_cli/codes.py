"""`imagesearch codes`."""

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from imagesearch_cli.connection import connected
from imagesearch_cli.console import confirm, note, show
from imagesearch_cli.options import (
    DEFAULT_COLLECTION,
    AsJson,
    CodeCandidates,
    CollectionName,
    SnapshotFolder,
    Target,
    Yes,
    limit_option,
    seed_option,
)
from imagesearch_cli.progress import show_progress
from imagesearch_cli.snapshots import analysis_errors, snapshot_of
from imagesearch_cli.typer_app import App
from imagesearch_client import DEFAULT_TARGET, Client
from imagesearch_client.types import CodeSet, CodeSetStatus, Encoding
from imagesearch_ingest.json_text import json_text

if TYPE_CHECKING:
    from imagesearch_analysis.codes import CodesCheck

MIN_BITS, MAX_BITS, BITS_STEP = 64, 512, 8
DEFAULT_CANDIDATES = 100
MEGABYTE = 1e6

codes_app = App(
    help="Manage binary codes, which make searches smaller: `search --code-candidates 100`. Needs a Milvus server.",
    epilog="A code of 256 bits takes 32 bytes; a vector of 512 components takes 2,048. Every later write updates the "
    "codes. `codes check` measures what they find.",
    no_args_is_help=True,
)


@codes_app.command("create")
def create_codes(
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    bits: Annotated[
        int,
        typer.Option(
            min=MIN_BITS,
            max=MAX_BITS,
            metavar="N",
            help="Bits of a code: a multiple of 8, at most the dimension of the vectors.",
        ),
    ] = 256,
    seed: Annotated[int, seed_option("Seed of the random hyperplanes.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Create codes by random hyperplanes through the mean of all vectors, and encode every image.

    Searches use the collection's earlier codes until the new ones are complete. If the command is interrupted, `codes
    update` resumes.

    Example: imagesearch codes create -c shoes --bits 256
    """
    if bits % BITS_STEP:
        raise typer.BadParameter(f"{bits} is not a multiple of {BITS_STEP}", param_hint="--bits")
    # NumPy takes a while to import.
    from imagesearch_analysis.codes import mean_vector, random_hyperplanes  # noqa: PLC0415

    with analysis_errors(), connected(target) as client:
        with show_progress(client.get_codes(collection).image_count) as bar:
            mean = mean_vector(client, collection, bar.reach)
        created = client.create_codes(collection, random_hyperplanes(mean, bits, seed).tolist())
        note(f"created codes of {bits} bits: version {created.version}")
        _finish(_encode(client, collection), as_json=as_json)


@codes_app.command("update")
def update_codes(
    collection: CollectionName = DEFAULT_COLLECTION, target: Target = DEFAULT_TARGET, as_json: AsJson = False
) -> None:
    """Encode the images that have no code, after an interrupted `codes create` or a crash.

    Example: imagesearch codes update -c shoes
    """
    with connected(target) as client:
        _finish(_encode(client, collection), as_json=as_json)


def _encode(client: Client, collection: str) -> Encoding:
    """Encode the images without a code, show the progress, and return the last step."""
    with show_progress() as bar:
        steps = client.encode_images(collection)
        step = next(steps)
        bar.start(step.image_count)
        for step in steps:
            bar.reach(min(step.checked, step.image_count))
    return step


def _finish(step: Encoding, *, as_json: bool) -> None:
    if as_json:
        codes = _set_json(step.codes) if step.codes else None
        print(json_text({"encoded": step.encoded, "removed": step.removed, "codes": codes}))
        return
    removed = f", {step.removed} codes without an image deleted" if step.removed else ""
    show(f"{step.encoded} images encoded{removed}; `search --code-candidates 100` uses the codes")


@codes_app.command("get")
def get_codes(
    collection: CollectionName = DEFAULT_COLLECTION, target: Target = DEFAULT_TARGET, as_json: AsJson = False
) -> None:
    """Show a collection's codes, and how many of its images are encoded.

    Example: imagesearch codes get -c shoes
    """
    with connected(target) as client:
        status = client.get_codes(collection)
    if as_json:
        sets = [_status_json(codes) for codes in status.sets]
        print(json_text({"collection": status.collection, "images": status.image_count, "sets": sets}))
        return
    if not status.sets:
        show(f"{status.collection} has no codes; `imagesearch codes create -c {status.collection}` creates them")
    for codes in status.sets:
        state = (
            "ready" if codes.codes.ready else f"incomplete; `imagesearch codes update -c {status.collection}` resumes"
        )
        show(
            f"{codes.codes.bits} bits, version {codes.codes.version} (number {codes.codes.number}): {codes.code_count} "
            f"codes of {status.image_count} images, {codes.code_bytes / MEGABYTE:.1f} MB; {state}"
        )


@codes_app.command("delete")
def delete_codes(
    collection: CollectionName = DEFAULT_COLLECTION, target: Target = DEFAULT_TARGET, yes: Yes = False
) -> None:
    """Delete a collection's codes; its images stay.

    Example: imagesearch codes delete -c shoes --yes
    """
    with connected(target) as client:
        if not yes:
            confirm(f"Delete the codes of {collection}?")
        client.delete_codes(collection)
    show(f"deleted the codes of {collection}")


@codes_app.command("check")
def check_codes(
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    queries: Annotated[
        int,
        typer.Option(min=1, max=1000, metavar="N", help="Number of stored images to search for, sampled at random."),
    ] = 200,
    code_candidates: CodeCandidates = DEFAULT_CANDIDATES,
    limit: Annotated[int, limit_option("Number of neighbors of each image.", 1000)] = 10,
    seed: Annotated[int, seed_option("Seed of the random sample.")] = 0,
    snapshot: SnapshotFolder = None,
    as_json: AsJson = False,
) -> None:
    """Measure how many of the true neighbors searches with codes find, and how much memory codes and vectors need.

    Reads all vectors once to find the true neighbors.

    Example: imagesearch codes check -c shoes --code-candidates 200
    """
    candidates = code_candidates or DEFAULT_CANDIDATES
    if candidates < limit:
        raise typer.BadParameter(
            f"{candidates} is less than --limit {limit}; it must be at least as high", param_hint="--code-candidates"
        )
    # NumPy takes a while to import.
    from imagesearch_analysis.codes import check_codes as check  # noqa: PLC0415

    with connected(target) as client:
        client.get_codes(collection)
    with (
        snapshot_of(target, collection, None, snapshot) as found,
        connected(target) as client,
        show_progress(min(queries, len(found))) as bar,
    ):
        checked = check(
            client, found, queries=queries, candidates=candidates, limit=limit, seed=seed, on_progress=bar.reach
        )
    report = _check_json(checked, limit, candidates)
    if as_json:
        print(json_text(report))
        return
    codes, stored = checked.status.codes, checked.collection
    show(
        f"recall@{limit} {report['recall']:.4f} over {report['queries']} queries (lowest {report['worst']:.2f}), "
        f"{candidates} candidates\n"
        f"codes    {codes.bits:5} bits  {checked.status.code_bytes / MEGABYTE:9.1f} MB  bin_flat, Hamming; "
        f"{1000 * checked.coarse_seconds:.1f} ms a search\n"
        f"vectors  {stored.dimension:5} float {checked.vector_bytes / MEGABYTE:9.1f} MB  {stored.index.value}, "
        f"{stored.metric.value}; {1000 * checked.fine_seconds:.1f} ms to re-rank the candidates"
    )


def _check_json(checked: "CodesCheck", limit: int, candidates: int) -> dict[str, object]:
    return {
        "collection": checked.collection.name,
        "queries": len(checked.recalls),
        "limit": limit,
        "candidates": candidates,
        "recall": float(checked.recalls.mean()),
        "worst": float(checked.recalls.min()),
        "codes": _status_json(checked.status),
        "code_bytes": checked.status.code_bytes,
        "code_index": "bin_flat",
        "vector_bytes": checked.vector_bytes,
        "vector_index": checked.collection.index.value,
        "coarse_seconds": checked.coarse_seconds,
        "fine_seconds": checked.fine_seconds,
    }


def _status_json(status: CodeSetStatus) -> dict[str, object]:
    return _set_json(status.codes) | {"code_count": status.code_count, "code_bytes": status.code_bytes}


def _set_json(codes: CodeSet) -> dict[str, object]:
    return dataclasses.asdict(codes) | {"create_time": codes.create_time.isoformat()}
