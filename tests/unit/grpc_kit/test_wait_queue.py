"""WaitQueue: requests are granted as the owner chooses, and cancelled requests keep nothing."""

import asyncio
from collections.abc import Sequence

import pytest

from grpc_kit.server.wait_queue import WaitQueue


class Slots:
    """A resource of one slot. The smallest pending request is next."""

    def __init__(self) -> None:
        self.is_free = True
        self.queue = WaitQueue(self._choose, lambda _: self.release())

    def _choose(self, pending: Sequence[int]) -> int | None:
        if not self.is_free:
            return None
        self.is_free = False
        return pending.index(min(pending))

    def release(self) -> None:
        self.is_free = True
        self.queue.grant()


@pytest.fixture
async def slots() -> Slots:
    return Slots()


async def started(slots: Slots, *requests: int) -> list["asyncio.Task[None]"]:
    tasks = [asyncio.create_task(slots.queue.acquire(request)) for request in requests]
    await asyncio.sleep(0)
    return tasks


async def test_the_owner_chooses_the_next_request(slots: Slots) -> None:
    first, large, small = await started(slots, 0, 9, 1)
    assert first.done()
    slots.release()
    await small
    assert not large.done()
    slots.release()
    await large


async def test_a_request_that_is_not_granted_at_once_leaves_the_queue_of_try_acquire(slots: Slots) -> None:
    assert slots.queue.try_acquire(1)
    assert not slots.queue.try_acquire(1)
    slots.release()
    assert slots.is_free


async def test_a_request_cancelled_while_pending_is_never_granted(slots: Slots) -> None:
    _, cancelled, following = await started(slots, 0, 1, 2)
    cancelled.cancel()
    slots.release()
    await following
    assert cancelled.cancelled()


async def test_a_request_cancelled_just_after_its_grant_releases_the_resource(slots: Slots) -> None:
    _, cancelled, following = await started(slots, 0, 1, 2)
    slots.release()
    cancelled.cancel()
    await following
    assert cancelled.cancelled()


async def test_a_request_releases_the_resource_if_its_own_wait_fails(slots: Slots) -> None:
    async def fails(_: object) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await slots.queue.acquire(1, fails)
    assert slots.is_free
