"""What `imagesearch ingest` and `imagesearch import` share: options, the end, and its exit code."""

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.text import Text

from imagesearch_client.bulk.accounts import Account
from imagesearch_client.bulk.services import Endpoint
from imagesearch_client.cli.environment import TOKEN, tls_from_environment
from imagesearch_client.cli.output import SHOWN_REJECTS, err, out
from imagesearch_client.json_text import json_text
from imagesearch_client.sources.items import Passed, Source
from imagesearch_client.sources.kinds import TAKEN_SUFFIXES, not_taken_words

# Exit codes beside 0. Typer has 2 for a wrong command line.
TOO_MANY_FAILED, STOPPED, INTERRUPTED = 1, 3, 130

LedgerFile = Annotated[
    Path | None,
    typer.Option(
        "--ledger",
        help="The file that accounts for every image, one for each collection. "
        "[default: below ~/.local/state/imagesearch]",
    ),
]
Restart = Annotated[bool, typer.Option("--restart", help="Forget the ledger's account, and load everything again.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Try again what failed in runs before.")]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="Load so many at most; what is skipped does not count.")
]
RejectsOption = Annotated[
    Path | None,
    typer.Option(
        "--rejects", dir_okay=False, help="Write a line of JSON for each image that is not stored; a source itself."
    ),
]
FailAbove = Annotated[
    str, typer.Option("--fail-above", help="How many may fail, as 10 or 1%, before the exit code is 1.")
]
Patience = Annotated[
    float, typer.Option("--patience", min=1, help="Seconds that a service may be away before the load ends.")
]
Maps = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        help="COLUMN=ATTRIBUTE takes a column as an attribute of another name, COLUMN= leaves it out. May be repeated.",
    ),
]


def endpoint(target: str, token: str = "") -> Endpoint:
    """A service as the environment says that it is called."""
    return Endpoint(target, tls_from_environment(), token or os.environ.get(TOKEN, ""))


def pairs(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    """The COLUMN=NAME of an option, by column."""
    found: dict[str, str] = {}
    for text in texts or ():
        column, equals_sign, name = text.rpartition("=")
        if not equals_sign or not column or column in found:
            raise typer.BadParameter(f"{text!r} should be COLUMN=NAME, and once for each column", param_hint=option)
        found[column] = name
    return found


def check_rejects(rejects: Path | None, sources: Sequence[str | Path]) -> None:
    """Sees that the rejects do not go into a file that they come from."""
    for source in sources:
        if rejects is not None and rejects.exists() and Path(source).exists() and rejects.samefile(source):
            raise typer.BadParameter(f"{rejects} is a source, and would be emptied; name another file")


def allowed_failures(text: str) -> tuple[float, bool]:
    """The number of --fail-above, and whether it is in hundredths of all."""
    of_all = text.endswith("%")
    with suppress(ValueError):
        number = float(text.removesuffix("%"))
        if number >= 0:
            return number, of_all
    raise typer.BadParameter(f"{text!r} should be a number of images, as 10, or a part of them, as 1%")


def has_items(sources: Iterable[Source], account: Account) -> bool:
    """Whether sources list anything but files that are no items; if not, the account counts these."""
    seen = Account()
    for found in (found for source in sources for found in source):
        if not isinstance(found, Passed):
            return True
        seen.pass_over(found)
    account.not_taken_suffixes = seen.not_taken_suffixes
    account.left_out, account.other_files = seen.left_out, seen.other_files
    return False


def end_without_images(
    account: Account, sources: Sequence[str], collection: str, *, dry_run: bool, as_json: bool
) -> NoReturn:
    """Say that there is nothing to load, and which files were passed over; end the command."""
    passed = f"{not_taken_words(account.not_taken_suffixes)}; " if account.not_taken else ""
    told = f"no images in {', '.join(sources)}; {passed}files of images end in {TAKEN_SUFFIXES}"
    err.print(Text(told), soft_wrap=True)
    if as_json:
        _print(account, collection, dry_run=dry_run)
    raise typer.Exit(TOO_MANY_FAILED)


def _print(account: Account, collection: str, *, dry_run: bool) -> None:
    print(json_text({"collection": collection, "dry_run": dry_run} | account.as_json()))


def finish(account: Account, collection: str, allowed: tuple[float, bool], *, dry_run: bool, as_json: bool) -> NoReturn:
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
    if account.failed > (number / 100 * account.met if of_all else number):
        raise typer.Exit(TOO_MANY_FAILED)
    raise typer.Exit(0)


def _tell(account: Account, collection: str, *, dry_run: bool) -> None:
    done = "could be stored" if dry_run else "stored"
    rate = f", {account.images_per_second:.1f} images/s" if account.stored else ""
    others = {
        "as they were": account.skipped,
        "with new attributes or another uri": account.described,
        "duplicates": account.duplicates,
        "failed": account.failed,
        "gone from the source and removed": account.removed,
    }
    told = [f"{count} {what}" for what, count in others.items() if count]
    if told:
        parts = [f"{account.stored} {done} in {collection}{rate}", *told]
        out.print(f"{account.met} images: {'; '.join(parts)}", highlight=False, soft_wrap=True)
    else:
        out.print(f"{account.stored} of {account.met} images {done} in {collection}{rate}", highlight=False)
    if account.not_taken:
        out.print(
            f"  {not_taken_words(account.not_taken_suffixes)}; --rejects FILE names them",
            highlight=False,
            soft_wrap=True,
        )
    if account.left_out:
        out.print(f"  {account.left_out} left out: made by systems or programs, such as thumbnails", highlight=False)
    if account.failed_before:
        out.print(f"  {account.failed_before} failed in a run before; --retry-failed tries them again", highlight=False)
    for reason, count in sorted(account.reasons.items()):
        err.print(f"  {count} x {reason}", highlight=False)
    for reject in account.first_rejects:
        err.print(Text(f"  {reject.where}: {reject.message}"), soft_wrap=True)
    if account.failed > SHOWN_REJECTS:
        err.print(f"  ... and {account.failed - SHOWN_REJECTS} more; --rejects FILE gets them all")
    if account.stopped:
        err.print("stopped early: ", end="", style="bold red")
        err.print(Text(f"{account.stopped}. The same command goes on from here."), soft_wrap=True)
