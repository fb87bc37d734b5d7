"""Retries of files and listings: no thread waits for them, and they respect the retry budget."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from grpc_kit.errors import UnavailableError
from imagesearch_cli.app import app
from imagesearch_ingest import event_loop
from imagesearch_ingest.load.dry_run_destination import DryRunDestination
from imagesearch_ingest.load.errors import LoadStoppedError
from imagesearch_ingest.load.image_reader import ImageReader
from imagesearch_ingest.load.in_flight_limit import InFlightLimit
from imagesearch_ingest.load.ledger import Ledger
from imagesearch_ingest.load.ledger_rows import CollectionIdentity
from imagesearch_ingest.load.load_options import LoadOptions
from imagesearch_ingest.load.load_run import LoadRun
from imagesearch_ingest.load.rejects_file import RejectsFile
from imagesearch_ingest.load.report import LoadReport
from imagesearch_ingest.sources.items import Item
from imagesearch_ingest.sources.open_source import open_source
from imagesearch_ingest.sources.source_options import SourceOptions
from tests.unit.ingest.sources.conftest import archive
from tests.unit.ingest.sources.scripted_server import Answer, Scripted, serving

LIMIT = 1_000_000
BUSY = Answer(status=503)


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number, number, number)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def server() -> Iterator[Scripted]:
    with serving() as scripted:
        yield scripted


class Keeping(DryRunDestination):
    """A destination that stores nothing, while the ledger records the items."""

    is_dry_run = False


def load(
    source: Path | str, ledger: Path | None = None, report: LoadReport | None = None, **options: float
) -> LoadReport:
    report = report or LoadReport()

    async def load_all() -> None:
        with Ledger(ledger) as rows, RejectsFile(None) as rejects:
            rows.bind(CollectionIdentity("c", "", "f"))
            found = open_source(str(source), SourceOptions())
            await LoadRun(Keeping(), rows, LoadOptions(**options), report, rejects).run([found])  # type: ignore[arg-type]

    event_loop.run_coroutine(load_all)
    return report


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def listed(folder: Path, *urls: str) -> Path:
    path = folder / "list.txt"
    path.write_text("\n".join(urls))
    return path


@pytest.mark.parametrize("failure", [BUSY, Answer(status=429, headers={"Retry-After": "1"}), Answer(breaks=True)])
def test_transient_failure_is_retried_within_the_run(server: Scripted, tmp_path: Path, failure: Answer) -> None:
    for number in range(5):
        server.answers[f"/{number}.png"] = [failure, Answer(png(number))]
    began = time.monotonic()
    report = load(listed(tmp_path, *(f"{server.address}/{number}.png" for number in range(5))))
    assert (report.stored, report.failed) == (5, 0)
    assert time.monotonic() - began >= (1 if failure.headers else 0)
    assert report.waiting_for == ""


def test_next_run_retries_transient_but_not_permanent_failures(server: Scripted, tmp_path: Path) -> None:
    answers = {"/busy.png": BUSY, "/gone.png": Answer(status=404), "/right.png": Answer(png(1))}
    server.answers |= answers
    path, ledger = listed(tmp_path, *(server.address + target for target in answers)), tmp_path / "ledger"
    report = load(path, ledger, retry_seconds=1)
    assert (report.stored, report.reasons) == (1, {"UNREADABLE_NOW": 1, "UNREADABLE": 1})
    assert server.targets.count("/busy.png") > 2
    assert server.targets.count("/gone.png") == 1
    server.answers |= {"/busy.png": Answer(png(2)), "/gone.png": Answer(png(3))}
    report = load(path, ledger, retry_seconds=1)
    assert (report.stored, report.skipped, report.failed_before) == (1, 1, 1)
    assert load(path, ledger, retry_seconds=1, retry_failed=True).stored == 1


def test_item_is_not_retried_beyond_the_retry_budget(server: Scripted, tmp_path: Path) -> None:
    server.answers["/a.png"] = Answer(status=503, headers={"Retry-After": "600"})
    server.answers["/b.png"] = BUSY
    began = time.monotonic()
    assert load(listed(tmp_path, f"{server.address}/a.png", f"{server.address}/b.png"), retry_seconds=1).failed == 2
    assert time.monotonic() - began >= 1
    # Retry-After is beyond the retry budget.
    assert server.targets.count("/a.png") == 1


def test_unavailable_server_does_not_delay_other_servers(server: Scripted, tmp_path: Path) -> None:
    with serving() as other:
        other.others = [Answer(status=503, headers={"Retry-After": "2"})]
        urls = [f"{other.address}/{number}.png" for number in range(100)]
        for number in range(50):
            server.answers[f"/{number}.png"] = Answer(png(number))
        path = listed(tmp_path, *urls, *(f"{server.address}/{number}.png" for number in range(50)))
        report, given_up = LoadReport(), 0
        answer = server.answer

        def noted(target: str) -> Answer:
            nonlocal given_up
            given_up = report.failed
            return answer(target)

        server.answer = noted  # type: ignore[method-assign]
        load(path, report=report, in_flight=8, readers=4, retry_seconds=4)
        assert (report.stored, report.failed) == (50, 100)
        # Many more items than readers and slots still waited when the last file of the other server was read.
        assert given_up < 50


def test_hanging_server_occupies_few_threads(tmp_path: Path) -> None:
    calls, waiting, most = 0, 0, 0

    def hangs(_: int) -> bytes:
        nonlocal calls, waiting, most
        calls += 1
        waiting += 1
        most = max(most, waiting)
        time.sleep(0.2)
        waiting -= 1
        raise TimeoutError(110, "no answer in time")

    async def run() -> None:
        nonlocal most
        readers = ImageReader(8, 3)
        dead = [Item(str(number), f"http://dead/{number}.jpg", hangs) for number in range(40)]
        tasks = [asyncio.create_task(readers.read(item, hangs, LIMIT)) for item in dead]
        # All reads started before the first one failed.
        while calls < len(dead) or waiting > 2:  # noqa: ASYNC110 - threads count them
            await asyncio.sleep(0.05)
        most = waiting
        path = tmp_path / "a.jpg"
        for number in range(30):
            item = Item("a", f"http://alive/{number}.jpg", lambda _: b"x")
            assert (await readers.read(item, lambda _: path.name.encode(), LIMIT))[0] == b"a.jpg"
        assert most <= 2
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(each) for each in ended} == {UnavailableError}
        # The server counts as unavailable now, so its files fail at once.
        before = calls
        with pytest.raises(UnavailableError):
            await readers.read(dead[0], hangs, LIMIT)
        assert calls == before
        readers.close()

    asyncio.run(run())


def test_file_retries_end_when_the_load_stops(server: Scripted, tmp_path: Path) -> None:
    server.others = [Answer(status=503, headers={"Retry-After": "200"})]
    ledger = tmp_path / "ledger"
    path = listed(tmp_path, *(f"{server.address}/{number}.png" for number in range(100)))
    with interrupted_after(1):
        report = load(path, ledger)
    assert (report.interrupted, report.stopped, report.failed) == (True, "interrupted", 0)
    for number in range(100):
        server.answers[f"/{number}.png"] = Answer(png(number))
    assert load(path, ledger).stored == 100


def test_listing_retries_end_when_the_load_stops(server: Scripted) -> None:
    html = {"Content-Type": "text/html"}
    server.answers["/in/"] = Answer(b'<a href="a.png">a</a><a href="x/">x</a>', headers=html)
    server.answers["/in/a.png"] = Answer(png(1))
    server.answers["/in/x/"] = Answer(status=503, headers={"Retry-After": "200"})
    with interrupted_after(1.5):
        report = load(f"{server.address}/in/")
    assert report.stopped == "interrupted"


def test_listing_that_fails_once_is_complete(server: Scripted) -> None:
    html = {"Content-Type": "text/html"}
    server.answers["/in/"] = [BUSY, Answer(b'<a href="a.png">a</a><a href="x/">x</a>', headers=html)]
    server.answers["/in/x/"] = [Answer(breaks=True), Answer(b'<a href="b.png">b</a>', headers=html)]
    server.answers["/in/a.png"] = server.answers["/in/x/b.png"] = [BUSY, Answer(png(1))]
    report = load(f"{server.address}/in/")
    assert (report.stored, report.failed) == (2, 0)


def test_all_readers_read_at_the_same_time(server: Scripted, tmp_path: Path) -> None:
    together = threading.Barrier(100, timeout=20)

    def meet() -> Answer:
        # Answers only when all readers have sent a request.
        together.wait()
        return Answer(png(1))

    for number in range(100):
        server.answers[f"/{number}.png"] = meet
    path = listed(tmp_path, *(f"{server.address}/{number}.png" for number in range(100)))
    assert load(path, in_flight=8, readers=100).stored == 100


async def test_waiting_item_releases_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    window = InFlightLimit(1, 100)
    await window.acquire(60)
    async with window.released_while_waiting(60):
        await asyncio.wait_for(window.acquire(100), 1)
        window.release(100)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(window.acquire(1), 0.05)
    monkeypatch.setattr("imagesearch_ingest.load.in_flight_limit.MAX_WAITING", 0)
    async with window.released_while_waiting(60):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(window.acquire(1), 0.05)


async def test_cancelled_waiting_item_does_not_wait_for_a_slot() -> None:
    window = InFlightLimit(1, 100)
    await window.acquire(60)

    async def wait() -> None:
        async with window.released_while_waiting(60):
            await asyncio.sleep(60)

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0.01)
    await asyncio.wait_for(window.acquire(100), 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, 1)
    # Both items count as in flight, and both release their slots.
    window.release(60)
    window.release(100)
    await asyncio.wait_for(window.acquire(100), 1)


async def test_stop_does_not_fail_the_file() -> None:
    def fails(_: int) -> bytes:
        raise OSError(5, "it does not work")

    readers = ImageReader(1, 60)
    task = asyncio.create_task(readers.read(Item("a", "/a.jpg", fails), fails, LIMIT))
    await asyncio.sleep(0.1)
    readers.stop()
    with pytest.raises(LoadStoppedError):
        await task
    readers.close()


def test_encoded_address_is_requested_as_written(server: Scripted, tmp_path: Path) -> None:
    server.answers["/im%2Cage.png?s=1%2C2"] = Answer(png(1))
    assert load(listed(tmp_path, f"{server.address}/im%2Cage.png?s=1%2C2")).stored == 1
    assert set(server.targets) == {"/im%2Cage.png?s=1%2C2"}


def ingest(source: Path | str, *arguments: str) -> tuple[int, dict[str, object], str]:
    """Run a dry run by the command; return its exit code, report and messages."""
    result = CliRunner().invoke(app, ["ingest", str(source), "--dry-run", "--json", *arguments])
    return result.exit_code, json.loads(result.stdout or "{}"), result.stderr


@pytest.mark.parametrize("name", ["list.txt", "list.csv", "s.tar", "in/", "a.png"])
def test_command_retries_a_busy_source(server: Scripted, tmp_path: Path, name: str) -> None:
    html = {"Content-Type": "text/html"}
    server.answers |= {
        "/list.txt": [BUSY, Answer(b"a.png\n")],
        "/list.csv": [BUSY, Answer(b"path\na.png\n")],
        "/s.tar": [BUSY, Answer(archive({"a.png": png(1)}))],
        "/in/": [BUSY, Answer(b'<a href="a.png">a</a>', headers=html)],
        "/in/a.png": Answer(png(1)),
        "/a.png": [BUSY, Answer(png(1))],
    }
    code, report, output = ingest(f"{server.address}/{name}", "--ledger", str(tmp_path / "ledger"))
    assert (code, report["stored"]) == (0, 1)
    if name.endswith(("txt", "csv")):
        assert f"waiting for {server.address}/{name}, up to 300 s: the server answers 503" in output


def test_refused_connection_fails_at_once(tmp_path: Path) -> None:
    code, _, output = ingest("http://127.0.0.1:1/list.csv", "--ledger", str(tmp_path / "ledger"))
    assert code == 2
    assert "cannot be read" in output


@pytest.mark.parametrize(("readers", "code"), [("0", 2), ("1025", 2), ("many", 2), ("1", 0), ("1024", 0)])
def test_command_limits_the_number_of_readers(server: Scripted, tmp_path: Path, readers: str, code: int) -> None:
    server.answers["/a.png"] = Answer(png(1))
    ledger = ["--ledger", str(tmp_path / "ledger")]
    assert ingest(f"{server.address}/a.png", "--parallel-reads", readers, *ledger)[0] == code


def test_command_never_prints_passwords(server: Scripted, tmp_path: Path) -> None:
    url = server.address.replace("//", "//user:secret@")
    server.answers["/list.txt"] = Answer(b"# nothing\n")
    rejects = tmp_path / "rejects.jsonl"
    output = ""
    for name in ("gone.png", "list.txt", "gone.csv", "gone/", ""):
        code, report, messages = ingest(
            f"{url}/{name}", "--ledger", str(tmp_path / "ledger"), "--rejects", str(rejects), "--retry-seconds", "1"
        )
        assert code != 0
        output += f"{report} {messages}" + (rejects.read_text() if rejects.exists() else "")
    assert "secret" not in output
    assert "127.0.0.1" in output


@pytest.mark.parametrize(("name", "retry_seconds"), [("list.csv", "1"), ("s.tar", "300")])
def test_command_ends_if_its_source_stays_unavailable(
    server: Scripted, tmp_path: Path, name: str, retry_seconds: str
) -> None:
    server.others = [Answer(status=503, headers={"Retry-After": "1"})]
    options = ["--dry-run", "--ledger", str(tmp_path / "ledger"), "--retry-seconds", retry_seconds]
    command = [sys.executable, "-m", "imagesearch_cli", "ingest", f"{server.address}/{name}", *options]
    # A child process inherits an ignored SIGINT, as in the background of a shell, but not a handler.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        signal.signal(signal.SIGINT, before)
        assert process.stderr is not None
        assert "waiting for" in process.stderr.readline()
        if retry_seconds == "300":
            process.send_signal(signal.SIGINT)
        _, output = process.communicate(timeout=20)
    assert process.returncode == (130 if retry_seconds == "300" else 2)
    assert "Traceback" not in output
