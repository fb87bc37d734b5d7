"""Times to live, with the same behaviour on every store."""

import dataclasses
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from grpc_kit.deadline import Deadline
from search_service.adapters.milvus_store import MilvusStore
from search_service.core.expiry import ExpiringStore
from search_service.core.filters import Equals, Not
from search_service.core.ports import Nearest, VectorStore
from search_service.core.types import Collection, Consistency, SearchParameters, StoredImage, View

STRONG = Consistency.STRONG
TTL = timedelta(hours=1)
# Recent, because a Milvus server also uses its own clock.
BEGIN = datetime.now(UTC).replace(microsecond=500_000)


@pytest.fixture
async def expiring(store: VectorStore, deadline: Deadline) -> AsyncIterator[Collection]:
    made = Collection(f"c_{uuid.uuid4().hex}", 8, "f", BEGIN, ttl=TTL)
    await store.create_collection(made, deadline)
    yield made
    await store.delete_collection(made, Deadline.after(30))


def image(image_id: str, age: timedelta) -> StoredImage:
    return StoredImage(
        image_id,
        uri="u",
        attributes={"kind": image_id[0]},
        create_time=BEGIN - age,
        update_time=BEGIN - age,
        vector=np.full(8, 1 + age / TTL, np.float32),
    )


async def test_reads_hide_expired_images(store: VectorStore, expiring: Collection, deadline: Deadline) -> None:
    now = BEGIN
    reading = ExpiringStore(store, lambda: now)
    assert (await reading.get_collection(expiring.name, deadline)).ttl == TTL
    old, young = image("a", TTL / 2), image("b", timedelta())
    await reading.upsert(expiring, [old, young], deadline)

    async def seen() -> list[list[str]]:
        nearest = Nearest(10, View.BASIC, STRONG)
        vector = np.ones(8, np.float32)
        (hits,) = await reading.search(expiring, [vector], nearest, deadline)
        exact = dataclasses.replace(nearest, parameters=SearchParameters(exact=True))
        (compared,) = await reading.search(expiring, [vector], exact, deadline)
        assert await reading.count(expiring, None, STRONG, deadline) == len(hits)
        found = [sorted(hit.image.id for hit in some) for some in (hits, compared)]
        for view in (View.ID, View.BASIC, View.FULL):
            images = await reading.get(expiring, ["a", "b", "c"], view, STRONG, deadline)
            found.append(sorted(image.id for image in images))
            assert all((image.vector is not None) is (view is View.FULL) for image in images)
            assert all((image.update_time is None) is (view is View.ID) for image in images)
            found.append([image.id for image in await reading.query(expiring, None, 10, view, STRONG, deadline)])
        return found

    assert await seen() == [["a", "b"]] * 8
    assert await reading.count(expiring, Not(Equals("kind", "a")), STRONG, deadline) == 1
    now = BEGIN + TTL / 2 + timedelta(seconds=2)
    assert await seen() == [["b"]] * 8
    assert await reading.count(expiring, Equals("kind", "a"), STRONG, deadline) == 0
    # A second write restarts the time to live.
    await reading.upsert(expiring, [dataclasses.replace(old, update_time=now)], deadline)
    assert await seen() == [["a", "b"]] * 8
    now += 2 * TTL
    assert await seen() == [[]] * 8


async def test_recreated_collection_has_its_own_time_to_live(store: VectorStore, deadline: Deadline) -> None:
    reading = ExpiringStore(store, lambda: BEGIN + 2 * TTL)
    name = f"c_{uuid.uuid4().hex}"
    for ttl, count in ((TTL, 0), (None, 1), (3 * TTL, 1)):
        await reading.create_collection(Collection(name, 8, "f", BEGIN, ttl=ttl), deadline)
        described = await reading.get_collection(name, deadline)
        await reading.upsert(described, [image("a", timedelta())], deadline)
        assert await reading.count(described, None, STRONG, deadline) == count
        await reading.delete_collection(described, deadline)


async def test_opening_milvus_lite_deletes_expired_images(tmp_path: Path, deadline: Deadline) -> None:
    path = str(tmp_path / "milvus.db")
    store = MilvusStore(path)
    collection = Collection("c", 8, "f", BEGIN, ttl=TTL)
    await store.create_collection(collection, deadline)
    await store.upsert(collection, [image("a", 2 * TTL), image("b", timedelta())], deadline)
    assert await store.count(collection, None, STRONG, deadline) == 2
    await store.close()
    store = MilvusStore(path)
    assert [image.id for image in await store.query(collection, None, 10, View.ID, STRONG, deadline)] == ["b"]
    await store.close()
