"""Garbage collection and the return of free memory to the system."""

import asyncio
import gc
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest

from embedder_service.adapters.memory import trim_after_work

INTERVAL = 0.02
IMAGES = """
import sys
from embedder_service.adapters import memory

if sys.argv[1] == "unmap":
    memory.unmap_large_blocks()
# By default glibc keeps blocks of less than this from now on.
del [bytearray(16 * 2**20)][0]
before = memory.resident_bytes()
images, small = [], []
for _ in range(60):
    images.append(b"1" * (5 * 2**20))
    small.append(b"1" * 100_000)
images.clear()
print((memory.resident_bytes() - before) // 2**20)
"""


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


async def test_memory_is_trimmed_after_work_and_not_while_idle(collections: list[int]) -> None:
    worked = asyncio.Event()

    async def next_work() -> None:
        await worked.wait()
        worked.clear()

    task = asyncio.create_task(trim_after_work(next_work, INTERVAL))
    counts = []
    for work in (False, True, False, True, True):
        if work:
            worked.set()
        await asyncio.sleep(10 * INTERVAL)
        counts.append(len(collections))
    task.cancel()
    assert counts == [0, 1, 1, 2, 3]


async def test_memory_is_trimmed_repeatedly_under_load(collections: list[int]) -> None:
    enough = asyncio.Event()

    async def next_work() -> None:
        if len(collections) == 3:
            enough.set()

    task = asyncio.create_task(trim_after_work(next_work, INTERVAL))
    await asyncio.wait_for(enough.wait(), 10)
    task.cancel()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt(3) is glibc's")
def test_large_blocks_are_unmapped_when_they_are_freed() -> None:
    kept = subprocess.run([sys.executable, "-c", IMAGES, "unmap"], capture_output=True, text=True, check=True).stdout
    assert int(kept) < 30
