"""What commands on whole collections share: snapshots, checks of output files, and errors."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NoReturn

import typer

from imagesearch_cli.connection import connected
from imagesearch_cli.console import fail, note
from imagesearch_cli.option_values import parse_where
from imagesearch_cli.progress import show_progress

if TYPE_CHECKING:
    from imagesearch_analysis.snapshot import Snapshot
    from imagesearch_client import Client


def check_file(
    path: Path | None, suffixes: Sequence[str] | None, option: str, *, force: bool, inputs: Sequence[Path | None] = ()
) -> None:
    """Check that an output file, if it is given, can be written and is none of the command's input files.

    `suffixes` are the allowed suffixes; None allows every name.
    """
    if path is None:
        return
    problem = ""
    if path.exists() and any(given is not None and given.exists() and path.samefile(given) for given in inputs):
        problem = f"{path} is an input of this command; name another file"
    elif suffixes is not None and path.suffix.lower() not in suffixes:
        problem = f"{path} must end in {', '.join(suffixes)}"
    elif not path.absolute().parent.is_dir():
        problem = f"the folder of {path} does not exist; create it, or name another file"
    elif path.is_dir():
        problem = f"{path} is a folder; name a file"
    elif path.exists() and not force:
        problem = f"{path} exists; name another file, or add --force to replace it"
    if problem:
        raise typer.BadParameter(problem, param_hint=option)


@contextmanager
def analysis_errors() -> Iterator[None]:
    """End the command with a message if an analysis fails, or a file cannot be read or written."""
    from imagesearch_analysis.errors import AnalysisError  # noqa: PLC0415 - NumPy takes a while to import
    from imagesearch_ingest.empty_collection import EmptyCollectionError  # noqa: PLC0415 - as above

    try:
        yield
    except (AnalysisError, EmptyCollectionError, OSError) as error:
        fail(str(error))


def read_snapshot(
    client: "Client", collection: str, where: Sequence[str] | None, folder: Path, *, replace: bool = False
) -> "Snapshot":
    """Copy the collection into a folder and show the progress. `replace` as in `take_snapshot`."""
    from imagesearch_analysis.snapshot_writer import retry_timeouts, take_snapshot  # noqa: PLC0415 - NumPy takes a while to import

    condition = parse_where(where)
    total = retry_timeouts(lambda: client.count(collection, where=condition))
    with show_progress(total) as bar:
        return take_snapshot(client, collection, folder, where=condition, replace=replace, on_progress=bar.reach)


@contextmanager
def allowed_files(prefixes: Sequence[str] | None) -> Iterator[None]:
    """Read image files only where --open allows it, and report how many were refused."""
    from imagesearch_analysis import pictures  # noqa: PLC0415 - Pillow takes a while to import

    with pictures.allowing(prefixes or ()) as allowed:
        yield
    if allowed.refused:
        note(f"{allowed.refused} image files were not read, such as {allowed.first_refusal}")


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """End the command in order at SIGTERM and SIGHUP, so that its temporary folder is removed."""

    def stop(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    # nohup makes the command ignore SIGHUP.
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
    """Return a snapshot of a collection, in `folder` or in a temporary one. `opens` are the --open options."""
    parse_where(where)
    with (
        analysis_errors(),
        _stopped_by_signals(),
        allowed_files(opens),
        TemporaryDirectory(prefix="imagesearch-") as temporary,
    ):
        with connected(target) as client:
            snapshot = read_snapshot(client, collection, where, folder or Path(temporary))
        with snapshot:
            yield snapshot
