"""`imagesearch reindex`."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grpc_kit.errors import ServiceError
from imagesearch_cli.connection import connected
from imagesearch_cli.console import FAILED, NAMED, note, show
from imagesearch_cli.option_values import parse_index_parameters
from imagesearch_cli.options import (
    DEFAULT_COLLECTION,
    AsJson,
    ClustersOption,
    CollectionName,
    ConstructionOption,
    EdgesOption,
    IndexOption,
    LedgerFile,
    MaxRegions,
    OpenOption,
    ParallelReads,
    Target,
)
from imagesearch_cli.progress import show_progress
from imagesearch_client import DEFAULT_TARGET, Client
from imagesearch_client.types import Collection, Metric
from imagesearch_ingest.json_text import json_text
from imagesearch_ingest.load.limits import DEFAULT_READERS

if TYPE_CHECKING:
    from imagesearch_ingest.reindex.reindex_report import ReindexReport
    from imagesearch_ingest.reindex.reindexing import Reindexing


def reindex(
    new: Annotated[str, typer.Option("--new", metavar="NAME", help="Name of the collection to create.")],
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    index: IndexOption = None,
    m: EdgesOption = None,
    ef_construction: ConstructionOption = None,
    nlist: ClustersOption = None,
    metric: Annotated[Metric | None, typer.Option(case_sensitive=False, help="How vectors are compared.")] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Another model of the embedder. Reads every image file and embeds it again."),
    ] = None,
    max_regions: MaxRegions = None,
    root: Annotated[
        str,
        typer.Option(metavar="FOLDER", help="With --model: folder or URL that relative uris of images start from."),
    ] = ".",
    alias: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another alias to move to the new collection. May be repeated."),
    ] = None,
    keep_alias: Annotated[
        bool, typer.Option("--keep-alias", help="Do not move the alias that --collection names.")
    ] = False,
    skip_failed: Annotated[
        bool,
        typer.Option(
            "--skip-failed",
            help="Move the aliases even if some images could not be copied; never if none could.",
        ),
    ] = False,
    opens: OpenOption = None,
    ledger: LedgerFile = None,
    parallel_reads: ParallelReads = DEFAULT_READERS,
    as_json: AsJson = False,
) -> None:
    """Copy a collection into a new one with another index, metric or model, then move its alias.

    The command copies vectors, attributes and everything else. Only another model, or more regions, reads the image
    files again. Writes
    and deletes may continue during the copy, and none is lost; writers wait for a moment while the alias moves. The
    alias moves only if every image was copied. The old collection stays until you delete it. If the command is
    interrupted, run it again: it resumes.

    Example: imagesearch reindex -c shop --new shop_2 --index hnsw --m 32
    """
    # Sources and ledgers take a while to import.
    from imagesearch_ingest.reindex.new_collection import Change, check_aliases, create_new_collection  # noqa: PLC0415
    from imagesearch_ingest.reindex.reindexing import Reindexing  # noqa: PLC0415

    change = Change(model, index, parse_index_parameters(m, ef_construction, nlist), metric, max_regions)
    with connected(target) as client, show_progress() as progress:
        old = client.get_collection(collection)
        aliases = [*(alias or []), *([] if keep_alias or old.name == collection else [collection])]
        check_aliases(client, aliases)
        made = create_new_collection(client, old, new, change)
        progress.start(client.count(old.name))
        reindexing = Reindexing(client, old, made, root, progress.step, readers=parallel_reads, opens=opens or ())
        with _empty_copy_noted(client, made), closing(reindexing):
            reindexing.copy()
            report = reindexing.report
            if report.complete or (skip_failed and not report.differences and report.count):
                reindexing.move(aliases, allow_fewer=skip_failed)
                _transfer_ledgers(reindexing, old, made, ledger)
    _show(report, as_json=as_json)
    if not report.finished:
        note(
            f"No alias was moved; {report.source} is unchanged. Run the command again to retry, or delete the copy: "
            f"`imagesearch collections delete {new}`."
        )
    if not report.finished or (report.failed and not skip_failed):
        raise typer.Exit(FAILED)


@contextmanager
def _empty_copy_noted(client: Client, made: Collection) -> Iterator[None]:
    """Name the new collection if an error ends the command before an image is in it: the collection stays."""
    try:
        yield
    except (ServiceError, KeyboardInterrupt):
        with suppress(ServiceError):
            if not client.count(made.name):
                note(f"{made.name} is empty; `imagesearch collections delete {made.name}` deletes it")
        raise


def _transfer_ledgers(reindexing: "Reindexing", old: Collection, new: Collection, ledger: Path | None) -> None:
    """Copy the ledgers of loads to the new collection, so that the next load skips its images."""
    from imagesearch_ingest.load.ledger_database import LedgerError  # noqa: PLC0415 - as above
    from imagesearch_ingest.load.ledger_files import transfer_default_ledgers  # noqa: PLC0415 - as above
    from imagesearch_ingest.load.ledger_transfer import transfer_ledger  # noqa: PLC0415 - as above

    missing = [result.id for result in reindexing.report.failed]
    try:
        if ledger is not None:
            transfer_ledger(ledger, ledger, old, new, missing, reindexing.copied_until)
        transferred = transfer_default_ledgers(old, new, missing, reindexing.copied_until)
        errors = [found.error for found in transferred]
        if ledger is None and not transferred and reindexing.report.moved:
            note(
                f"This machine has no ledger of {old.name}. On a machine with one, the next ingest through the alias "
                f"compares the ledger with {new.name} and continues with it."
            )
    except LedgerError as error:
        errors = [str(error)]
    for problem in filter(None, errors):
        note(
            "A ledger was not copied. The next load through an alias that moved continues with the ledger; any other "
            f"load starts again: {problem}",
            "yellow",
        )


def _show(report: "ReindexReport", *, as_json: bool) -> None:
    if as_json:
        print(json_text(report.as_json()))
    else:
        how = "embedded again" if report.embedded_anew else "vectors copied"
        show(f"{report.collection}: {report.count} images of {report.source_count} in {report.source}; {how}")
        for name in report.moved:
            show(f"{name} -> {report.collection}")
    for result in report.failed[:NAMED]:
        note(f"{result.id}: {result.error}", "red")
    if len(report.failed) > NAMED:
        note(f"and {len(report.failed) - NAMED} more; --json lists all")
