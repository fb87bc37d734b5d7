"""Batches of requests, and the limit of items in flight."""

import asyncio
from collections.abc import Sequence

import pytest

from grpc_kit.errors import InvalidArgumentError, UnavailableError
from imagesearch_ingest.load.batcher import Batcher, BatchLimits, PendingRequest
from imagesearch_ingest.load.in_flight_limit import InFlightLimit

Batch = Sequence[PendingRequest[int, int]]


class Doubling:
    """Doubles numbers, and records the requests of each call."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, batch: Batch) -> None:
        self.calls.append([pending.request for pending in batch])
        await self.go_on.wait()
        for pending in batch:
            if pending.request < 0:
                raise InvalidArgumentError("NEGATIVE", "below zero")
            if pending.request != 13:
                pending.set_result(2 * pending.request)


async def test_each_request_gets_its_own_result() -> None:
    doubling = Doubling()
    async with Batcher[int, int](doubling, BatchLimits(2, 5, 1000)) as batcher:
        assert await asyncio.gather(*map(batcher.submit, range(100, 200))) == [2 * n for n in range(100, 200)]
    assert max(map(len, doubling.calls)) == 5


async def test_batch_respects_max_bytes() -> None:
    doubling = Doubling()
    doubling.go_on.clear()
    async with Batcher[int, int](doubling, BatchLimits(1, 100, 10)) as batcher:
        sizes = [4, 4, 4, 50, 1]
        asked = [asyncio.create_task(batcher.submit(n, size)) for n, size in enumerate(sizes)]
        await asyncio.sleep(0.01)
        doubling.go_on.set()
        await asyncio.gather(*asked)
    assert doubling.calls == [[0, 1], [2], [3], [4]]


async def test_request_with_alone_gets_its_own_batch() -> None:
    doubling = Doubling()
    doubling.go_on.clear()
    async with Batcher[int, int](doubling, BatchLimits(1, 100, 1000)) as batcher:
        asked = [asyncio.create_task(batcher.submit(n, alone=n == 3)) for n in range(6)]
        await asyncio.sleep(0.01)
        doubling.go_on.set()
        await asyncio.gather(*asked)
    assert doubling.calls == [[0, 1, 2], [3], [4, 5]]


async def test_requests_without_result_get_the_error_of_the_call() -> None:
    doubling = Doubling()
    async with Batcher[int, int](doubling, BatchLimits(1, 3, 1000)) as batcher:
        answers = await asyncio.gather(*map(batcher.submit, (1, -1, 2, 13)), return_exceptions=True)
    assert answers[0] == 2
    assert isinstance(answers[1], InvalidArgumentError)
    assert isinstance(answers[2], InvalidArgumentError)
    assert isinstance(answers[3], UnavailableError)


async def test_batch_lingers_until_flush() -> None:
    doubling = Doubling()
    async with Batcher[int, int](doubling, BatchLimits(2, 3, 1000, linger_seconds=60)) as batcher:
        first = [asyncio.create_task(batcher.submit(n)) for n in range(2)]
        await asyncio.sleep(0.05)
        assert doubling.calls == []
        first.append(asyncio.create_task(batcher.submit(2)))
        await asyncio.gather(*first)
        last = asyncio.create_task(batcher.submit(3))
        await asyncio.sleep(0.05)
        batcher.flush()
        assert await last == 6
        assert await batcher.submit(4) == 8
    assert doubling.calls == [[0, 1, 2], [3], [4]]


async def test_cancelled_caller_does_not_affect_other_requests() -> None:
    doubling = Doubling()
    doubling.go_on.clear()
    async with Batcher[int, int](doubling, BatchLimits(1, 3, 1000)) as batcher:
        gone, stays = asyncio.create_task(batcher.submit(1)), asyncio.create_task(batcher.submit(2))
        await asyncio.sleep(0.01)
        gone.cancel()
        doubling.go_on.set()
        assert await stays == 4
        with pytest.raises(asyncio.CancelledError):
            await gone


async def test_in_flight_limit_bounds_items_and_bytes_and_admits_a_single_large_item() -> None:
    window = InFlightLimit(2, 100)
    await window.acquire(500)
    waiting = asyncio.create_task(window.acquire(1))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    window.release(500)
    await waiting
    await window.acquire(99)
    third = asyncio.create_task(window.acquire(0))
    await asyncio.sleep(0.01)
    assert not third.done()
    window.release(99)
    await third


async def test_cancel_pending_leaves_calls_in_flight_running() -> None:
    called, may_end = asyncio.Event(), asyncio.Event()

    async def call(batch: Sequence[PendingRequest[int, int]]) -> None:
        called.set()
        await may_end.wait()
        for pending in batch:
            pending.set_result(pending.request)

    async with Batcher[int, int](call, BatchLimits(1, 2, 100)) as batcher:
        asked = [asyncio.create_task(batcher.submit(number)) for number in range(5)]
        await called.wait()
        batcher.cancel_pending()
        may_end.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert answers[:2] == [0, 1]
        assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[2:])
        with pytest.raises(asyncio.CancelledError):
            await batcher.submit(6)
