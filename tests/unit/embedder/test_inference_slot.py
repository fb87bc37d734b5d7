"""Whose turn it is, where several networks share the processors."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedder_service.core.batching import Batcher, BatchPolicy
from embedder_service.core.inference_slot import InferenceSlot
from embedder_service.core.types import Lane, Pixels, Vectors
from grpc_kit.deadline import Deadline
from tests.unit.embedder.doubles import FakeClock, Told

NEVER = Deadline.after(None)
PIXELS = np.zeros((1, 1, 3), np.uint8)


@pytest.fixture
def turns() -> InferenceSlot:
    return InferenceSlot(ThreadPoolExecutor(1))


async def order_of(turns: InferenceSlot, *models: tuple[str, Callable[[], bool]]) -> list[str]:
    """The order in which models that wait for the end of a turn get theirs."""
    order: list[str] = []

    async def take(name: str, has_interactive: Callable[[], bool]) -> None:
        async with turns.acquire(has_interactive):
            order.append(name)

    async with turns.acquire(lambda: True):
        tasks = [asyncio.create_task(take(name, has_interactive)) for name, has_interactive in models]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    return order


def no() -> bool:
    return False


def yes() -> bool:
    return True


async def test_models_of_a_kind_take_turns_in_the_order_of_their_coming(turns: InferenceSlot) -> None:
    assert await order_of(turns, ("a", no), ("b", no), ("c", no)) == ["a", "b", "c"]
    assert await order_of(turns, ("a", yes), ("b", yes), ("c", yes)) == ["a", "b", "c"]


async def test_interactive_images_go_ahead_of_other_models_bulk_and_leave_it_a_share(turns: InferenceSlot) -> None:
    models = [("bulk", no), *((str(number), yes) for number in range(6))]
    assert await order_of(turns, *models) == ["0", "1", "2", "3", "bulk", "4", "5"]


async def test_interactive_images_that_come_while_their_model_waits_count(turns: InferenceSlot) -> None:
    came = asyncio.Event()
    asyncio.get_running_loop().call_soon(came.set)
    assert await order_of(turns, ("a", no), ("b", came.is_set)) == ["b", "a"]


async def test_who_goes_away_while_waiting_holds_nobody_up(turns: InferenceSlot) -> None:
    order: list[str] = []

    async def take(name: str) -> None:
        async with turns.acquire(no):
            order.append(name)

    async with turns.acquire(no):
        gone, told_and_gone, stays = (asyncio.create_task(take(name)) for name in ("gone", "told", "stays"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
    # It is this one's turn by now, and it has not heard of it.
    told_and_gone.cancel()
    await asyncio.wait_for(stays, 5)
    assert order == ["stays"]
    assert await order_of(turns, ("next", no)) == ["next"]


async def test_a_call_for_one_model_waits_for_a_short_run_of_another_models_load_only() -> None:
    clock, runs = FakeClock(), list[tuple[str, int]]()
    with ThreadPoolExecutor(1) as executor:
        turns = InferenceSlot(executor)

        def batcher(name: str) -> Batcher:
            def run(pixels: Pixels) -> Vectors:
                runs.append((name, len(pixels)))
                return np.zeros((len(pixels), 1), np.float32)

            return Batcher(run, BatchPolicy(8, 2), turns, Told(), clock)

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
