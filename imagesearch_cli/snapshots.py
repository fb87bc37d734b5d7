"""What the commands share that need all of a collection: how it is read, how far they are, and how they end."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.text import Text

from imagesearch_cli.bars import Bar, show_progress
from imagesearch_cli.connection import connected
from imagesearch_cli.options import condition_of
from imagesearch_cli.output import err
from imagesearch_ingest.sources.attribute_values import ATTRIBUTE_NAME

if TYPE_CHECKING:
    from imagesearch_analysis.snapshot import Snapshot
    from imagesearch_client import Client

CollectionArgument = Annotated[str, typer.Argument(help="The collection, or an alias of it.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are there.")]
SnapshotFolder = Annotated[
    Path | None,
    typer.Option(
        "--snapshot",
        file_okay=False,
        help="A folder to keep what is read of the collection: the next command with the same folder reads it from "
        "there, as long as the collection is as it was. [default: a temporary one, below TMPDIR]",
    ),
]


def check_file(
    path: Path, suffixes: Sequence[str], option: str, *, force: bool, inputs: Sequence[Path | None] = ()
) -> None:
    """Sees that a file can be written, and that it is none of the command's `inputs`; a wrong command line else."""
    if path.exists() and any(given is not None and given.exists() and path.samefile(given) for given in inputs):
        raise typer.BadParameter(
            f"{path} is what this command reads, and would be replaced; name another file", param_hint=option
        )
    if path.suffix.lower() not in suffixes:
        raise typer.BadParameter(f"{path} should end in {', '.join(suffixes)}", param_hint=option)
    if not path.absolute().parent.is_dir():
        raise typer.BadParameter(f"{path} should be in a folder that exists", param_hint=option)
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a folder", param_hint=option)
    if path.exists() and not force:
        raise typer.BadParameter(f"{path} exists; name another file, or replace it by --force", param_hint=option)


def check_attribute(name: str, option: str) -> None:
    """Sees that a name, where there is one, can be an attribute's; a wrong command line else."""
    if name and not ATTRIBUTE_NAME.fullmatch(name):
        raise typer.BadParameter(
            f"{name!r} is no name of an attribute: a letter, then letters, digits, underscores", param_hint=option
        )


@contextmanager
def progress(total: int) -> Iterator[Bar]:
    """A bar for so many images, where there is a terminal."""
    with show_progress(err) as bar:
        bar.start(total)
        yield bar


@contextmanager
def ending_well() -> Iterator[None]:
    """Ends the command with a line and exit code 1 where something cannot be read, written or done."""
    from imagesearch_analysis.errors import AnalysisError  # noqa: PLC0415 - it brings numpy

    try:
        yield
    except (AnalysisError, OSError) as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Ends the command with a line and exit code 1."""
    err.print("[bold red]error[/] ", end="")
    err.print(Text(message), soft_wrap=True)
    raise typer.Exit(1)


def read(
    client: "Client", collection: str, where: Sequence[str] | None, folder: Path, *, replace: bool = False
) -> "Snapshot":
    """All of a collection, read into a folder; with a bar. `replace` is as with `take_snapshot`."""
    from imagesearch_analysis.snapshot_writer import retry_timeouts, take_snapshot  # noqa: PLC0415 - it brings numpy

    condition = condition_of(where)
    total = retry_timeouts(lambda: client.count(collection, where=condition))
    with progress(total) as bar:
        return take_snapshot(client, collection, folder, where=condition, replace=replace, on_progress=bar.reach)


@contextmanager
def opening(places: Sequence[str] | None) -> Iterator[None]:
    """Has pictures read from the places of --open, and says afterwards how many others there were."""
    from imagesearch_analysis import pictures  # noqa: PLC0415 - it brings Pillow

    with pictures.allowing(places or ()) as allowed:
        yield
    if allowed.refused:
        err.print(Text(f"{allowed.refused} pictures were not opened, such as {allowed.first_refusal}"), soft_wrap=True)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Ends the command in an orderly way at SIGTERM and SIGHUP, so that its temporary folder is removed."""

    def stop(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    # nohup has it ignored.
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def snapshot_of(
    target: str,
    collection: str,
    where: Sequence[str] | None,
    folder: Path | None,
    *,
    opens: Sequence[str] | None = None,
) -> Iterator["Snapshot"]:
    """All of a collection, in a folder that is kept, or in one that is removed afterwards; `opens` are of --open."""
    condition_of(where)
    with ending_well(), _stopped_by_signals(), opening(opens), TemporaryDirectory(prefix="imagesearch-") as temporary:
        with connected(target) as client:
            snapshot = read(client, collection, where, folder or Path(temporary))
        with snapshot:
            yield snapshot
