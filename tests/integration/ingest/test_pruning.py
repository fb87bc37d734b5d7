"""Loads with `prune`: which images are removed, with and without confirmation."""

import json
import os
import select
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from imagesearch_cli.app import app
from imagesearch_cli.console import err
from imagesearch_client import Client
from imagesearch_ingest.load.job import dry_run
from imagesearch_ingest.load.load_options import LoadOptions, LocalFiles
from imagesearch_ingest.load.report import LoadReport, MissingImages
from imagesearch_ingest.sources.open_source import open_source
from imagesearch_ingest.sources.source_options import SourceOptions
from tests.harness.command import Command
from tests.integration.ingest.conftest import Run, ids, png


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    folder = tmp_path / "ten"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.png").write_bytes(png(number))
    return folder


def keep(folder: Path, count: int) -> None:
    for path in sorted(folder.iterdir())[count:]:
        path.unlink()


def test_pruning_refuses_to_remove_most_images(run: Run, client: Client, name: str, ten: Path) -> None:
    run(ten)
    keep(ten, 1)
    (ten / "new.png").write_bytes(png(50))
    report = run(ten, prune=True)
    assert report.stopped.startswith("PRUNE_REFUSED")
    for part in ("9 of the 10 images", str(ten), "90 %", "20 %", "--max-pruned 90%", "Nothing was removed"):
        assert part in report.stopped
    # The rest of the load is done.
    assert (report.stored, report.removed, report.listed) == (1, 0, report.done)
    assert len(ids(client, name)) == 11
    report = run(ten, prune=True, prune_above=0.9)
    assert (report.stopped, report.removed) == ("", 9)
    assert ids(client, name) == ["0.png", "new.png"]
    assert run(ten, prune=True).removed == 0


def test_pruning_removes_a_fifth_but_not_a_half(run: Run, client: Client, name: str, ten: Path) -> None:
    run(ten)
    keep(ten, 8)
    report = run(ten, prune=True)
    assert (report.stopped, report.removed) == ("", 2)
    shutil.rmtree(ten)
    ten.mkdir()
    for path in ("0.png", "1.png"):
        (ten / path).write_bytes(png(int(path[0])))
    assert run(ten, prune=True).stopped.startswith("PRUNE_REFUSED")
    assert len(ids(client, name)) == 8


def test_one_of_two_images_is_a_half(run: Run, client: Client, name: str, ten: Path) -> None:
    keep(ten, 2)
    run(ten)
    keep(ten, 1)
    assert "--max-pruned 50%" in run(ten, prune=True).stopped
    assert run(ten, prune=True, prune_above=0.5).removed == 1
    assert ids(client, name) == ["0.png"]


def test_each_source_has_its_own_share(run: Run, client: Client, name: str, ten: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    for number in range(2):
        (disk / f"disk{number}.png").write_bytes(png(20 + number))
    run(ten, disk)
    keep(disk, 1)
    keep(ten, 9)
    report = run(ten, disk, prune=True)
    assert report.stopped.startswith(f"PRUNE_REFUSED: 1 of the 2 images of {disk}")
    # Nothing was removed from any source.
    assert len(ids(client, name)) == 12


def test_image_replaced_by_another_load_stays(run: Run, client: Client, name: str, ten: Path, tmp_path: Path) -> None:
    run(ten)
    ledger = tmp_path / "of.ledger"
    other = tmp_path / "other"
    other.mkdir()
    (other / "9.png").write_bytes(png(60))
    kept = ledger.rename(tmp_path / "kept.ledger")
    assert run(other).replaced == 1
    kept.rename(ledger)
    keep(ten, 8)
    report = run(ten, prune=True)
    assert (report.stopped, report.removed) == ("", 1)
    assert client.get(name, "9.png", strong=True).uri == str(other / "9.png")
    assert "8.png" not in ids(client, name)


def test_confirmation_decides_about_pruning(run: Run, client: Client, name: str, ten: Path) -> None:
    run(ten)
    keep(ten, 9)
    asked: list[MissingImages] = []

    def answer(gone: Sequence[MissingImages]) -> bool:
        asked.extend(gone)
        return len(asked) > 1

    report = run(ten, prune=True, confirm_prune=answer)
    assert report.stopped == "PRUNE_REFUSED: the answer was no; nothing was removed"
    assert asked == [MissingImages(str(ten), 1, 10, ["9.png"])]
    # A confirmation allows any share.
    keep(ten, 1)
    report = run(ten, prune=True, confirm_prune=answer)
    assert (report.stopped, report.removed) == ("", 9)
    # Without missing images there is no question.
    assert run(ten, prune=True, confirm_prune=answer).stopped == ""
    assert len(asked) == 2
    assert ids(client, name) == ["0.png"]


def test_signal_during_the_confirmation_removes_nothing(run: Run, client: Client, name: str, ten: Path) -> None:
    run(ten)
    keep(ten, 9)
    answered, answers = threading.Event(), list[bool]()

    def interrupt(_: Sequence[MissingImages]) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        answers.append(answered.wait(60))
        return True

    report = run(ten, prune=True, confirm_prune=interrupt)
    # The question is still open.
    assert answers == []
    answered.set()
    assert (report.stopped, report.removed) == ("interrupted", 0)
    assert len(ids(client, name)) == 10


def test_dry_run_lists_missing_images(run: Run, client: Client, name: str, ten: Path, tmp_path: Path) -> None:
    run(ten)
    keep(ten, 3)
    ledger = tmp_path / "of.ledger"
    for _ in range(2):
        report = LoadReport()
        source = open_source(str(ten), SourceOptions())
        dry_run([source], LocalFiles(ledger), LoadOptions(prune=True), report)
        assert (report.removed, report.skipped, report.stopped) == (7, 3, "")
        assert report.missing == [MissingImages(str(ten), 7, 10, [f"{number}.png" for number in range(3, 10)])]
    assert len(ids(client, name)) == 10
    assert run(ten, prune=True, prune_above=1.0).removed == 7
    # A dry run does not trust an incomplete listing either.
    shutil.rmtree(ten)
    ten.mkdir()
    report = LoadReport()
    dry_run([open_source(str(ten), SourceOptions())], LocalFiles(ledger), LoadOptions(prune=True), report)
    assert report.stopped.startswith("PRUNE_REFUSED")


def test_command_refuses_large_prunes_and_names_images(command: Command, client: Client, name: str, ten: Path) -> None:
    command("ingest", ten)
    keep(ten, 1)
    output = command("ingest", ten, "--prune", "--dry-run")
    assert "9 no longer in the source and would be deleted" in output
    shown = command.run("ingest", ten, "--prune", "--dry-run").stderr
    assert f"9 of the 10 images of {ten} would be deleted" in shown
    assert "  5.png" in shown
    for options in ((), ("--yes",), ("--max-pruned", "80%")):
        refused = command.run("ingest", ten, "--prune", *options, code=3)
        assert "--max-pruned 90%" in refused.stderr
        assert "to resume" not in refused.stderr
    assert len(ids(client, name)) == 10
    report = json.loads(command("ingest", ten, "--prune", "--max-pruned", "90%", "--json"))
    assert (report["removed"], report["missing"][0]["first"][0]) == (9, "1.png")
    assert ids(client, name) == ["0.png"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--max-pruned", "50%"), "--prune"),
        (("--prune", "--max-pruned", "10"), "50%"),
        (("--prune", "--max-pruned", "much"), "50%"),
        (("--prune", "--max-pruned", "120%"), "50%"),
        (("--prune", "--limit", "5"), "--limit"),
    ],
)
def test_contradictory_prune_options_are_refused(
    command: Command, ten: Path, options: tuple[str, ...], named: str
) -> None:
    assert named in command("ingest", ten, *options, code=2)


@pytest.fixture
def on_a_terminal(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, Sequence[str | Path]], tuple[int, str]]]:
    """Run the command in a terminal with typed input; return its exit code and the screen."""
    with ExitStack() as stack:

        def run(typed: str, arguments: Sequence[str | Path]) -> tuple[int, str]:
            screen, terminal = os.openpty()
            stack.callback(os.close, screen)
            typing = stack.enter_context(os.fdopen(terminal, "r", closefd=False))
            shown = stack.enter_context(os.fdopen(terminal, "w"))
            with monkeypatch.context() as patch:
                for variable, value in command.environment.items():
                    patch.setenv(variable, value)
                patch.setattr("sys.stdin", typing)
                patch.setattr("sys.stderr", shown)
                os.write(screen, typed.encode())
                patch.setattr(err, "_width", 500)
                code = app(list(map(str, arguments)), standalone_mode=False)
            shown.flush()
            seen = b""
            while select.select([screen], [], [], 0.2)[0]:
                seen += os.read(screen, 10**6)
            return code, seen.decode(errors="replace")

        yield run


def test_command_asks_on_a_terminal(
    command: Command,
    client: Client,
    name: str,
    ten: Path,
    on_a_terminal: Callable[[str, Sequence[str | Path]], tuple[int, str]],
) -> None:
    command("ingest", ten)
    keep(ten, 9)
    code, screen = on_a_terminal("n\n", ["ingest", ten, "--prune"])
    assert code == 3
    for part in ("1 of the 10 images", "9.png", "Delete 1 images", "the answer was no"):
        assert part in screen
    # The end of the input (Ctrl-D) counts as no.
    code, screen = on_a_terminal("\x04", ["ingest", ten, "--prune"])
    assert code == 3
    assert "the answer was no" in screen
    assert len(ids(client, name)) == 10
    keep(ten, 1)
    code, screen = on_a_terminal("", ["ingest", ten, "--prune", "--yes"])
    assert code == 3
    assert "--max-pruned 90%" in screen
    code, screen = on_a_terminal("y\n", ["ingest", ten, "--prune"])
    assert code == 0
    assert "... and" not in screen
    assert ids(client, name) == ["0.png"]


def test_prune_above_is_validated() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        LoadOptions(prune=True, prune_above=50)


@pytest.mark.parametrize("becomes_a_duplicate", [False, True])
def test_unread_file_with_a_long_id_does_not_stop_pruning(
    run: Run, client: Client, name: str, ten: Path, *, becomes_a_duplicate: bool
) -> None:
    long = ten.joinpath(*["d" * 120] * 5, "x.png")
    long.parent.mkdir(parents=True)
    long.write_bytes(b"")
    assert run(ten).reasons == {"FILE_EMPTY": 1}
    if becomes_a_duplicate:
        long.write_bytes(png(1))
    else:
        shutil.rmtree(ten / ("d" * 120))
    (ten / "9.png").unlink()
    report = run(ten, prune=True, dedup=True)
    assert (report.stopped, report.failed, report.duplicates) == ("", 0, int(becomes_a_duplicate))
    assert ids(client, name) == [f"{number}.png" for number in range(9)]
    assert run(ten, prune=True, dedup=True).stopped == ""


def test_duplicate_of_another_source_replaces_a_pruned_original(
    run: Run, client: Client, name: str, ten: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(ten, other)
    (other / "9.png").rename(other / "nine.png")
    run(ten, dedup=True)
    assert run(other, dedup=True).duplicates == 1
    (ten / "9.png").unlink()
    assert run(ten, dedup=True, prune=True).removed == 1
    assert "nine.png" not in ids(client, name)
    assert run(other, dedup=True).stored == 1
    assert "nine.png" in ids(client, name)
