"""When the embedder collects garbage and gives memory back."""

import asyncio
import gc
from collections.abc import Iterator

import pytest

from embedder_service.adapters.memory import give_back_after_work

INTERVAL = 0.02


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """The whole collections of garbage that were asked for so far, one entry each."""
    whole: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            whole.append(1)

    gc.collect()
    gc.disable()
    gc.callbacks.append(note)
    yield whole
    gc.callbacks.remove(note)
    gc.enable()


async def test_memory_is_given_back_after_work_and_not_while_idle(collections: list[int]) -> None:
    worked = asyncio.Event()

    async def next_work() -> None:
        await worked.wait()
        worked.clear()

    task = asyncio.create_task(give_back_after_work(next_work, INTERVAL))
    counts = []
    for work in (False, True, False, True, True):
        if work:
            worked.set()
        await asyncio.sleep(10 * INTERVAL)
        counts.append(len(collections))
    task.cancel()
    assert counts == [0, 1, 1, 2, 3]


async def test_memory_is_given_back_again_and_again_while_work_goes_on(collections: list[int]) -> None:
    enough = asyncio.Event()

    async def next_work() -> None:
        if len(collections) == 3:
            enough.set()

    task = asyncio.create_task(give_back_after_work(next_work, INTERVAL))
    await asyncio.wait_for(enough.wait(), 10)
    task.cancel()
