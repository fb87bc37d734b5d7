"""The regions of images, with the same behaviour on every store."""

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from grpc_kit.deadline import Deadline
from grpc_kit.errors import NotFoundError
from search_service.adapters.milvus_regions import batches
from search_service.adapters.milvus_rows import row_of
from search_service.adapters.milvus_store import MilvusStore
from search_service.adapters.region_collections import regions_name
from search_service.core import regions
from search_service.core.filters import Equals, IdAfter
from search_service.core.ports import Nearest
from search_service.core.types import (
    Collection,
    Consistency,
    Metric,
    Region,
    RegionHit,
    StoredImage,
    StoredRegion,
    Vector,
    View,
)
from tests.memory_store import MemoryStore, score_and_distance

STRONG = Consistency.STRONG
NOW = datetime.now(UTC)
# As large as the generations of real writes.
FIRST = regions.first_generation(NOW)
BOX = Region(0.1, 0.25, 0.5, 1.0)


@pytest.fixture(params=[Metric.COSINE])
async def regioned(
    request: pytest.FixtureRequest, store: MilvusStore | MemoryStore, deadline: Deadline
) -> AsyncIterator[Collection]:
    """Create an empty collection with regions; `indirect` sets another metric than cosine."""
    made = Collection(f"c_{uuid.uuid4().hex}", 8, "f", NOW, metric=request.param, max_regions=3)
    await store.regions.create(made, deadline)
    await store.create_collection(made, deadline)
    yield made
    await store.delete_collection(made, Deadline.after(30))
    await store.regions.drop(made, Deadline.after(30))


def vectors(count: int, seed: int = 1) -> Vector:
    return np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)


def image(image_id: str, generation: int, count: int = 3, **attributes: str) -> StoredImage:
    """Return an image with regions whose vectors and boxes differ by generation."""
    values = vectors(1 + count, generation % 1000)
    found = tuple(
        StoredRegion(Region(0.0, 0.0, 1 / (2 + number), 1.0), values[1 + number], 0.5 + number)
        for number in range(count)
    )
    return StoredImage(
        image_id,
        uri="u",
        attributes=attributes,
        create_time=NOW,
        update_time=NOW,
        vector=values[0],
        regions=found,
        generation=FIRST + generation,
        region_count=count,
    )


def same(left: tuple[StoredRegion, ...], right: tuple[StoredRegion, ...]) -> bool:
    return [(region.box, region.saliency, region.vector.tolist()) for region in left] == [
        (region.box, region.saliency, region.vector.tolist()) for region in right
    ]


async def test_regions_are_stored_by_generation(
    store: MilvusStore | MemoryStore, regioned: Collection, deadline: Deadline
) -> None:
    first, second, none = image("a", 1), image("a", 2, count=2), image("b", 3, count=0)
    await store.regions.upsert(regioned, [first, second, none], deadline)
    # A write may be repeated.
    await store.regions.upsert(regioned, [second], deadline)
    wanted = [first.generation, second.generation, none.generation, FIRST + 99]
    found = await store.regions.get(regioned, wanted, STRONG, deadline)
    assert found.keys() == {first.generation, second.generation}
    assert same(found[first.generation], first.regions)
    assert same(found[second.generation], second.regions)
    await store.regions.delete(regioned, [first.generation, none.generation, FIRST + 99], deadline)
    found = await store.regions.get(regioned, wanted, STRONG, deadline)
    assert found.keys() == {second.generation}


async def test_images_keep_their_generation_in_every_view(
    store: MilvusStore | MemoryStore, regioned: Collection, deadline: Deadline
) -> None:
    stored = image("a", 7)
    await store.upsert(regioned, [stored], deadline)
    assert (await store.get_collection(regioned.name, deadline)).max_regions == 3
    assert stored.vector is not None
    for view in View:
        (found,) = await store.get(regioned, ["a"], view, STRONG, deadline)
        (queried,) = await store.query(regioned, None, 10, view, STRONG, deadline)
        ((hit,),) = await store.search(regioned, [stored.vector], Nearest(10, view, STRONG), deadline)
        for seen in (found, queried, hit.image):
            assert (seen.generation, seen.region_count, seen.regions) == (stored.generation, 3, ())
            assert (seen.vector is not None) is (view in (View.VECTOR, View.FULL))


async def test_generations_are_listed_in_order(
    store: MilvusStore | MemoryStore, regioned: Collection, deadline: Deadline
) -> None:
    written = [image(f"i{number % 7}", number, count=1 + number % 3) for number in range(1, 41)]
    await store.regions.upsert(regioned, written, deadline)
    for limit in (1, 4, 1000):
        listed: list[tuple[str, int]] = []
        last = FIRST + 3
        while found := await store.regions.generations(regioned, last, FIRST + 31, limit, deadline):
            listed += found
            last = found[-1][1]
        assert listed == [(image.id, image.generation) for image in written[3:30]]


@pytest.mark.parametrize("regioned", list(Metric), indirect=True)
async def test_searches_find_the_nearest_regions(
    store: MilvusStore | MemoryStore, regioned: Collection, deadline: Deadline
) -> None:
    written = [image(f"i{number}", number, kind="ab"[number % 2]) for number in range(1, 41)]
    await store.regions.upsert(regioned, written, deadline)

    def nearest(vector: Vector, some: list[StoredImage]) -> list[RegionHit]:
        hits = [
            RegionHit(one.id, one.generation, region.box, *score_and_distance(vector, region.vector, regioned.metric))
            for one in some
            for region in one.regions
        ]
        return sorted(hits, key=lambda hit: -hit.score)

    def agree(found: list[RegionHit], wanted: list[RegionHit]) -> None:
        assert [(hit.image_id, hit.generation, hit.box) for hit in found] == [
            (hit.image_id, hit.generation, hit.box) for hit in wanted
        ]
        for attribute in ("score", "distance"):
            assert [getattr(hit, attribute) for hit in found] == pytest.approx(
                [getattr(hit, attribute) for hit in wanted], abs=1e-4
            )

    queries = list(vectors(3, 5))
    search = Nearest(20, View.ID, STRONG)
    odd = [one for one in written if one.attributes["kind"] == "b"]
    few = tuple(one.id for one in written[10:20])
    for query, found in zip(queries, await store.regions.search(regioned, queries, search, deadline), strict=True):
        agree(found, nearest(query, written)[:20])
    query = queries[0]
    (found,) = await store.regions.search(
        regioned, [query], dataclasses.replace(search, condition=Equals("kind", "b")), deadline
    )
    agree(found, nearest(query, odd)[:20])
    for condition, some in ((None, written[10:20]), (Equals("kind", "b"), written[10:20:2])):
        among = dataclasses.replace(search, among=few, condition=condition)
        (found,) = await store.regions.search(regioned, [query], among, deadline)
        agree(found, nearest(query, some)[:20])
        best: dict[int, RegionHit] = {}
        for hit in nearest(query, some):
            best.setdefault(hit.generation, hit)
        agree(await store.regions.best_of_all(regioned, query, among, deadline), list(best.values()))
    best = {}
    for hit in nearest(query, written):
        best.setdefault(hit.generation, hit)
    agree(await store.regions.best_of_all(regioned, query, search, deadline), list(best.values()))


async def test_filters_read_the_id_and_the_times_of_the_image(
    store: MilvusStore | MemoryStore, regioned: Collection, deadline: Deadline
) -> None:
    await store.regions.upsert(regioned, [image("a", 1), image('b"\\', 2)], deadline)
    search = Nearest(10, View.ID, STRONG, condition=IdAfter("a"))
    (found,) = await store.regions.search(regioned, [vectors(1)[0]], search, deadline)
    assert {hit.image_id for hit in found} == {'b"\\'}
    search = Nearest(10, View.ID, STRONG, among=('b"\\',))
    (found,) = await store.regions.search(regioned, [vectors(1)[0]], search, deadline)
    assert len(found) == 3


async def test_recreated_collection_does_not_find_earlier_regions(
    store: MilvusStore | MemoryStore, regioned: Collection, deadline: Deadline
) -> None:
    await store.regions.upsert(regioned, [image("a", 1)], deadline)
    later = dataclasses.replace(regioned, create_time=NOW + timedelta(seconds=1))
    with pytest.raises(NotFoundError):
        await store.regions.get(later, [FIRST + 1], STRONG, deadline)
    await store.regions.create(later, deadline)
    assert await store.regions.get(later, [FIRST + 1], STRONG, deadline) == {}
    await store.regions.drop(later, deadline)
    await store.regions.drop(later, deadline)
    assert len(await store.regions.get(regioned, [FIRST + 1], STRONG, deadline)) == 1
    for call in (
        store.regions.upsert(later, [image("a", 1)], deadline),
        store.regions.delete(later, [FIRST + 1], deadline),
        store.regions.generations(later, 0, FIRST, 10, deadline),
        store.regions.search(later, [vectors(1)[0]], Nearest(10, View.ID, STRONG), deadline),
        store.regions.best_of_all(later, vectors(1)[0], Nearest(10, View.ID, STRONG), deadline),
    ):
        with pytest.raises(NotFoundError):
            await call


async def test_leftovers_are_regions_without_their_collection(
    store: MilvusStore | MemoryStore, regioned: Collection, deadline: Deadline
) -> None:
    gone = Collection(f"c_{uuid.uuid4().hex}", 8, "f", NOW - timedelta(seconds=1), max_regions=1)
    # The name exists, with another creation time.
    earlier = dataclasses.replace(regioned, create_time=NOW - timedelta(seconds=2))
    for collection in (gone, earlier):
        await store.regions.create(collection, deadline)
    found = {collection.identity for collection in await store.regions.leftovers(deadline)}
    assert {gone.identity, earlier.identity} <= found
    assert regioned.identity not in found
    names = [collection.name for collection in await store.list_collections("", 10_000, deadline)]
    assert regioned.name in names
    assert not [name for name in names if name.startswith("_")]
    for collection in await store.regions.leftovers(deadline):
        if collection.identity in (gone.identity, earlier.identity):
            await store.regions.drop(collection, deadline)
    found = {collection.identity for collection in await store.regions.leftovers(deadline)}
    assert not found & {gone.identity, earlier.identity}


async def test_rows_that_exist_twice_hide_no_other_rows(milvus_uri: str, deadline: Deadline) -> None:
    """A crash of Milvus may leave them. Without a limit, Milvus 2.3 then leaves out other rows."""
    store = MilvusStore(milvus_uri)
    made = Collection(f"c_{uuid.uuid4().hex}", 8, "f", NOW, max_regions=3)
    await store.regions.create(made, deadline)
    await store.create_collection(made, deadline)
    written = [image(f"i{number}", number) for number in range(1, 6)]
    await store.upsert(made, written, deadline)
    await store.regions.upsert(made, written, deadline)
    client = (await store.calls.connected(deadline)).blocking
    again = [row_of(one, made.max_regions) for one in written[3:]]
    await asyncio.to_thread(client.insert, made.name, again, timeout=30)
    rows = [row for batch in batches(made, written[2:]) for row in batch]
    await asyncio.to_thread(client.insert, regions_name(made), rows, timeout=30)
    ids = tuple(one.id for one in written)
    images = await store.get(made, ids, View.FULL, STRONG, deadline)
    assert sorted(one.id for one in images) == sorted(ids)
    found = await store.regions.get(made, [one.generation for one in written], STRONG, deadline)
    assert [len(found[one.generation]) for one in written] == [3] * 5
    among = Nearest(100, View.BASIC, STRONG, among=ids)
    (hits,) = await store.search(made, [vectors(1)[0]], among, deadline)
    assert sorted(hit.image.id for hit in hits) == sorted(ids)
    best = await store.regions.best_of_all(made, vectors(1)[0], among, deadline)
    assert sorted(hit.image_id for hit in best) == sorted(ids)
    assert best == await store.regions.best_of_all(made, vectors(1)[0], Nearest(100, View.ID, STRONG), deadline)
    listed = await store.regions.generations(made, 0, FIRST + 100, 100, deadline)
    assert listed == [(one.id, one.generation) for one in written]
    # A deletion deletes both rows.
    await store.regions.delete(made, [written[4].generation], deadline)
    await store.delete(made, ["i5"], deadline)
    assert (await store.regions.get(made, [written[4].generation], STRONG, deadline)) == {}
    assert await store.get(made, ["i5"], View.ID, STRONG, deadline) == []
    await store.delete_collection(made, deadline)
    await store.regions.drop(made, deadline)
    await store.close()


async def test_renamed_collection_keeps_its_regions(milvus_uri: str, deadline: Deadline) -> None:
    """An operator may rename a collection with Milvus' tools, first without its regions."""
    store = MilvusStore(milvus_uri)
    made = Collection(f"c_{uuid.uuid4().hex}", 8, "f", NOW + timedelta(microseconds=1), max_regions=3)
    await store.regions.create(made, deadline)
    await store.create_collection(made, deadline)
    await store.upsert(made, [image("a", 1)], deadline)
    await store.regions.upsert(made, [image("a", 1)], deadline)
    client = (await store.calls.connected(deadline)).blocking
    renamed = dataclasses.replace(made, name=f"{made.name}_2")
    await asyncio.to_thread(client.rename_collection, made.name, renamed.name, timeout=30)
    assert made.identity not in {left.identity for left in await store.regions.leftovers(deadline)}
    described = await store.get_collection(renamed.name, deadline)
    assert described == renamed
    with pytest.raises(NotFoundError):
        await store.regions.get(described, [FIRST + 1], STRONG, deadline)
    await asyncio.to_thread(client.rename_collection, regions_name(made), regions_name(renamed), timeout=30)
    assert len(await store.regions.get(described, [FIRST + 1], STRONG, deadline)) == 1
    await store.delete_collection(described, deadline)
    await store.regions.drop(described, deadline)
    await store.close()


async def test_regions_are_loaded_at_start_and_expire_with_their_image(tmp_path: Path, deadline: Deadline) -> None:
    path = str(tmp_path / "milvus.db")
    store = MilvusStore(path)
    made = Collection("c", 8, "f", NOW, ttl=timedelta(hours=1), max_regions=3)
    await store.regions.create(made, deadline)
    await store.create_collection(made, deadline)
    old = dataclasses.replace(image("old", 1), update_time=NOW - timedelta(hours=2))
    await store.upsert(made, [old, image("new", 2)], deadline)
    await store.regions.upsert(made, [old, image("new", 2)], deadline)
    await store.close()
    store = MilvusStore(path)
    # Milvus Lite deletes no expired rows by itself; the service does when it opens the file.
    assert [one.id for one in await store.query(made, None, 10, View.ID, STRONG, deadline)] == ["new"]
    assert await store.regions.generations(made, 0, FIRST + 10, 10, deadline) == [("new", FIRST + 2)]
    (hits,) = await store.regions.search(made, [vectors(1)[0]], Nearest(10, View.ID, STRONG), deadline)
    assert len(hits) == 3
    await store.close()
