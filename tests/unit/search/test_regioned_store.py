"""Images with regions while steps fail, processes crash, replicas write at once and reads are stale."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from grpc_kit.errors import NotFoundError, ResourceExhaustedError, UnavailableError
from search_service.core import region_trash, regioned_store
from search_service.core.region_trash import STALENESS
from search_service.core.types import View
from tests.memory_store import MemoryStore
from tests.unit.search.regioned_images import (
    BOUNDED,
    COLLECTION,
    DEADLINE,
    ORPHAN_AGE,
    STRONG,
    Clock,
    CrashError,
    Process,
    Step,
    created,
    image,
    orphans,
    version_of,
)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_trash, "CONFIRM_SECONDS", 0.0)
    monkeypatch.setattr(regioned_store, "PAUSES", (0.0,) * len(regioned_store.PAUSES))


def crash_at(position: int, *, before: bool) -> Step:
    """Return a step function that ends the process at the call with this number."""
    count = 0

    async def step(_: str, call: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal count
        count += 1
        if count == position and before:
            raise CrashError
        result = await call()
        if count == position:
            raise CrashError
        return result

    return step


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("position", range(1, 6))
@pytest.mark.parametrize("operation", ["replace", "delete"])
async def test_crash_between_any_two_steps_leaves_one_write(operation: str, position: int, *, before: bool) -> None:
    memory, clock = MemoryStore(), Clock()
    first = await created(memory, clock)
    await first.store.upsert(COLLECTION, [image("a", 1), image("b", 1, count=3)], DEADLINE)
    dying = Process(memory, clock, crash_at(position, before=before))
    crashed = False
    try:
        if operation == "replace":
            await dying.store.upsert(COLLECTION, [image("a", 2, count=3), image("c", 2)], DEADLINE)
        else:
            await dying.store.delete(COLLECTION, ["a"], DEADLINE)
        clock.advance(STALENESS)
        await dying.trash.delete_due()
    except CrashError:
        crashed = True
    reader = Process(memory, clock)
    versions = await reader.read(["a", "b", "c"])
    after = {"replace": {"a": 2, "b": 1, "c": 2}, "delete": {"b": 1}}[operation]
    assert versions in ({"a": 1, "b": 1}, after)
    if not crashed:
        assert versions == after
        assert not await orphans(memory)
    # Too young to be swept: a write in flight looks the same.
    left = await orphans(memory)
    assert await reader.sweep.sweep() == 0
    assert await orphans(memory) == left
    clock.advance(ORPHAN_AGE.total_seconds() + 1)
    assert await reader.sweep.sweep() == len(left)
    assert sum(reader.swept) == len(left)
    assert not await orphans(memory)
    assert await reader.read(["a", "b", "c"]) == versions


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("position", range(1, 4))
@pytest.mark.parametrize("operation", ["create", "delete"])
async def test_crash_while_a_collection_is_created_or_deleted_leaves_no_regions(
    operation: str, position: int, *, before: bool
) -> None:
    memory, clock = MemoryStore(), Clock()
    dying = Process(memory, clock, crash_at(position, before=before))
    if operation == "delete":
        await created(memory, clock)
    with suppress(CrashError):
        if operation == "create":
            await dying.store.create_collection(COLLECTION, DEADLINE)
        else:
            await dying.store.delete_collection(COLLECTION, DEADLINE)
    reader = Process(memory, clock)
    exists = bool(await memory.list_collections("", 10, DEADLINE))
    clock.advance(ORPHAN_AGE.total_seconds() + 1)
    await reader.sweep.sweep()
    if exists:
        await reader.store.upsert(COLLECTION, [image("a", 1)], DEADLINE)
        assert await reader.read(["a"]) == {"a": 1}
    else:
        with pytest.raises(NotFoundError):
            memory.regions.rows(COLLECTION)


async def test_write_that_takes_too_long_is_not_committed() -> None:
    """Its regions may be swept by then."""
    memory, clock = MemoryStore(), Clock()
    process = await created(memory, clock)
    await process.store.upsert(COLLECTION, [image("a", 1)], DEADLINE)

    async def slow(name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        result = await call()
        if name == "regions.upsert":
            clock.advance(ORPHAN_AGE.total_seconds() / 2 + 1)
        return result

    with pytest.raises(UnavailableError) as caught:
        await Process(memory, clock, slow).store.upsert(COLLECTION, [image("a", 2)], DEADLINE)
    assert caught.value.reason == "COMMIT_TOO_LATE"
    assert await process.read(["a"]) == {"a": 1}
    clock.advance(ORPHAN_AGE.total_seconds())
    assert await process.sweep.sweep() == 1


async def test_repeated_write_of_an_earlier_generation_keeps_its_regions() -> None:
    """A store may apply a write twice, with the write of another replica in between."""
    memory, clock = MemoryStore(), Clock()
    process = await created(memory, clock)
    await process.store.upsert(COLLECTION, [image("a", 1)], DEADLINE)
    earlier = await memory.get(COLLECTION, ["a"], View.FULL, STRONG, DEADLINE)
    await process.store.upsert(COLLECTION, [image("a", 2)], DEADLINE)
    await memory.upsert(COLLECTION, earlier, DEADLINE)
    clock.advance(STALENESS)
    assert await process.trash.delete_due() == 1
    assert await process.read(["a"]) == {"a": 1}
    clock.advance(ORPHAN_AGE.total_seconds() + 1)
    assert await process.sweep.sweep() == 1
    assert await process.read(["a"]) == {"a": 1}


async def test_reads_of_an_earlier_version_delete_no_regions_of_the_present_one() -> None:
    """While an image is written again and again, Milvus 2.3 may return a version that was replaced long ago."""
    memory, clock = MemoryStore(), Clock()
    process = await created(memory, clock)
    await process.store.upsert(COLLECTION, [image("a", 1)], DEADLINE)
    earlier = await memory.get(COLLECTION, ["a"], View.FULL, STRONG, DEADLINE)
    await process.store.upsert(COLLECTION, [image("a", 2)], DEADLINE)
    clock.advance(ORPHAN_AGE.total_seconds() + 1)
    ghosts = 0

    async def step(name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal ghosts
        if name == "images.get" and ghosts:
            ghosts -= 1
            return earlier
        return await call()

    haunted = Process(memory, clock, step)
    ghosts = 1
    assert await haunted.sweep.sweep() == 0
    assert await process.read(["a"]) == {"a": 2}
    assert await haunted.sweep.sweep() == 1
    assert not await orphans(memory)
    # The regions of the earlier version are gone, so a reader reads the image again, more than once if needed.
    for count in (1, 2, 3):
        ghosts = count
        assert await haunted.read(["a"]) == {"a": 2}


async def test_two_replicas_write_one_id() -> None:
    memory, clock = MemoryStore(), Clock()
    await created(memory, clock)
    both = asyncio.Barrier(2)

    async def meet(name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        result = await call()
        if name == "images.get":
            await both.wait()
        return result

    replicas = [Process(memory, clock, meet) for _ in range(2)]
    writes = [
        replica.store.upsert(COLLECTION, [image("a", version)], DEADLINE) for version, replica in enumerate(replicas, 1)
    ]
    await asyncio.gather(*writes)
    reader = Process(memory, clock)
    assert (await reader.read(["a"])).keys() == {"a"}
    # Neither replica knows of the other's write. The sweep does.
    assert len(await orphans(memory)) == 1
    clock.advance(ORPHAN_AGE.total_seconds() + 1)
    assert await reader.sweep.sweep() == 1


async def test_page_replaces_images_that_were_deleted_meanwhile() -> None:
    """A short page would be the last one."""
    memory, clock = MemoryStore(), Clock()
    process = await created(memory, clock)
    await process.store.upsert(COLLECTION, [image(f"i{number}", 1) for number in range(9)], DEADLINE)
    deleting = ["i1", "i2"]

    async def step(name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        result = await call()
        if name == "images.query" and deleting:
            await process.store.delete(COLLECTION, deleting, DEADLINE)
            deleting.clear()
            clock.advance(STALENESS)
            await process.trash.delete_due()
        return result

    reading = Process(memory, clock, step)
    found = await reading.store.query(COLLECTION, None, 5, View.FULL, BOUNDED, DEADLINE)
    assert [(one.id, version_of(one)) for one in found] == [(f"i{number}", 1) for number in (0, 3, 4, 5, 6)]


async def test_lost_regions_are_reported_and_the_image_stays_readable(capsys: pytest.CaptureFixture[str]) -> None:
    memory, clock = MemoryStore(), Clock()
    process = await created(memory, clock)
    await process.store.upsert(COLLECTION, [image("a", 1), image("b", 1)], DEADLINE)
    # Another program deletes rows.
    del memory.regions.rows(COLLECTION)[(await memory.get(COLLECTION, ["a"], View.ID, STRONG, DEADLINE))[0].generation]
    found = await process.store.get(COLLECTION, ["a", "b"], View.FULL, BOUNDED, DEADLINE)
    assert [(one.id, len(one.regions), one.region_count) for one in found] == [("a", 0, 2), ("b", 2, 2)]
    assert "images lack regions" in capsys.readouterr().out


async def test_answer_with_too_many_bytes_is_refused_before_it_is_read() -> None:
    memory, clock = MemoryStore(), Clock()
    process = await created(memory, clock)
    read = []

    async def step(name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        read.append(name)
        return await call()

    # 3 regions x 4 components x 4 bytes are 48 bytes an image; 4,096 bytes are allowed.
    images = [image(f"i{number:03}", 1, count=3) for number in range(86)]
    await process.store.upsert(COLLECTION, images, DEADLINE)
    reading = Process(memory, clock, step)
    with pytest.raises(ResourceExhaustedError, match="4128 bytes; at most 4096") as caught:
        await reading.store.query(COLLECTION, None, 100, View.FULL, STRONG, DEADLINE)
    assert caught.value.reason == "ANSWER_TOO_LARGE"
    assert "regions.get" not in read
    assert len(await reading.store.query(COLLECTION, None, 85, View.FULL, STRONG, DEADLINE)) == 85


async def test_collection_without_regions_is_left_alone() -> None:
    memory, clock = MemoryStore(), Clock()
    process = Process(memory, clock)
    flat = dataclasses.replace(COLLECTION, name="flat", max_regions=0)
    await process.store.create_collection(flat, DEADLINE)
    await process.store.upsert(flat, [dataclasses.replace(image("a", 1), regions=())], DEADLINE)
    (found,) = await process.store.get(flat, ["a"], View.FULL, STRONG, DEADLINE)
    assert (found.generation, found.region_count, version_of(found)) == (0, 0, 1)
    await process.store.delete(flat, ["a"], DEADLINE)
    assert await process.store.count(flat, None, STRONG, DEADLINE) == 0
    assert len(process.trash) == 0
    await process.sweep.sweep()
    await process.store.delete_collection(flat, DEADLINE)


async def test_trash_has_a_limit_and_the_sweep_deletes_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_trash, "MAX_ENTRIES", 3)
    memory, clock = MemoryStore(), Clock()
    process = await created(memory, clock)
    for version in (1, 2):
        await process.store.upsert(COLLECTION, [image(f"i{number}", version) for number in range(5)], DEADLINE)
    assert len(process.trash) == 3
    clock.advance(STALENESS)
    assert await process.trash.delete_due() == 3
    assert len(await orphans(memory)) == 2
    clock.advance(ORPHAN_AGE.total_seconds() + 1)
    assert await process.sweep.sweep() == 2


async def test_trash_leaves_the_rest_to_the_sweep_if_the_store_fails() -> None:
    memory, clock = MemoryStore(), Clock()
    await created(memory, clock)

    async def step(name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        if name == "regions.delete":
            raise UnavailableError("MILVUS_UNAVAILABLE", "down")
        return await call()

    failing = Process(memory, clock, step)
    for version in (1, 2):
        await failing.store.upsert(COLLECTION, [image("a", version)], DEADLINE)
    clock.advance(STALENESS)
    assert await failing.trash.delete_due() == 1
    assert len(await orphans(memory)) == 1
    # A deleted collection is no failure either.
    await failing.store.upsert(COLLECTION, [image("a", 3)], DEADLINE)
    await failing.store.delete_collection(COLLECTION, DEADLINE)
    clock.advance(STALENESS)
    assert await failing.trash.delete_due() == 1


async def test_sweep_continues_after_a_failure() -> None:
    memory, clock = MemoryStore(), Clock()
    process = await created(memory, clock)
    await process.store.upsert(COLLECTION, [image("a", 1)], DEADLINE)
    await memory.delete(COLLECTION, ["a"], DEADLINE)
    clock.advance(ORPHAN_AGE.total_seconds() + 1)
    failures = 1
    swept = asyncio.Event()

    async def step(name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal failures
        if name == "images.list_collections" and failures:
            failures -= 1
            raise UnavailableError("MILVUS_UNAVAILABLE", "down")
        result = await call()
        if name == "regions.leftovers":
            swept.set()
        return result

    running = asyncio.create_task(Process(memory, clock, step).sweep.run(0.001))
    await asyncio.wait_for(swept.wait(), 10)
    running.cancel()
    assert not await orphans(memory)
