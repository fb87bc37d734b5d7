"""Writes through an alias that moves meanwhile, on the store in memory."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from grpc_kit.deadline import Deadline
from grpc_kit.errors import FailedPreconditionError, UnavailableError
from grpc_kit.server.budget import Budget, Limit
from search_service.core.change_images import ChangeImages, ImageUpdate
from search_service.core.collection_cache import CollectionCache
from search_service.core.collections import Collections
from search_service.core.filters import Equals
from search_service.core.image_locks import ImageLocks
from search_service.core.image_writes import ImageToWrite, WriteResult
from search_service.core.ports import Embedder
from search_service.core.reindexes import Reindexes
from search_service.core.types import Alias, Collection, Consistency, Embedding, EncodedImage, StoredImage, View
from search_service.core.write_images import WriteImages
from tests.memory_store import MemoryStore

NEVER = Deadline.after(None)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
FINGERPRINT = "vgg16-avg-0123456789abcdef"


class Meddler(MemoryStore):
    """Run a callback once, after an operation of the store and before its caller continues."""

    def __init__(self) -> None:
        super().__init__()
        self.after: dict[str, Callable[[], Awaitable[object]]] = {}

    async def _meddle(self, operation: str) -> None:
        if meddle := self.after.pop(operation, None):
            await meddle()

    async def upsert(self, collection: Collection, images: Sequence[StoredImage], deadline: Deadline) -> None:
        await super().upsert(collection, images, deadline)
        await self._meddle("upsert")

    async def delete(self, collection: Collection, ids: Sequence[str], deadline: Deadline) -> None:
        await super().delete(collection, ids, deadline)
        await self._meddle("delete")

    async def query(self, *arguments: object) -> list[StoredImage]:
        found = await super().query(*arguments)  # type: ignore[arg-type]
        await self._meddle("query")
        return found


class World:
    """A collection `old`, a copy `new`, and an alias `live` of `old`."""

    def __init__(self, embedder: Embedder) -> None:
        self.store = Meddler()
        locks = ImageLocks()
        self.time = datetime.now(UTC)
        self.changes = ChangeImages(self.store, self.now, locks)
        self.writes = WriteImages(self.store, embedder, self.now, locks, 100, 10**6, Budget(Limit(10**6, 10**9)).wait)
        known = CollectionCache(self.store)
        self.reindexes = Reindexes(self.store, Collections(self.store, embedder, known, self.now), known, self.now)

    def now(self) -> datetime:
        return self.time

    async def make(self, fingerprint: str = FINGERPRINT) -> "World":
        for name, space in (("old", FINGERPRINT), ("new", fingerprint)):
            await self.store.create_collection(Collection(name, 4, space, NOW, model="vgg16"), NEVER)
        await self.store.set_alias(Alias("live", "old"), NEVER)
        return self

    async def write(self, *ids: str, source: Embedding | EncodedImage | None = None) -> list[WriteResult]:
        ready = Embedding(np.ones(4, np.float32), FINGERPRINT)

        async def messages() -> AsyncIterator[ImageToWrite]:
            for image_id in ids:
                yield ImageToWrite("r", "live", image_id, source or ready, attributes={"sold": True})

        return [result async for result in self.writes.write(messages(), NEVER)]

    async def ids(self, name: str) -> list[str]:
        return [
            image.id
            for image in await self.store.query(
                self.store.collection(name), None, 100, View.ID, Consistency.STRONG, NEVER
            )
        ]


@pytest.fixture
async def world(embedder: Embedder) -> World:
    return await World(embedder).make()


async def test_write_is_repeated_after_the_alias_moved(world: World) -> None:
    world.store.after["upsert"] = lambda: world.store.set_alias(Alias("live", "new"), NEVER)
    (result,) = await world.write("a")
    assert isinstance(result.outcome, StoredImage)
    assert await world.ids("new") == ["a"]


async def test_update_is_repeated_after_the_alias_moved(world: World) -> None:
    await world.write("a")
    await world.store.upsert(
        world.store.collection("new"),
        await world.store.get(world.store.collection("old"), ["a"], View.FULL, Consistency.STRONG, NEVER),
        NEVER,
    )
    world.store.after["upsert"] = lambda: world.store.set_alias(Alias("live", "new"), NEVER)
    await world.changes.update(ImageUpdate("live", "a", ["uri"], "changed", {}), NEVER)
    (found,) = await world.store.get(world.store.collection("new"), ["a"], View.FULL, Consistency.STRONG, NEVER)
    assert found.uri == "changed"


@pytest.mark.parametrize("by_filter", [False, True])
async def test_delete_is_repeated_after_the_alias_moved(world: World, *, by_filter: bool) -> None:
    await world.write("a", "b")
    both = await world.store.get(world.store.collection("old"), ["a", "b"], View.FULL, Consistency.STRONG, NEVER)
    await world.store.upsert(world.store.collection("new"), both, NEVER)
    world.store.after["delete"] = lambda: world.store.set_alias(Alias("live", "new"), NEVER)
    if by_filter:
        assert await world.changes.delete_matching("live", Equals("sold", True), NEVER, validate_only=False) == 2
    else:
        assert await world.changes.delete_ids("live", ["a", "b", "none"], NEVER, validate_only=False) == 2
    assert await world.ids("new") == []


async def test_vector_of_another_model_is_not_stored_after_the_alias_moved(embedder: Embedder) -> None:
    world = await World(embedder).make(fingerprint="another")
    world.store.after["upsert"] = lambda: world.store.set_alias(Alias("live", "new"), NEVER)
    (result,) = await world.write("a")
    assert isinstance(result.outcome, FailedPreconditionError)
    assert result.outcome.reason == "EMBEDDING_MISMATCH"
    # An image can be embedded again, so the error suggests a retry.
    await world.store.set_alias(Alias("live", "old"), NEVER)
    world.store.after["upsert"] = lambda: world.store.set_alias(Alias("live", "new"), NEVER)
    (result,) = await world.write("b", source=EncodedImage(b"\1\2\3\4"))
    assert isinstance(result.outcome, UnavailableError)
    assert result.outcome.reason == "COLLECTION_MOVED"
    assert result.outcome.retry_after
    assert await world.ids("new") == []


async def test_delete_reaches_the_copy_only_during_the_reindex(world: World) -> None:
    await world.reindexes.start("live", "new", NEVER)
    await world.write("a", "b", "c")
    copied = await world.store.get(world.store.collection("old"), ["a", "b", "c"], View.FULL, Consistency.STRONG, NEVER)
    await world.store.upsert(world.store.collection("new"), copied, NEVER)
    await world.changes.delete_ids("live", ["a"], NEVER, validate_only=False)
    assert await world.ids("new") == ["b", "c"]
    await world.reindexes.hold("old", timedelta(seconds=30), NEVER)
    await world.reindexes.finish("old", ["live"], NEVER, allow_fewer=False)
    # By the collection's own name: the copy is in use now.
    await world.changes.delete_ids("old", ["b"], NEVER, validate_only=False)
    assert await world.ids("new") == ["b", "c"]


async def test_delete_spares_a_later_collection_with_the_name_of_the_copy(world: World) -> None:
    await world.write("a")
    await world.reindexes.start("old", "new", NEVER)
    await world.store.delete_collection(world.store.collection("new"), NEVER)
    later = Collection("new", 4, FINGERPRINT, NOW + timedelta(days=1))
    await world.store.create_collection(later, NEVER)
    await world.store.upsert(world.store.collection("new"), [StoredImage("a", vector=np.ones(4, np.float32))], NEVER)
    await world.changes.delete_ids("old", ["a"], NEVER, validate_only=False)
    assert await world.ids("new") == ["a"]


async def test_held_writers_write_to_the_copy_afterwards(world: World) -> None:
    await world.reindexes.start("old", "new", NEVER)
    await world.reindexes.hold("old", timedelta(seconds=30), NEVER)
    waiting = asyncio.create_task(world.write("a"))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    ((alias, previous),) = await world.reindexes.finish("old", ["live"], NEVER, allow_fewer=False)
    assert (alias, previous) == (Alias("live", "new"), "old")
    await waiting
    assert (await world.ids("old"), await world.ids("new")) == ([], ["a"])


async def test_hold_expires_and_waiting_callers_get_an_error_at_their_deadline(world: World) -> None:
    await world.reindexes.start("old", "new", NEVER)
    await world.reindexes.hold("old", timedelta(seconds=30), NEVER)
    with pytest.raises(UnavailableError) as refused:
        await world.changes.delete_ids("live", ["a"], Deadline.after(0.2), validate_only=False)
    assert (refused.value.reason, refused.value.retry_after) == ("COLLECTION_MOVING", 1.0)
    world.time += timedelta(seconds=31)
    (result,) = await world.write("a")
    assert isinstance(result.outcome, StoredImage)
    with pytest.raises(FailedPreconditionError, match="no longer held"):
        await world.reindexes.finish("old", ["live"], NEVER, allow_fewer=False)


async def test_alias_does_not_move_to_an_incomplete_copy(world: World) -> None:
    await world.write("a", "b")
    await world.reindexes.start("old", "new", NEVER)
    for copied, allow_fewer in (([], False), ([], True), (["a"], False), (["a", "b", "c"], True)):
        rows = [StoredImage(image_id, vector=np.ones(4, np.float32)) for image_id in copied]
        await world.store.upsert(world.store.collection("new"), rows, NEVER)
        await world.reindexes.hold("old", timedelta(seconds=30), NEVER)
        with pytest.raises(FailedPreconditionError) as refused:
            await world.reindexes.finish("old", ["live"], NEVER, allow_fewer=allow_fewer)
        assert refused.value.reason == "REINDEX_INCOMPLETE"
        assert (await world.store.get_collection("live", NEVER)).name == "old"
    await world.store.delete(world.store.collection("new"), ["b", "c"], NEVER)
    await world.reindexes.finish("old", ["live"], NEVER, allow_fewer=True)
    assert (await world.store.get_collection("live", NEVER)).name == "new"


async def test_collection_with_an_alias_is_rejected_as_target(world: World) -> None:
    """After a crash between the move of the alias and the end of the reindex."""
    await world.write("a")
    begun, _ = (await world.reindexes.start("old", "new", NEVER))[1:]
    await world.store.set_reindex(world.store.collection("old"), dataclasses.replace(begun, moving=True), NEVER)
    await world.store.set_alias(Alias("live", "new"), NEVER)
    with pytest.raises(FailedPreconditionError, match="live points at it"):
        await world.reindexes.start("old", "new", NEVER)
    await world.store.upsert(world.store.collection("new"), [StoredImage("a", vector=np.ones(4, np.float32))], NEVER)
    await world.changes.delete_ids("old", ["a"], NEVER, validate_only=False)
    assert await world.ids("new") == ["a"]


async def test_hold_can_be_ended_at_any_time(world: World) -> None:
    await world.reindexes.start("old", "new", NEVER)
    held = await world.reindexes.hold("old", timedelta(seconds=30), NEVER)
    await world.store.set_reindex(world.store.collection("old"), dataclasses.replace(held, moving=True), NEVER)
    await world.reindexes.hold("old", timedelta(0), NEVER)
    await asyncio.wait_for(world.write("a"), 5)
    # Later deletions did not reach the copy, so a new reindex must compare all images.
    with pytest.raises(FailedPreconditionError, match="start a reindex first"):
        await world.reindexes.hold("old", timedelta(seconds=30), NEVER)


async def test_delete_by_filter_spares_images_that_no_longer_match(world: World) -> None:
    """An update is acknowledged between the query and the deletion."""
    await world.write("a", "b")
    update = ImageUpdate("old", "a", ["attributes"], "", {"sold": False})
    world.store.after["query"] = lambda: world.changes.update(update, NEVER)
    assert await world.changes.delete_matching("live", Equals("sold", True), NEVER, validate_only=False) == 1
    (kept,) = await world.store.get(world.store.collection("old"), ["a", "b"], View.BASIC, Consistency.STRONG, NEVER)
    assert (kept.id, dict(kept.attributes)) == ("a", {"sold": False})


async def test_write_times_are_set_when_images_are_stored(world: World) -> None:
    """Not when they arrive: a reindex lists the latest changes by this time."""
    slow = asyncio.Event()

    async def hold_up() -> None:
        world.time += timedelta(minutes=5)
        slow.set()

    world.store.after["upsert"] = hold_up
    await world.write("a")
    assert slow.is_set()
    (result,) = await world.write("b")
    (found,) = await world.store.get(world.store.collection("old"), ["b"], View.BASIC, Consistency.STRONG, NEVER)
    assert isinstance(result.outcome, StoredImage)
    assert found.update_time == found.create_time == result.outcome.create_time == world.time
    assert dataclasses.replace(found, vector=None).id == "b"
