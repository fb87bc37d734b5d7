"""What `imagesearch ingest` and `imagesearch import` check and open before a load, and check after it."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from grpc_kit.errors import ServiceError
from imagesearch_cli.connection import calling
from imagesearch_cli.console import err, note
from imagesearch_cli.load_summary import print_gone
from imagesearch_cli.progress import Display
from imagesearch_client import Client
from imagesearch_client.environment import EMBEDDER_TOKEN, TOKEN, tls_from_environment
from imagesearch_client.types import Collection
from imagesearch_ingest.load.bulk_clients import Endpoint
from imagesearch_ingest.load.rejects_file import RejectsFile, can_replace
from imagesearch_ingest.load.report import FORMAT_UNSUPPORTED, LoadReport, MissingImages
from imagesearch_ingest.sources.items import SkippedFile, SkipReason, Source

if TYPE_CHECKING:
    from imagesearch_ingest.load.load_options import LocalFiles
    from imagesearch_ingest.load.planned_collection import PlannedCollection

# Deadline of a dry run's call to the search service, which a dry run can do without.
DRY_RUN_SECONDS = 5.0


def search_endpoint(target: str) -> Endpoint:
    """Return the search service's address, with TLS and token from the environment."""
    return Endpoint(target, tls_from_environment(), os.environ.get(TOKEN, ""))


def embedder_endpoint(address: str, token: str | None = None) -> Endpoint:
    """Return an embedder's address, with TLS from the environment.

    The token is `token`, or IMAGESEARCH_EMBEDDER_TOKEN if it is None; never the search service's.
    """
    return Endpoint(address, tls_from_environment(), os.environ.get(EMBEDDER_TOKEN, "") if token is None else token)


def confirm_prune(display: Display, gone: Sequence[MissingImages]) -> bool:
    """Ask on the terminal whether to delete images that the sources no longer have."""
    with display.hidden():
        for each in gone:
            share = f"{100 * each.share:.3g} %"
            note(f"{each.count} of the {each.known} images of {each.source} are no longer there ({share}):")
            print_gone(each)
        try:
            return typer.confirm(f"Delete {sum(each.count for each in gone)} images from the collection?", err=True)
        except typer.Abort:
            # The end of input is not consent. The load still reports what it has done.
            err.print()
            return False


def check_rejects(rejects: Path | None, sources: Sequence[str | Path]) -> None:
    """Check that --rejects replaces neither a source nor a file that holds no rejects."""
    for source in sources:
        if rejects is not None and rejects.exists() and Path(source).exists() and rejects.samefile(source):
            raise typer.BadParameter(f"{rejects} is a source and would be lost; name another file")
    if rejects is not None and not can_replace(rejects):
        raise typer.BadParameter(
            f"{rejects} exists and is not a file of rejects; name another file, or delete it", param_hint="--rejects"
        )


def note_waiting(what: str) -> None:
    """Print what a command waits for before its load begins."""
    if what:
        note(f"waiting for {what}")


def load_files(
    client: Client,
    name: str,
    into: "Collection | PlannedCollection",
    ledger: Path | None,
    rejects: Path | None,
    *,
    restart: bool,
) -> "LocalFiles":
    """Return the ledger and the rejects file of a load into the collection or alias `name`."""
    from imagesearch_ingest.load.ledger_files import ledger_for_load  # noqa: PLC0415 - as above
    from imagesearch_ingest.load.load_options import LocalFiles  # noqa: PLC0415 - Pillow takes a while to import

    path = ledger_for_load(client, name, into, client.target, ledger, note, restart=restart)
    return LocalFiles(path, rejects, restart, alias=name)


def dry_run_files(name: str, target: str, ledger: Path | None, rejects: Path | None, *, restart: bool) -> "LocalFiles":
    """Return the files of a dry run, as `load_files` does. The search service may be unavailable."""
    from imagesearch_ingest.load.ledger_files import ledger_for_dry_run  # noqa: PLC0415 - as above
    from imagesearch_ingest.load.load_options import LocalFiles  # noqa: PLC0415 - Pillow takes a while to import

    with calling(target, timeout=DRY_RUN_SECONDS) as client:
        return LocalFiles(ledger_for_dry_run(client, name, target, ledger, note, restart=restart), rejects, restart)


def check_end(client: Client, name: str, into: "Collection | PlannedCollection", report: LoadReport) -> None:
    """Report an alias that moved during the load, and a new collection that has no image."""
    # The collection may not have been created. If the service is unavailable, the report says so.
    with suppress(ServiceError):
        found = client.get_collection(name)
        if isinstance(into, Collection):
            if found.name != into.name and not report.stopped:
                report.stopped = (
                    f"COLLECTION_MOVED: the alias {name} pointed at {into.name} when the load began, and points at "
                    f"{found.name} now"
                )
        elif not report.stored and not client.count(name):
            note(f"{name} was created and has no image; `imagesearch collections delete {name}` deletes it")


def has_items(sources: Iterable[Source], report: LoadReport) -> bool:
    """Return whether the sources list an item or an error; if not, count their other files in `report`."""
    seen = LoadReport()
    for found in (found for source in sources for found in source):
        if not isinstance(found, SkippedFile):
            return True
        seen.add_skipped_file(found)
    report.unsupported_suffixes = seen.unsupported_suffixes
    report.system_files, report.other_files = seen.system_files, seen.other_files
    return False


def write_unsupported(sources: Iterable[Source], rejects: Path | None) -> None:
    """Write the rejects of sources without any image. Raises OSError and LoadStoppedError."""
    with RejectsFile(rejects) as file:
        for found in (found for source in sources for found in source):
            if isinstance(found, SkippedFile) and found.reason is SkipReason.UNSUPPORTED:
                file.write(found, FORMAT_UNSUPPORTED, found.message)
