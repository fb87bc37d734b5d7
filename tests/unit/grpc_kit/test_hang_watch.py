"""Hanging threads are detected, slow threads are not."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

import pytest

from grpc_kit.errors import ServiceError
from grpc_kit.server import hang_watch
from grpc_kit.server.hang_watch import HangWatch

AT_MOST = 20
# Several checks of the watch.
WHILE = 0.1


@pytest.fixture(autouse=True)
def tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hang_watch, "TICK", 0.01)


class Clock:
    """A clock that a test can advance."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return time.monotonic() + self.ahead


@asynccontextmanager
async def watching(watch: HangWatch) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(watch.watch())
    yield task
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def wait_here(gate: threading.Event) -> str:
    assert gate.wait(AT_MOST)
    return "done"


async def test_work_that_ends_in_time_is_no_hang() -> None:
    watch = HangWatch()
    gate = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        async with watching(watch):
            slow = asyncio.create_task(watch.run(pool, "slow work", AT_MOST, wait_here, gate))
            for _ in range(20):
                assert await watch.run(pool, "quick work", AT_MOST, lambda: 1) == 1
            await asyncio.sleep(WHILE)
            assert not watch.hung.is_set()
            gate.set()
            assert await slow == "done"


async def test_work_that_makes_progress_is_no_hang() -> None:
    watch = HangWatch()

    def steps() -> str:
        for _ in range(10):
            time.sleep(0.05)
            watch.note_progress()
        return "done"

    with ThreadPoolExecutor(1) as pool:
        async with watching(watch):
            assert await watch.run(pool, "many steps", 0.3, steps) == "done"


async def test_a_hang_is_logged_with_its_stack_and_fails_all_work(capsys: pytest.CaptureFixture[str]) -> None:
    watch = HangWatch()
    gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        async with watching(watch) as task:
            calls = [asyncio.create_task(watch.run(pool, "the work", 0.05, wait_here, gate)) for _ in range(3)]
            outcomes = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), AT_MOST)
            await asyncio.wait_for(task, AT_MOST)
        with pytest.raises(ServiceError) as refused:
            await watch.run(pool, "more work", 1.0, lambda: None)
        gate.set()
    for error in (*outcomes, refused.value):
        assert isinstance(error, ServiceError)
        assert (error.reason, error.retry_after) == ("WORKER_DIED", 1.0)
    log = capsys.readouterr().out
    assert "a thread hangs" in log
    assert "the work" in log
    assert "in wait_here" in log


async def test_the_watch_sleeps_while_there_is_no_work_and_wakes_for_the_next() -> None:
    clock = Clock()
    watch = HangWatch(clock)
    gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        async with watching(watch) as task:
            for _ in range(2):
                assert await watch.run(pool, "quick work", AT_MOST, lambda: 1) == 1
                await asyncio.sleep(WHILE)
                before = clock.looks
                await asyncio.sleep(WHILE)
                assert clock.looks == before
            with pytest.raises(ServiceError):
                await asyncio.wait_for(watch.run(pool, "the work", 0.05, wait_here, gate), AT_MOST)
            await asyncio.wait_for(task, AT_MOST)
        gate.set()


async def test_a_cancelled_caller_is_no_hang() -> None:
    watch = HangWatch()
    gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        call = asyncio.create_task(watch.run(pool, "the work", AT_MOST, wait_here, gate))
        await asyncio.sleep(WHILE)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        gate.set()


async def test_time_in_which_the_process_was_frozen_does_not_count() -> None:
    clock = Clock()
    watch = HangWatch(clock)
    gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        async with watching(watch):
            call = asyncio.create_task(watch.run(pool, "the work", 5.0, wait_here, gate))
            for _ in range(10):
                await asyncio.sleep(0.02)
                clock.ahead += 3600.0
            assert not watch.hung.is_set()
            gate.set()
            assert await call == "done"


async def test_work_that_waits_for_other_work_does_not_hang() -> None:
    watch = HangWatch()
    gate = threading.Event()

    def wait_for_room() -> str:
        with watch.waiting():
            return wait_here(gate)

    with ThreadPoolExecutor(1) as pool:
        async with watching(watch):
            call = asyncio.create_task(watch.run(pool, "the work", 0.03, wait_for_room))
            await asyncio.sleep(WHILE)
            assert not watch.hung.is_set()
            gate.set()
            assert await call == "done"


async def test_nested_work_is_timed_separately() -> None:
    watch = HangWatch()
    gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        async with watching(watch) as task:

            def outer() -> str:
                assert watch.watched("the inner work", AT_MOST, lambda: 1) == 1
                return wait_here(gate)

            assert await watch.run(pool, "work", AT_MOST, watch.watched, "inner", AT_MOST, lambda: 2) == 2
            call = asyncio.create_task(watch.run(pool, "the outer work", 0.05, outer))
            with pytest.raises(ServiceError, match="must be restarted"):
                await asyncio.wait_for(call, AT_MOST)
            await asyncio.wait_for(task, AT_MOST)
            gate.set()
