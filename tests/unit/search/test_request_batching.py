"""Concurrent items with equal keys share a run."""

import asyncio
from collections.abc import Sequence

import pytest

from grpc_kit.deadline import Deadline
from grpc_kit.errors import DeadlineExceededError
from search_service.adapters.request_batching import RequestBatcher

NEVER = Deadline.after(None)


class Store:
    """Double numbers; a run waits until its gate opens."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, list[int]]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def double(self, key: str, items: Sequence[int], deadline: Deadline) -> list[int]:
        self.runs.append((key, list(items)))
        await self.gate.wait()
        if key == "fault":
            raise ValueError(key)
        return [2 * item for item in items]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_item_runs_alone_in_a_free_slot() -> None:
    store = Store()
    batcher = RequestBatcher(store.double, 2, 2, lambda _: 8)
    assert await batcher.submit("a", 1, NEVER) == 2
    assert await batcher.submit("a", 2, NEVER) == 4
    assert store.runs == [("a", [1]), ("a", [2])]


async def test_waiting_items_of_one_key_share_a_run_in_order() -> None:
    store = Store()
    store.gate.clear()
    batcher = RequestBatcher(store.double, 1, 1, lambda _: 3)
    tasks = []
    for key, item in (("a", 0), ("b", 1), ("a", 2), ("b", 3), ("a", 4), ("a", 5), ("a", 6)):
        tasks.append(asyncio.create_task(batcher.submit(key, item, NEVER)))
        await settle()
    store.gate.set()
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8, 10, 12]
    assert store.runs == [("a", [0]), ("b", [1, 3]), ("a", [2, 4, 5]), ("a", [6])]


async def test_runs_never_exceed_the_slots() -> None:
    store = Store()
    store.gate.clear()
    batcher = RequestBatcher(store.double, 2, 2, lambda _: 1)
    tasks = [asyncio.create_task(batcher.submit("a", item, NEVER)) for item in range(5)]
    await settle()
    assert len(store.runs) == 2
    store.gate.set()
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8]


async def test_failed_run_fails_only_its_own_items() -> None:
    store = Store()
    store.gate.clear()
    batcher = RequestBatcher(store.double, 1, 1, lambda _: 8)
    tasks = [asyncio.create_task(batcher.submit(key, 1, NEVER)) for key in ("a", "fault", "fault", "a")]
    await settle()
    store.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [int, ValueError, ValueError, int]
    assert await batcher.submit("a", 5, NEVER) == 10


async def test_cancelled_and_expired_items_are_not_run() -> None:
    store = Store()
    store.gate.clear()
    batcher = RequestBatcher(store.double, 1, 1, lambda _: 8)
    first = asyncio.create_task(batcher.submit("a", 0, NEVER))
    await settle()
    leaving = asyncio.create_task(batcher.submit("b", 1, NEVER))
    late = asyncio.create_task(batcher.submit("b", 2, Deadline.after(0.001)))
    staying = asyncio.create_task(batcher.submit("b", 3, NEVER))
    await asyncio.sleep(0.01)
    leaving.cancel()
    await settle()
    store.gate.set()
    assert (await first, await staying) == (0, 6)
    with pytest.raises(DeadlineExceededError):
        await late
    assert store.runs == [("a", [0]), ("b", [3])]


async def test_cancelled_caller_does_not_cancel_the_run_of_others() -> None:
    store = Store()
    store.gate.clear()
    batcher = RequestBatcher(store.double, 1, 1, lambda _: 8)
    first = asyncio.create_task(batcher.submit("b", 0, NEVER))
    await settle()
    together = [asyncio.create_task(batcher.submit("a", item, NEVER)) for item in (1, 2)]
    await settle()
    first.cancel()
    store.gate.set()
    assert await asyncio.gather(*together) == [2, 4]


async def test_one_key_uses_only_some_of_the_slots() -> None:
    store = Store()
    store.gate.clear()
    batcher = RequestBatcher(store.double, 3, 1, lambda _: 8)
    tasks = [asyncio.create_task(batcher.submit(key, item, NEVER)) for item, key in enumerate("aaabbc")]
    await settle()
    assert store.runs == [("a", [0]), ("b", [3]), ("c", [5])]
    store.gate.set()
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8, 10]
    assert store.runs[3:] == [("a", [1, 2]), ("b", [4])]
