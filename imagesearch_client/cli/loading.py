"""What `imagesearch ingest` and `imagesearch import` share: options, the end, and its exit code."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.text import Text

from imagesearch_client.bulk.accounts import Account, is_replaceable
from imagesearch_client.bulk.services import Endpoint
from imagesearch_client.cli.environment import EMBEDDER_TOKEN, TOKEN, tls_from_environment
from imagesearch_client.cli.output import SHOWN_REJECTS, err, out
from imagesearch_client.json_text import json_text

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
    float, typer.Option("--patience", min=1, help="Seconds that a service may be away before the load ends.")
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


def check_rejects(rejects: Path | None, sources: Sequence[str | Path]) -> None:
    """Sees that the rejects replace neither a source nor a file that is none of rejects; a wrong command line else."""
    for source in sources:
        if rejects is not None and rejects.exists() and Path(source).exists() and rejects.samefile(source):
            raise typer.BadParameter(f"{rejects} is a source, and would be emptied; name another file")
    if rejects is not None and not is_replaceable(rejects):
        raise typer.BadParameter(
            f"{rejects} exists, and is no file of rejects; name another file, or remove it", param_hint="--rejects"
        )


def allowed_failures(text: str) -> tuple[float, bool]:
    """The number of --fail-above, and whether it is in hundredths of all."""
    of_all = text.endswith("%")
    with suppress(ValueError):
        number = float(text.removesuffix("%"))
        if number >= 0:
            return number, of_all
    raise typer.BadParameter(f"{text!r} should be a number of images, as 10, or a part of them, as 1%")


def finish(account: Account, collection: str, allowed: tuple[float, bool], *, dry_run: bool, as_json: bool) -> NoReturn:
    """Tells what came of a load, and ends the command."""
    if as_json:
        print(json_text({"collection": collection, "dry_run": dry_run} | account.as_json()))
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
