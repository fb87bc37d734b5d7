"""Images stay locked until a write has ended, even if its caller was cancelled."""

import asyncio

import pytest

from grpc_kit.deadline import Deadline
from grpc_kit.errors import DeadlineExceededError
from search_service.core.image_locks import ImageLocks, StillRunningError

NEVER = Deadline.after(None)


async def test_image_stays_locked_until_a_timed_out_write_ends() -> None:
    locks, log = ImageLocks(), []
    late = StillRunningError("MILVUS_TIMEOUT", "late")
    late.ended = asyncio.get_running_loop().create_future()

    async def give_up() -> None:
        raise late

    async def write() -> None:
        log.append("second")

    with pytest.raises(StillRunningError):
        await locks.run("c", ["a"], give_up, NEVER)
    waiting = asyncio.create_task(locks.run("c", ["a"], write, NEVER))
    await asyncio.sleep(0.05)
    assert log == []
    log.append("first has ended")
    late.ended.set_result(None)
    await waiting
    assert log == ["first has ended", "second"]


async def test_image_stays_locked_until_a_cancelled_write_ends() -> None:
    locks, log = ImageLocks(), []
    go_on = asyncio.Event()

    async def slow() -> None:
        await go_on.wait()
        log.append("first")

    async def write() -> None:
        log.append("second")

    first = asyncio.create_task(locks.run("c", ["a", "b"], slow, NEVER))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    waiting = asyncio.create_task(locks.run("c", ["b"], write, NEVER))
    await asyncio.sleep(0.05)
    assert log == []
    go_on.set()
    await waiting
    assert log == ["first", "second"]
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_lock_wait_ends_at_the_deadline() -> None:
    locks, go_on = ImageLocks(), asyncio.Event()

    async def slow() -> None:
        await go_on.wait()

    holding = asyncio.create_task(locks.run("c", ["a"], slow, NEVER))
    await asyncio.sleep(0.01)
    with pytest.raises(DeadlineExceededError):
        await locks.run("c", ["a"], slow, Deadline.after(0.05))
    # Another image is not locked, nor is the same id in another collection.
    go_on.set()
    await asyncio.gather(holding, locks.run("c", ["b"], slow, NEVER), locks.run("d", ["a"], slow, NEVER))
