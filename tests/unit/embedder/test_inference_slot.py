"""InferenceSlot: the order in which models get the slot."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedder_service.core.batching import Batcher, BatchPolicy
from embedder_service.core.inference_slot import InferenceSlot
from embedder_service.core.types import Lane, Pixels, Vectors
from grpc_kit.deadline import Deadline
from tests.unit.embedder.doubles import FakeClock, RecordingObserver, without_regions

NEVER = Deadline.after(None)
PIXELS = np.zeros((1, 1, 3), np.uint8)


@pytest.fixture
def slot() -> InferenceSlot:
    return InferenceSlot(ThreadPoolExecutor(1))


async def order_of(slot: InferenceSlot, *models: tuple[str, Callable[[], bool]]) -> list[str]:
    """Return the order in which waiting models get the slot."""
    order: list[str] = []

    async def run(name: str, has_interactive: Callable[[], bool]) -> None:
        async with slot.acquire(has_interactive):
            order.append(name)

    async with slot.acquire(lambda: True):
        tasks = [asyncio.create_task(run(name, has_interactive)) for name, has_interactive in models]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    return order


def no() -> bool:
    return False


def yes() -> bool:
    return True


async def test_models_of_one_lane_get_the_slot_in_order_of_arrival(slot: InferenceSlot) -> None:
    assert await order_of(slot, ("a", no), ("b", no), ("c", no)) == ["a", "b", "c"]
    assert await order_of(slot, ("a", yes), ("b", yes), ("c", yes)) == ["a", "b", "c"]


async def test_interactive_models_go_first_and_bulk_models_get_a_share(slot: InferenceSlot) -> None:
    models = [("bulk", no), *((str(number), yes) for number in range(6))]
    assert await order_of(slot, *models) == ["0", "1", "2", "3", "bulk", "4", "5"]


async def test_interactive_images_that_arrive_while_their_model_waits_count(slot: InferenceSlot) -> None:
    came = asyncio.Event()
    asyncio.get_running_loop().call_soon(came.set)
    assert await order_of(slot, ("a", no), ("b", came.is_set)) == ["b", "a"]


async def test_a_model_cancelled_while_waiting_does_not_block_others(slot: InferenceSlot) -> None:
    order: list[str] = []

    async def run(name: str) -> None:
        async with slot.acquire(no):
            order.append(name)

    async with slot.acquire(no):
        cancelled, cancelled_after_grant, stays = (
            asyncio.create_task(run(name)) for name in ("gone", "granted", "stays")
        )
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
    # This model has the slot by now, but its task has not run yet.
    cancelled_after_grant.cancel()
    await asyncio.wait_for(stays, 5)
    assert order == ["stays"]
    assert await order_of(slot, ("next", no)) == ["next"]


async def test_a_call_waits_for_at_most_one_small_bulk_batch_of_another_model() -> None:
    clock, runs = FakeClock(), list[tuple[str, int]]()
    with ThreadPoolExecutor(1) as executor:
        slot = InferenceSlot(executor)

        def batcher(name: str) -> Batcher:
            def run(pixels: Pixels) -> Vectors:
                runs.append((name, len(pixels)))
                return np.zeros((len(pixels), 1), np.float32)

            return Batcher(without_regions(run), BatchPolicy(8, 2), slot, RecordingObserver(), clock)

        loaded, called = batcher("loaded"), batcher("called")
        load = [asyncio.create_task(loaded.submit(PIXELS, Lane.BULK, NEVER)) for _ in range(24)]
        await asyncio.sleep(0)
        call = asyncio.create_task(called.submit(PIXELS, Lane.INTERACTIVE, NEVER))
        await asyncio.sleep(0)
        for each in (loaded, called):
            each.start()
        await asyncio.wait_for(asyncio.gather(call, *load), 5)
        for each in (loaded, called):
            await each.stop()
    # Without the call, batches of the load would be of eight.
    assert runs[:3] == [("loaded", 2), ("called", 1), ("loaded", 2)]
