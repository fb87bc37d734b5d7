"""Synchronous functions in a thread with a running event loop, as in a notebook."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from imagesearch_ingest.event_loop import interrupted_by_signals, run_coroutine
from imagesearch_ingest.load.job import dry_run, dry_run_async
from imagesearch_ingest.load.load_options import LoadOptions, LocalFiles
from imagesearch_ingest.load.report import LoadReport
from imagesearch_ingest.sources.items import Item

COUNT = 2000


def png() -> bytes:
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()


class Pictures:
    """A source of COUNT images that interrupts the process while it is listed."""

    name = "pictures"

    def __init__(self, interrupt_at: int = -1) -> None:
        self._interrupt_at = interrupt_at
        self._content = png()

    def __iter__(self) -> Iterator[Item]:
        for number in range(COUNT):
            if number == self._interrupt_at:
                os.kill(os.getpid(), signal.SIGINT)
            yield Item(f"i{number}", f"i{number}.png", lambda _: self._content, size=len(self._content))

    def count(self) -> int:
        return COUNT


@contextmanager
def notebook() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt in the main thread, as in a notebook's kernel."""
    # Inside a test, because asyncio.Runner replaces the handler.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


async def answer() -> int:
    await asyncio.sleep(0)
    return 42


async def fail() -> int:
    raise LookupError("gone")


def test_runs_without_a_loop() -> None:
    assert run_coroutine(answer) == 42
    with pytest.raises(LookupError, match="gone"):
        run_coroutine(fail)


async def test_runs_where_a_loop_runs() -> None:
    assert run_coroutine(answer) == 42
    with pytest.raises(LookupError, match="gone"):
        run_coroutine(fail)


async def test_interrupt_cancels_a_coroutine_without_handler() -> None:
    cancelled = []

    async def wait() -> None:
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with notebook(), pytest.raises(KeyboardInterrupt):
        run_coroutine(wait)
    assert cancelled == [True]


@pytest.mark.parametrize("interrupt_at", [-1, 40])
async def test_load_runs_in_a_notebook_and_an_interrupt_ends_it(interrupt_at: int) -> None:
    account = LoadReport()
    with notebook():
        dry_run([Pictures(interrupt_at)], LocalFiles(None), LoadOptions(), account)
    if interrupt_at < 0:
        assert (account.stored, account.interrupted, account.stopped) == (COUNT, False, "")
    else:
        assert (account.interrupted, account.stopped) == (True, "interrupted")
        assert account.stored < COUNT


async def test_async_load_leaves_signals_alone() -> None:
    before_each: list[str] = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, before_each.append, "mine")
    try:
        account = LoadReport()
        await dry_run_async([Pictures(interrupt_at=40)], LocalFiles(None), LoadOptions(), account)
        assert (account.stored, account.interrupted) == (COUNT, False)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.01)
        assert before_each == ["mine", "mine"]
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def test_cancelled_load_ends(tmp_path: Path) -> None:
    account = LoadReport()
    task = asyncio.create_task(dry_run_async([Pictures()], LocalFiles(tmp_path / "no"), LoadOptions(), account))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert account.stored < COUNT


def test_signal_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)

    async def work() -> None:
        with interrupted_by_signals(lambda: None):
            assert signal.getsignal(signal.SIGTERM) is not before

    run_coroutine(work)
    assert signal.getsignal(signal.SIGTERM) is before
