"""`imagesearch codes`."""

import dataclasses
from typing import Annotated

import typer

from imagesearch_cli.bars import show_progress
from imagesearch_cli.connection import connected
from imagesearch_cli.options import AsJson, Target
from imagesearch_cli.output import confirm, err, out
from imagesearch_cli.snapshots import SnapshotFolder, ending_well, progress, snapshot_of
from imagesearch_client import DEFAULT_TARGET, Client
from imagesearch_client.defaults import MAX_CANDIDATES
from imagesearch_client.types import CodeSet, CodeSetStatus, Encoding
from imagesearch_ingest.json_text import json_text

MIN_BITS, MAX_BITS, BITS_STEP = 64, 512, 8
MEGABYTE = 1e6

codes_app = typer.Typer(
    help="Keep binary codes of a collection's images, and search by these first: `search --coarse 100`. Needs a Milvus "
    "server.",
    epilog="A code of 256 bits takes 32 bytes, a vector of 512 components 2,048. The codes follow every later write. "
    "`codes check` measures what they find.",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection, or an alias of it.")]


@codes_app.command("create")
def create_codes(
    collection: Name,
    target: Target = DEFAULT_TARGET,
    bits: Annotated[
        int, typer.Option(min=MIN_BITS, max=MAX_BITS, help="Bits of a code, a multiple of 8; at most the dimension.")
    ] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random hyperplanes.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Create codes by random hyperplanes through the mean of all vectors, and encode every image.

    The present codes of the collection are used until the new ones are complete. After a stop, `codes encode` resumes.

    Example: imagesearch codes create shoes --bits 256
    """
    if bits % BITS_STEP:
        raise typer.BadParameter(f"{bits} is not a multiple of {BITS_STEP}", param_hint="--bits")
    # NumPy takes a while to import.
    from imagesearch_analysis.codes import mean_vector, random_hyperplanes  # noqa: PLC0415

    with ending_well(), connected(target) as client:
        total = client.get_codes(collection).image_count
        with progress(total) as bar:
            mean = mean_vector(client, collection, bar.reach)
        created = client.create_codes(collection, random_hyperplanes(mean, bits, seed).tolist())
        err.print(f"created codes of {bits} bits: version {created.version}", highlight=False)
        _finish(_encoded(client, collection), as_json=as_json)


@codes_app.command("encode")
def encode(collection: Name, target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Encode the images that have no code: go on where `codes create` was stopped, or mend what a crash left.

    Example: imagesearch codes encode shoes
    """
    with connected(target) as client:
        _finish(_encoded(client, collection), as_json=as_json)


def _encoded(client: Client, collection: str) -> Encoding:
    """The end of an encoding, after a bar that shows how far it is."""
    with show_progress(err) as bar:
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
    removed = f", {step.removed} without an image removed" if step.removed else ""
    out.print(f"{step.encoded} images encoded{removed}; searches can use the codes: --coarse 100", highlight=False)


@codes_app.command("status")
def show_status(collection: Name, target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Show what codes a collection has, and how many of its images are encoded.

    Example: imagesearch codes status shoes
    """
    with connected(target) as client:
        status = client.get_codes(collection)
    if as_json:
        sets = [_status_json(codes) for codes in status.sets]
        print(json_text({"collection": status.collection, "images": status.image_count, "sets": sets}))
        return
    if not status.sets:
        out.print(f"{status.collection} has no codes; `imagesearch codes create {status.collection}` makes them")
    for codes in status.sets:
        state = (
            "ready" if codes.codes.ready else f"not complete; `imagesearch codes encode {status.collection}` goes on"
        )
        out.print(
            f"{codes.codes.bits} bits, version {codes.codes.version} (number {codes.codes.number}): {codes.code_count} "
            f"codes of {status.image_count} images, {codes.code_bytes / MEGABYTE:.1f} MB; {state}",
            highlight=False,
            soft_wrap=True,
        )


@codes_app.command("drop")
def drop(
    collection: Name,
    target: Target = DEFAULT_TARGET,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a collection's codes; its images stay as they are.

    Example: imagesearch codes drop shoes --yes
    """
    with connected(target) as client:
        if not yes:
            confirm(f"Remove the codes of {collection}?")
        client.delete_codes(collection)
    out.print(f"removed the codes of {collection}", highlight=False)


@codes_app.command("check")
def check(
    collection: Name,
    target: Target = DEFAULT_TARGET,
    queries: Annotated[int, typer.Option(min=1, max=1000, help="Number of random stored images to search for.")] = 200,
    candidates: Annotated[
        int, typer.Option("--coarse", min=1, max=MAX_CANDIDATES, help="Number of candidates of each search.")
    ] = 100,
    limit: Annotated[
        int, typer.Option("--limit", "-k", min=1, max=1000, help="Number of true neighbours of each query.")
    ] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random queries.")] = 0,
    snapshot: SnapshotFolder = None,
    as_json: AsJson = False,
) -> None:
    """Measure how many true neighbours searches by codes find, and the memory of codes and of vectors.

    Reads all vectors once, to find the true neighbours by exact search.

    Example: imagesearch codes check shoes --coarse 200
    """
    if candidates < limit:
        raise typer.BadParameter(f"{candidates} is below the {limit} of --limit", param_hint="--coarse")
    # NumPy takes a while to import.
    from imagesearch_analysis.codes import check_codes  # noqa: PLC0415

    with connected(target) as client:
        client.get_codes(collection)
    with (
        snapshot_of(target, collection, None, snapshot) as found,
        connected(target) as client,
        progress(min(queries, len(found))) as bar,
    ):
        checked = check_codes(
            client, found, queries=queries, candidates=candidates, limit=limit, seed=seed, on_progress=bar.reach
        )
    status, stored = checked.status, checked.collection
    recall, worst = float(checked.recalls.mean()), float(checked.recalls.min())
    if as_json:
        report = {
            "collection": stored.name,
            "queries": len(checked.recalls),
            "limit": limit,
            "candidates": candidates,
            "recall": recall,
            "worst": worst,
            "codes": _status_json(status),
            "code_bytes": status.code_bytes,
            "code_index": "bin_flat",
            "vector_bytes": checked.vector_bytes,
            "vector_index": stored.index.value,
            "coarse_seconds": checked.coarse_seconds,
            "fine_seconds": checked.fine_seconds,
        }
        print(json_text(report))
        return
    out.print(
        f"recall@{limit} {recall:.4f} over {len(checked.recalls)} queries (the worst {worst:.2f}), {candidates} "
        "candidates\n"
        f"codes    {status.codes.bits:5} bits  {status.code_bytes / MEGABYTE:9.1f} MB  bin_flat, Hamming; "
        f"{1000 * checked.coarse_seconds:.1f} ms a search\n"
        f"vectors  {stored.dimension:5} float {checked.vector_bytes / MEGABYTE:9.1f} MB  {stored.index.value}, "
        f"{stored.metric.value}; {1000 * checked.fine_seconds:.1f} ms to compare the candidates",
        highlight=False,
        soft_wrap=True,
    )


def _status_json(status: CodeSetStatus) -> dict[str, object]:
    return _set_json(status.codes) | {"code_count": status.code_count, "code_bytes": status.code_bytes}


def _set_json(codes: CodeSet) -> dict[str, object]:
    return dataclasses.asdict(codes) | {"create_time": codes.create_time.isoformat()}
