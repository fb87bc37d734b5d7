"""`imagesearch codes`."""

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from imagesearch_cli.bars import show_progress
from imagesearch_cli.connection import connected
from imagesearch_cli.options import AsJson, Target
from imagesearch_cli.output import confirm, err, out
from imagesearch_client import DEFAULT_TARGET, Client
from imagesearch_client.defaults import MAX_CANDIDATES
from imagesearch_client.types import CodeSet, CodeSetStatus, Encoding
from imagesearch_ingest.json_text import json_text

if TYPE_CHECKING:
    from imagesearch_analysis.codes import Check

MIN_BITS, MAX_BITS, BITS_STEP = 64, 512, 8
MEGABYTE = 1e6

codes_app = typer.Typer(
    help="Keep binary codes of a collection's images, and search by these first: `search --coarse 100`. Needs a Milvus "
    "server.",
    epilog="A code of 256 bits takes 32 bytes, a vector of 512 components 2,048. The codes follow every later write. "
    "Fit them to a few thousand images or more; after much has changed `codes check` tells whether to fit them again.",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection, or an alias of it.")]


@codes_app.command("fit")
def fit_codes(
    collection: Name,
    target: Target = DEFAULT_TARGET,
    bits: Annotated[
        int, typer.Option(min=MIN_BITS, max=MAX_BITS, help="Bits of a code, a multiple of 8; at most the dimension.")
    ] = 256,
    sample: Annotated[int, typer.Option(min=MIN_BITS, help="Images, taken at random, to fit to.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Of what is taken at random.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Fit codes to a collection's vectors (PCA and ITQ), and encode every image.

    Codes that the collection has serve until the new ones are complete. Where it is stopped, `codes encode` goes on.

    Example: imagesearch codes fit shoes --bits 256
    """
    if bits % BITS_STEP:
        raise typer.BadParameter(f"{bits} is no multiple of {BITS_STEP}", param_hint="--bits")
    # NumPy takes a while to import.
    from imagesearch_analysis.codes import fit  # noqa: PLC0415

    with connected(target) as client:
        client.get_codes(collection)
        fitted = fit(client, collection, bits, sample=sample, seed=seed)
        made = client.create_codes(collection, fitted.hyperplanes.tolist())
        err.print(
            f"{bits} bits fitted to {fitted.sample_count} of {fitted.image_count} images: version {made.version}",
            highlight=False,
        )
        _finish(_encoded(client, collection), as_json=as_json)


@codes_app.command("encode")
def encode(collection: Name, target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Encode the images that have no code: go on where `codes fit` was stopped, or mend what a crash left.

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
        out.print(f"{status.collection} has no codes; `imagesearch codes fit {status.collection}` makes them")
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
def check_codes(
    collection: Name,
    target: Target = DEFAULT_TARGET,
    queries: Annotated[int, typer.Option(min=1, max=1000, help="Stored images, taken at random, to look for.")] = 200,
    candidates: Annotated[
        int, typer.Option("--coarse", min=1, max=MAX_CANDIDATES, help="Candidates of each search.")
    ] = 100,
    limit: Annotated[int, typer.Option("--limit", "-k", min=1, max=1000, help="Neighbours of each.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of what is taken at random.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure how many of the true neighbours searches by codes find, and the memory of codes and of vectors.

    All vectors are read once, to know the truth.

    Example: imagesearch codes check shoes --coarse 200
    """
    if candidates < limit:
        raise typer.BadParameter(f"{candidates} are fewer than the {limit} of --limit", param_hint="--coarse")
    # NumPy takes a while to import.
    from imagesearch_analysis.codes import check  # noqa: PLC0415

    with connected(target) as client:
        checked = check(client, collection, queries=queries, candidates=candidates, limit=limit, seed=seed)
    if as_json:
        print(json_text(_check_json(checked)))
        return
    codes, found = checked.status.codes, checked.collection
    out.print(
        f"recall@{checked.limit} {checked.recall:.4f} over {checked.queries} queries (the worst {checked.worst:.2f}), "
        f"{checked.candidates} candidates\n"
        f"codes    {codes.bits:5} bits  {checked.code_bytes / MEGABYTE:9.1f} MB  bin_flat, Hamming; "
        f"{1000 * checked.coarse_seconds:.1f} ms a search\n"
        f"vectors  {found.dimension:5} float {checked.vector_bytes / MEGABYTE:9.1f} MB  {found.index.value}, "
        f"{found.metric.value}; {1000 * checked.fine_seconds:.1f} ms to compare the candidates",
        highlight=False,
        soft_wrap=True,
    )


def _check_json(checked: "Check") -> dict[str, object]:
    return {
        "collection": checked.collection.name,
        "queries": checked.queries,
        "limit": checked.limit,
        "candidates": checked.candidates,
        "recall": checked.recall,
        "worst": checked.worst,
        "codes": _status_json(checked.status),
        "code_bytes": checked.code_bytes,
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
