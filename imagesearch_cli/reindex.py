"""`imagesearch reindex`."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from grpc_kit.errors import ServiceError
from imagesearch_cli.bars import show_progress
from imagesearch_cli.connection import connected
from imagesearch_cli.loading import LedgerFile, ReadersOption
from imagesearch_cli.options import (
    AsJson,
    CandidatesOption,
    ClustersOption,
    EdgesOption,
    IndexOption,
    OpenOption,
    Target,
    index_parameters_of,
)
from imagesearch_cli.output import SHOWN_REJECTS, err, out
from imagesearch_client import DEFAULT_TARGET, Client
from imagesearch_client.types import Collection, Metric
from imagesearch_ingest.json_text import json_text
from imagesearch_ingest.load.image_reader import DEFAULT_READERS
from imagesearch_ingest.load.ledger_database import LedgerError
from imagesearch_ingest.load.ledger_files import transfer_default_ledgers
from imagesearch_ingest.load.ledger_transfer import transfer_ledger
from imagesearch_ingest.reindex import Change, Reindexing, ReindexReport, check_aliases, make_new


def reindex(
    source: Annotated[str, typer.Argument(help="The collection, or an alias of it, which is moved then.")],
    new: Annotated[str, typer.Argument(help="The collection to make.")],
    target: Target = DEFAULT_TARGET,
    index: IndexOption = None,
    m: EdgesOption = None,
    ef_construction: CandidatesOption = None,
    nlist: ClustersOption = None,
    metric: Annotated[Metric | None, typer.Option(case_sensitive=False, help="How vectors are compared.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Another model of the embedder: every image's file is read and embedded anew.")
    ] = None,
    root: Annotated[
        str, typer.Option(help="Where relative uris begin, a folder or a URL, to find the files for --model.")
    ] = ".",
    alias: Annotated[list[str] | None, typer.Option(help="An alias to point at the new collection.")] = None,
    keep_alias: Annotated[bool, typer.Option("--keep-alias", help="Leave SOURCE where it points.")] = False,
    skip_failed: Annotated[
        bool,
        typer.Option(
            "--skip-failed",
            help="Move the alias though images could not be written. It never moves to no image at all.",
        ),
    ] = False,
    opens: OpenOption = None,
    ledger: LedgerFile = None,
    readers: ReadersOption = DEFAULT_READERS,
    as_json: AsJson = False,
) -> None:
    """Build a collection anew beside the old one, with another index, metric or model, and move the alias to it.

    Vectors, attributes and the rest are copied; only another model reads the images' files again, from wherever ingest
    read them. Writes and deletes may go on meanwhile: none of them is lost, and writers wait for a moment while the
    alias moves. The alias moves only if every image was copied. The old collection stays until you remove it. If the
    command was interrupted, run it again: it resumes.
    """
    change = Change(model, index, index_parameters_of(m, ef_construction, nlist), metric)
    with connected(target) as client, show_progress(err) as progress:
        old = client.get_collection(source)
        aliases = [*(alias or []), *([] if keep_alias or old.name == source else [source])]
        check_aliases(client, aliases)
        made = make_new(client, old, new, change)
        progress.start(client.count(old.name))
        reindexing = Reindexing(client, old, made, root, progress.step, readers=readers, opens=opens or ())
        with _empty_copy_named(client, made), closing(reindexing):
            reindexing.copy()
            report = reindexing.report
            if report.complete or (skip_failed and not report.differences and report.count):
                reindexing.move(aliases, allow_fewer=skip_failed)
                _hand_on(reindexing, old, made, ledger)
    _show(report, as_json=as_json)
    if not report.finished:
        err.print(f"no alias was moved; {report.source} is as it was. Run the command again to try the rest again, or")
        err.print(f"`collections delete {new}` removes the copy")
    if not report.finished or (report.failed and not skip_failed):
        raise typer.Exit(1)


@contextmanager
def _empty_copy_named(client: Client, made: Collection) -> Iterator[None]:
    """Name the copy if an error ends the command before an image is in it: it was made, and stays."""
    try:
        yield
    except (ServiceError, KeyboardInterrupt):
        with suppress(ServiceError):
            if not client.count(made.name):
                err.print(f"{made.name} is empty; `imagesearch collections delete {made.name}` removes it")
        raise


def _hand_on(reindexing: Reindexing, old: Collection, new: Collection, ledger: Path | None) -> None:
    """Give the accounts of loads to the new collection, so that the next load skips what is there."""
    missing = [result.id for result in reindexing.report.failed]
    try:
        if ledger is not None:
            transfer_ledger(ledger, ledger, old, new, missing, reindexing.copied_until)
        handed = transfer_default_ledgers(old, new, missing, reindexing.copied_until)
        errors = [found.error for found in handed]
        if ledger is None and not handed and reindexing.report.moved:
            err.print(
                f"this machine has no ledger of {old.name}; on a machine that has one, the next ingest through the "
                f"alias compares it with {new.name} and goes on with it",
                soft_wrap=True,
            )
    except LedgerError as error:
        errors = [str(error)]
    for problem in filter(None, errors):
        later = "the next load through an alias that moved goes on with it, and any other one begins anew"
        err.print(Text(f"a ledger was not handed on; {later}: {problem}"), style="yellow", soft_wrap=True)


def _show(report: ReindexReport, *, as_json: bool) -> None:
    if as_json:
        print(json_text(report.as_json()))
    else:
        how = "embedded anew" if report.embedded_anew else "vectors copied"
        out.print(f"{report.collection}: {report.count} images of {report.source_count} in {report.source}; {how}")
        for name in report.moved:
            out.print(f"{name} -> {report.collection}", highlight=False)
    for result in report.failed[:SHOWN_REJECTS]:
        err.print(Text(f"{result.id}: {result.error}"), style="red")
    if len(report.failed) > SHOWN_REJECTS:
        err.print(f"and {len(report.failed) - SHOWN_REJECTS} more; --json lists all")
