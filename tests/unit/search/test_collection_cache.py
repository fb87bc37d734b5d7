"""Searches cache a collection's description for a second. No search fails because the description is outdated."""

from datetime import UTC, datetime

import numpy as np
import pytest

from grpc_kit.deadline import Deadline
from grpc_kit.errors import FailedPreconditionError, NotFoundError
from search_service.core.collection_cache import CollectionCache
from search_service.core.collections import Collections
from search_service.core.ports import Embedder
from search_service.core.search_images import SearchImages
from search_service.core.searches import Search
from search_service.core.types import Alias, Collection, Embedding, StoredImage
from tests.memory_store import MemoryStore

NEVER = Deadline.after(None)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class CountingStore(MemoryStore):
    """A store that counts the reads of descriptions."""

    reads = 0

    async def get_collection(self, name: str, deadline: Deadline) -> Collection:
        self.reads += 1
        return await super().get_collection(name, deadline)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def store() -> CountingStore:
    store = CountingStore()
    for name, fingerprint in (("old", "f1"), ("new", "f2")):
        await store.create_collection(Collection(name, 2, fingerprint, NOW), NEVER)
        await store.upsert(store.collection(name), [StoredImage(f"in {name}", vector=np.ones(2, np.float32))], NEVER)
    await store.set_alias(Alias("live", "old"), NEVER)
    store.reads = 0
    return store


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def known(store: CountingStore, clock: Clock) -> CollectionCache:
    return CollectionCache(store, clock)


@pytest.fixture
def searches(store: CountingStore, embedder: Embedder, known: CollectionCache) -> SearchImages:
    return SearchImages(store, embedder, known)


def search(fingerprint: str) -> Search:
    return Search("live", Embedding(np.ones(2, np.float32), fingerprint))


async def found(searches: SearchImages, fingerprint: str) -> str:
    (hit,) = (await searches.search(search(fingerprint), NEVER)).hits
    return hit.image.id


async def test_cache_entry_expires_after_a_second(store: CountingStore, clock: Clock, known: CollectionCache) -> None:
    for moment, reads in ((0.0, 1), (0.5, 1), (0.99, 1), (1.01, 2), (1.5, 2)):
        clock.now = 100 + moment
        collection, is_cached = await known.get("live", NEVER)
        assert collection.name == "old"
        assert store.reads == reads
        assert is_cached is (moment not in {0.0, 1.01})


async def test_search_follows_a_moved_alias_within_a_second(
    store: CountingStore, clock: Clock, searches: SearchImages
) -> None:
    assert await found(searches, "f1") == "in old"
    await store.set_alias(Alias("live", "new"), NEVER)
    clock.now += 1.1
    assert await found(searches, "f2") == "in new"


async def test_failed_search_is_repeated_if_the_collection_has_changed(
    store: CountingStore, searches: SearchImages
) -> None:
    assert await found(searches, "f1") == "in old"
    await store.set_alias(Alias("live", "new"), NEVER)
    # The cached description has another fingerprint than this vector.
    assert await found(searches, "f2") == "in new"
    with pytest.raises(FailedPreconditionError):
        await found(searches, "f1")


async def test_search_in_a_deleted_collection_is_not_found(store: CountingStore, searches: SearchImages) -> None:
    assert await found(searches, "f1") == "in old"
    await store.delete_alias("live", NEVER)
    await store.delete_collection(store.collection("old"), NEVER)
    with pytest.raises(NotFoundError):
        await found(searches, "f1")


async def test_changes_by_this_service_clear_the_cache(
    store: CountingStore, embedder: Embedder, known: CollectionCache, searches: SearchImages
) -> None:
    collections = Collections(store, embedder, known, lambda: NOW)
    assert await found(searches, "f1") == "in old"
    await collections.set_alias(Alias("live", "new"), NEVER)
    assert await found(searches, "f2") == "in new"
    await collections.delete_alias("live", NEVER)
    with pytest.raises(NotFoundError):
        await found(searches, "f2")
