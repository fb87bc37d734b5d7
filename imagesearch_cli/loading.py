"""What `imagesearch ingest` and `imagesearch import` share: options, the end, and its exit code."""

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.text import Text

from grpc_kit.errors import ServiceError
from imagesearch_cli.connection import calling
from imagesearch_cli.load_progress import LoadProgress
from imagesearch_cli.output import SHOWN_REJECTS, err, out
from imagesearch_client import Client
from imagesearch_client.environment import EMBEDDER_TOKEN, TOKEN, tls_from_environment
from imagesearch_client.types import Collection
from imagesearch_ingest.json_text import json_text
from imagesearch_ingest.load.bulk_clients import Endpoint
from imagesearch_ingest.load.image_reader import MAX_READERS
from imagesearch_ingest.load.rejects_file import RejectsFile, can_replace
from imagesearch_ingest.load.report import FORMAT_UNSUPPORTED, LoadReport, MissingImages
from imagesearch_ingest.sources.file_errors import without_password
from imagesearch_ingest.sources.image_formats import SUPPORTED_SUFFIXES, describe_unsupported
from imagesearch_ingest.sources.items import SkippedFile, SkipReason, Source

if TYPE_CHECKING:
    from imagesearch_ingest.load.load_options import LocalFiles
    from imagesearch_ingest.load.planned_collection import PlannedCollection

# Exit codes beside 0. Typer has 2 for a wrong command line.
TOO_MANY_FAILED, STOPPED, INTERRUPTED = 1, 3, 130
# How long a dry run waits for the search service, which it can do without.
ASKED_SECONDS = 5.0

LedgerFile = Annotated[
    Path | None,
    typer.Option(
        "--ledger",
        help="The file that accounts for every image, one for each collection. "
        "[default: below ~/.local/state/imagesearch]",
    ),
]
Restart = Annotated[bool, typer.Option("--restart", help="Forget the ledger's account, and load everything again.")]
Replace = Annotated[
    bool,
    typer.Option("--replace", help="Store an image also if another source has a file of the same id, which is stored."),
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Try again what failed in runs before.")]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="Load so many at most; what is skipped does not count.")
]
RejectsOption = Annotated[
    Path | None,
    typer.Option(
        "--rejects",
        dir_okay=False,
        help="Write a line of JSON for each image that is not stored; a source itself. "
        "Replaces the rejects of a run before, and no other file.",
    ),
]
FailAbove = Annotated[
    str, typer.Option("--fail-above", help="How many may fail, as 10 or 1%, before the exit code is 1.")
]
Patience = Annotated[
    float,
    typer.Option(
        "--patience", min=1, help="Seconds to wait for a service before the load ends, and for a file before it fails."
    ),
]
ReadersOption = Annotated[
    int, typer.Option("--readers", min=1, max=MAX_READERS, help="Number of files to read at the same time.")
]
Maps = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        help="COLUMN=ATTRIBUTE takes a column as an attribute of another name, COLUMN= leaves it out. May be repeated.",
    ),
]


def endpoint(target: str) -> Endpoint:
    """The search service as the environment says that it is called."""
    return Endpoint(target, tls_from_environment(), os.environ.get(TOKEN, ""))


def embedder_endpoint(address: str, token: str | None = None) -> Endpoint:
    """An embedder as the environment says that it is called; never with the search service's token.

    `token` is that of an embedder which is not the one of --embedder.
    """
    return Endpoint(address, tls_from_environment(), os.environ.get(EMBEDDER_TOKEN, "") if token is None else token)


def pairs(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    """The COLUMN=NAME of an option, by column."""
    found: dict[str, str] = {}
    for text in texts or ():
        column, equals_sign, name = text.rpartition("=")
        if not equals_sign or not column or column in found:
            raise typer.BadParameter(f"{text!r} should be COLUMN=NAME, and once for each column", param_hint=option)
        found[column] = name
    return found


def share_of(text: str) -> float:
    """The share that an option says, from 0 to 1."""
    is_percent = text.endswith("%")
    with suppress(ValueError):
        number = float(text.removesuffix("%")) / (100 if is_percent else 1)
        if 0 <= number <= 1:
            return number
    raise typer.BadParameter(f"{text!r} should be a share, as 50% or 0.5", param_hint="--prune-above")


def ask_to_prune(shown: LoadProgress, gone: Sequence[MissingImages]) -> bool:
    """Asks on the terminal whether images are to be removed."""
    with shown.hidden():
        for each in gone:
            share = f"{100 * each.share:.3g} %"
            err.print(Text(f"{each.count} of the {each.known} images of {each.source} are gone from it ({share}):"))
            _name(each)
        try:
            return typer.confirm(f"Remove {sum(each.count for each in gone)} images from the collection?", err=True)
        except typer.Abort:
            # The end of input is no consent, and what the load has done is reported.
            err.print()
            return False


def _name(gone: MissingImages) -> None:
    """Shows the ids of some images that are gone."""
    for name in gone.names[:SHOWN_REJECTS]:
        err.print(Text(f"  {name}"), soft_wrap=True)
    if gone.count > SHOWN_REJECTS:
        err.print(f"  ... and {gone.count - SHOWN_REJECTS} more", highlight=False)


def check_rejects(rejects: Path | None, sources: Sequence[str | Path]) -> None:
    """Sees that the rejects replace neither a source nor a file that is none of rejects; a wrong command line else."""
    for source in sources:
        if rejects is not None and rejects.exists() and Path(source).exists() and rejects.samefile(source):
            raise typer.BadParameter(f"{rejects} is a source, and would be emptied; name another file")
    if rejects is not None and not can_replace(rejects):
        raise typer.BadParameter(
            f"{rejects} exists and is not a file of rejects; name another file, or remove it", param_hint="--rejects"
        )


def allowed_failures(text: str) -> tuple[float, bool]:
    """The number of --fail-above, and whether it is in hundredths of all."""
    of_all = text.endswith("%")
    with suppress(ValueError):
        number = float(text.removesuffix("%"))
        if number >= 0:
            return number, of_all
    raise typer.BadParameter(f"{text!r} should be a number of images, as 10, or a part of them, as 1%")


def tell_waiting(what: str) -> None:
    """Print what a command waits for before its load begins."""
    if what:
        err.print(Text(f"waiting for {what}"), soft_wrap=True)


def load_files(
    client: Client,
    name: str,
    into: "Collection | PlannedCollection",
    ledger: Path | None,
    rejects: Path | None,
    *,
    restart: bool,
) -> "LocalFiles":
    """Return the files of a load into the collection that `name` names; `ledger` and `rejects` are the options."""
    from imagesearch_ingest.load.ledger_files import ledger_for_load  # noqa: PLC0415 - as above
    from imagesearch_ingest.load.load_options import LocalFiles  # noqa: PLC0415 - it brings Pillow

    path = ledger_for_load(client, name, into, client.target, ledger, _remark, restart=restart)
    return LocalFiles(path, rejects, restart, alias=name)


def rehearsal_files(
    name: str, target: str, ledger: Path | None, rejects: Path | None, *, restart: bool
) -> "LocalFiles":
    """Return the files of a dry run, as `load_files`. The search service may be away."""
    from imagesearch_ingest.load.ledger_files import ledger_for_dry_run  # noqa: PLC0415 - as above
    from imagesearch_ingest.load.load_options import LocalFiles  # noqa: PLC0415 - it brings Pillow

    with calling(target, timeout=ASKED_SECONDS) as client:
        return LocalFiles(ledger_for_dry_run(client, name, target, ledger, _remark, restart=restart), rejects, restart)


def _remark(text: str) -> None:
    """Print a line about the ledger to standard error."""
    err.print(Text(text), soft_wrap=True, highlight=False)


def check_end(client: Client, name: str, into: "Collection | PlannedCollection", account: LoadReport) -> None:
    """Report an alias that moved during the load, and a collection that was made and has no image."""
    # It may not be made; and if the service is away, the account says so.
    with suppress(ServiceError):
        found = client.get_collection(name)
        if isinstance(into, Collection):
            if found.name != into.name and not account.stopped:
                account.stopped = f"COLLECTION_MOVED: {name} led to {into.name} at first, and leads to {found.name} now"
        elif not account.stored and not client.count(name):
            _remark(f"{name} was made and has no image; `imagesearch collections delete {name}` removes it")


def has_items(sources: Iterable[Source], account: LoadReport) -> bool:
    """Whether sources list anything but files that are no items; if not, the account counts these."""
    seen = LoadReport()
    for found in (found for source in sources for found in source):
        if not isinstance(found, SkippedFile):
            return True
        seen.add_skipped_file(found)
    account.unsupported_suffixes = seen.unsupported_suffixes
    account.system_files, account.other_files = seen.system_files, seen.other_files
    return False


def write_not_taken(sources: Iterable[Source], rejects: Path | None) -> None:
    """Write the rejects of sources without any image. Raises OSError and LoadStoppedError."""
    with RejectsFile(rejects) as file:
        for found in (found for source in sources for found in source):
            if isinstance(found, SkippedFile) and found.reason is SkipReason.UNSUPPORTED:
                file.write(found, FORMAT_UNSUPPORTED, found.message)


def end_without_images(
    account: LoadReport, sources: Sequence[str], collection: str, *, dry_run: bool, as_json: bool
) -> NoReturn:
    """Say that there is nothing to load, and which files were passed over; end the command."""
    passed = f"{describe_unsupported(account.unsupported_suffixes)}; " if account.unsupported else ""
    told = (
        f"no images in {', '.join(map(without_password, sources))}; {passed}files of images end in {SUPPORTED_SUFFIXES}"
    )
    err.print(Text(told), soft_wrap=True)
    if as_json:
        _print(account, collection, dry_run=dry_run)
    raise typer.Exit(TOO_MANY_FAILED)


def _print(account: LoadReport, collection: str, *, dry_run: bool) -> None:
    print(json_text({"collection": collection, "dry_run": dry_run} | account.as_json()))


def finish(
    account: LoadReport, collection: str, allowed: tuple[float, bool], *, dry_run: bool, as_json: bool
) -> NoReturn:
    """Tells what came of a load, and ends the command."""
    if as_json:
        _print(account, collection, dry_run=dry_run)
    else:
        _tell(account, collection, dry_run=dry_run)
    if account.interrupted:
        # A thread may hang in a read, and Python would wait for it.
        sys.stdout.flush()
        os._exit(INTERRUPTED)
    if account.stopped:
        raise typer.Exit(STOPPED)
    number, of_all = allowed
    if account.failed > (number / 100 * account.listed if of_all else number):
        raise typer.Exit(TOO_MANY_FAILED)
    raise typer.Exit(0)


def _tell(account: LoadReport, collection: str, *, dry_run: bool) -> None:
    done = "could be stored" if dry_run else "stored"
    rate = f", {account.images_per_second:.1f} images/s" if account.stored else ""
    others = {
        "as they were": account.skipped,
        "with new attributes or another uri": account.updated,
        "duplicates": account.duplicates,
        "failed": account.failed,
        f"gone from the source and {'would be removed' if dry_run else 'removed'}": account.removed,
    }
    told = [f"{count} {what}" for what, count in others.items() if count]
    if told:
        parts = [f"{account.stored} {done} in {collection}{rate}", *told]
        out.print(f"{account.listed} images: {'; '.join(parts)}", highlight=False, soft_wrap=True)
    else:
        out.print(f"{account.stored} of {account.listed} images {done} in {collection}{rate}", highlight=False)
    _tell_files(account)
    if account.failed_before:
        out.print(f"  {account.failed_before} failed in a run before; --retry-failed tries them again", highlight=False)
    for gone in account.missing if dry_run else ():
        err.print(Text(f"  {gone.count} of the {gone.known} images of {gone.source} would be removed:"))
        _name(gone)
    for reason, count in sorted(account.reasons.items()):
        err.print(f"  {count} x {reason}", highlight=False)
    for remark in account.remarks:
        err.print(Text(f"  note: {remark}"), soft_wrap=True)
    for reject in account.first_rejects:
        err.print(Text(f"  {reject.where}: {reject.message}"), soft_wrap=True)
    if account.failed > SHOWN_REJECTS:
        err.print(f"  ... and {account.failed - SHOWN_REJECTS} more; --rejects FILE gets them all")
    if account.stopped:
        _tell_stopped(account)


def _tell_files(account: LoadReport) -> None:
    """Say what became of images that were replaced, and of files that are no items."""
    if account.replaced:
        out.print(
            f"  {account.replaced} of the stored replaced another image of the same id, which another source or ledger "
            "had stored",
            highlight=False,
            soft_wrap=True,
        )
    if account.unsupported:
        out.print(
            f"  {describe_unsupported(account.unsupported_suffixes)}; --rejects FILE names them",
            highlight=False,
            soft_wrap=True,
        )
    if account.system_files:
        out.print(
            f"  {account.system_files} left out: made by systems or programs, such as thumbnails", highlight=False
        )


def _tell_stopped(account: LoadReport) -> None:
    is_refused = account.stopped.startswith("PRUNE_REFUSED")
    if account.remaining and not is_refused:
        about = "at least" if account.expected is None else "about"
        err.print(f"  {about} {account.remaining} images are left for the next run", highlight=False)
    err.print("stopped early: ", end="", style="bold red")
    goes_on = "" if is_refused else ". The same command goes on from here."
    err.print(Text(f"{account.stopped}{goes_on}"), soft_wrap=True)
