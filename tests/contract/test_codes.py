"""Binary codes on a Milvus server and in memory; Milvus Lite rejects them.

The main tests run on both. Tests of crashes and of several processes run in memory only.
"""

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpc_kit.deadline import Deadline
from grpc_kit.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError, UnimplementedError
from search_service.adapters.code_collections import CODE_COLLECTION
from search_service.adapters.milvus_codes import MilvusCodes
from search_service.adapters.milvus_store import MilvusStore
from search_service.core.coarse_search import CoarseSearches
from search_service.core.code_sets import CodeSets, CodeSetStatus, Encoding
from search_service.core.coded_store import CodedStore, CodeWriter
from search_service.core.codes import Codes, CodeTransform
from search_service.core.collection_cache import CollectionCache
from search_service.core.expiry import ExpiringStore
from search_service.core.filters import Equals, Filter, Range, UpdatedWithin
from search_service.core.image_locks import ImageLocks
from search_service.core.ports import Nearest, VectorStore
from search_service.core.search_images import SearchImages
from search_service.core.searches import GroupBy, Search, SearchResult, StoredImageQuery
from search_service.core.types import (
    CodeSet,
    Collection,
    Consistency,
    Embedding,
    Hit,
    Metric,
    SearchParameters,
    StoredImage,
    Vector,
    View,
)
from tests.contract.searching import search_one
from tests.memory_codes import MemoryCodes
from tests.memory_store import MemoryStore

NOW = datetime(2026, 3, 4, 5, 6, 7, 123456, UTC)
DIMENSION, BITS = 72, 64


def soon() -> Deadline:
    return Deadline.after(60)


def vectors_of(count: int, seed: int = 1) -> Vector:
    """Return vectors around some centers, so that near and far vectors differ clearly."""
    dice = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(20, DIMENSION))
    vectors: Vector = (centres[np.arange(count) % 20] + 0.3 * dice.normal(size=(count, DIMENSION))).astype(np.float32)
    return vectors


def images_of(count: int, seed: int = 1, prefix: str = "i", when: datetime = NOW) -> list[StoredImage]:
    return [
        StoredImage(
            f"{prefix}{number:04d}",
            attributes={"number": number, "odd": bool(number % 2)},
            create_time=when,
            update_time=when,
            vector=vector,
        )
        for number, vector in enumerate(vectors_of(count, seed))
    ]


def transform_of(seed: int = 0, bits: int = BITS) -> CodeTransform:
    return CodeTransform(np.random.default_rng(seed).normal(size=(bits, DIMENSION + 1)).astype(np.float32))


class Kit:
    """The objects of one process of the service, on one store."""

    def __init__(
        self,
        images: MilvusStore | MemoryStore,
        codes: MilvusCodes | MemoryCodes,
        now: Callable[[], datetime] = lambda: NOW,
    ) -> None:
        self.images = images
        self.codes = codes
        self.writer = CodeWriter(codes)
        self.store = CodedStore(images, codes, self.writer)
        self.sets = CodeSets(self.store, codes, self.writer, CollectionCache(self.store), ImageLocks(), now)
        seen = ExpiringStore(self.store, now)
        no_embedder: Any = None
        coarse = CoarseSearches(seen, codes, self.writer, now)
        self.searches = SearchImages(seen, no_embedder, CollectionCache(seen), coarse)

    def another(self, now: datetime = NOW) -> "Kit":
        """Return another process on the same store, with empty caches."""
        return Kit(self.images, self.codes, lambda: now)

    async def get(self, name: str) -> Collection:
        return await self.store.get_collection(name, soon())

    async def upsert(self, name: str, images: Sequence[StoredImage]) -> None:
        await self.store.upsert(await self.get(name), images, soon())

    async def delete(self, name: str, *ids: str) -> None:
        await self.store.delete(await self.get(name), ids, soon())

    async def count(self, name: str) -> int:
        return await self.store.count(await self.get(name), None, Consistency.STRONG, soon())

    async def create(self, name: str, transform: CodeTransform) -> CodeSet:
        return await self.sets.create(await self.sets.find(name, soon()), transform, soon())

    async def encode(self, name: str) -> Encoding:
        return [step async for step in self.sets.encode(name, soon)][-1]

    async def statuses(self, name: str) -> list[CodeSetStatus]:
        return (await self.sets.describe(name, soon()))[1]

    async def search(self, name: str, vector: Vector, coarse: int | None = 20, **options: Any) -> SearchResult:
        query = Embedding(vector, "f")
        asked = Search(name, query, coarse=coarse, paged=True, consistency=Consistency.STRONG, **options)
        return await self.searches.search(asked, soon())

    async def ids(self, name: str, vector: Vector, coarse: int | None = 20, **options: Any) -> list[str]:
        return [hit.image.id for hit in (await self.search(name, vector, coarse, **options)).hits]

    async def stored_codes(self, name: str, codes: CodeSet) -> dict[str, bytes]:
        """Return the codes as the store has them."""
        if isinstance(self.codes, MemoryCodes):
            return self.codes.values(await self.get(name), codes)
        assert isinstance(self.images, MilvusStore)
        client = (await self.images.calls.connected(soon())).blocking
        rows = await asyncio.to_thread(
            client.query,
            f"_codes_{codes.version}_{name}",
            filter='id > ""',
            output_fields=["id", "code"],
            consistency_level="Strong",
            limit=10_000,
        )
        return {row["id"]: row["code"][0] for row in rows}

    async def versions(self, name: str) -> list[str]:
        """Return the versions of all stored sets, including those that the description does not name."""
        if isinstance(self.codes, MemoryCodes):
            return self.codes.versions(name)
        assert isinstance(self.images, MilvusStore)
        client = (await self.images.calls.connected(soon())).blocking
        names = await asyncio.to_thread(client.list_collections)
        found = [side[1] for kept in names if (side := CODE_COLLECTION.fullmatch(kept)) and side[2] == name]
        assert len(found) == 2 * len(set(found))
        return sorted(set(found))


def codes_of(transform: CodeTransform, images: Sequence[StoredImage]) -> Codes:
    return transform.encode(np.array([image.vector for image in images]), Metric.COSINE)


def expected(transform: CodeTransform, images: Sequence[StoredImage]) -> dict[str, bytes]:
    codes = codes_of(transform, images)
    return {image.id: code.tobytes() for image, code in zip(images, codes, strict=True)}


def vector_of(image: StoredImage) -> Vector:
    assert image.vector is not None
    return image.vector


ON_BOTH = pytest.mark.parametrize("kit", ["memory", "server"], indirect=True)


@pytest.fixture
async def kit(request: pytest.FixtureRequest) -> AsyncIterator[Kit]:
    if getattr(request, "param", "memory") == "memory":
        store = MemoryStore()
        yield Kit(store, MemoryCodes(store))
        return
    uri: str = request.getfixturevalue("milvus_uri")
    milvus = MilvusStore(uri)
    try:
        yield Kit(milvus, milvus.codes)
    finally:
        await milvus.close()


@pytest.fixture
async def name(kit: Kit) -> AsyncIterator[str]:
    made = Collection(f"c_{uuid.uuid4().hex}", DIMENSION, "f", NOW)
    await kit.store.create_collection(made, soon())
    yield made.name
    await kit.store.delete_collection(await kit.get(made.name), soon())
    assert await kit.versions(made.name) == []


@ON_BOTH
async def test_codes_are_created_encoded_and_searched(kit: Kit, name: str) -> None:
    images = images_of(300)
    await kit.upsert(name, images)
    transform = transform_of()
    made = await kit.create(name, transform)
    assert (made.version, made.number, made.bits, made.ready) == (transform.version, 1, BITS, False)
    with pytest.raises(FailedPreconditionError) as caught:
        await kit.search(name, vector_of(images[0]))
    assert caught.value.reason == "CODES_INCOMPLETE"
    done = await kit.encode(name)
    assert (done.image_count, done.encoded, done.removed) == (300, 300, 0)
    assert done.ready == dataclasses.replace(made, ready=True)
    assert await kit.stored_codes(name, made) == expected(transform, images)
    (status,) = await kit.statuses(name)
    assert (status.codes, status.count, status.size) == (done.ready, 300, 300 * 8)
    await found_as_by_vectors(kit, name, images)
    await found_by_codes(kit, name, images, transform)
    await filtered(kit, name, images)
    await paged_and_grouped(kit, name, images)
    await searched_at_the_same_time(kit, name, images)


async def found_as_by_vectors(kit: Kit, name: str, images: Sequence[StoredImage]) -> None:
    found = await kit.search(name, vector_of(images[5]), 60)
    exact = await kit.search(name, vector_of(images[5]), None, parameters=SearchParameters(exact=True))
    assert [hit.image for hit in found.hits] == [hit.image for hit in exact.hits]
    assert [hit.score for hit in found.hits] == pytest.approx([hit.score for hit in exact.hits], abs=1e-6)
    coarse = found.explanation.coarse
    assert coarse is not None
    assert (coarse.codes.ready, coarse.candidates) == (True, 60)
    assert 0 < coarse.coarse_seconds + coarse.fine_seconds <= found.explanation.store_seconds
    assert exact.explanation.coarse is None


async def found_by_codes(kit: Kit, name: str, images: Sequence[StoredImage], transform: CodeTransform) -> None:
    """With few candidates, the hits are those with the nearest codes, and no others."""
    query = vectors_of(1, seed=4)
    code = transform.encode(query, Metric.COSINE)[0]
    distances = np.unpackbits(codes_of(transform, images) ^ code, axis=1).sum(axis=1)
    found = await kit.ids(name, query[0], 12, limit=12)
    assert sorted(distances[int(image_id[1:])] for image_id in found) == sorted(distances)[:12]
    vectors = [vector_of(images[int(image_id[1:])]) for image_id in found]
    cosines = [float(vector @ query[0] / np.linalg.norm(vector)) for vector in vectors]
    assert cosines == sorted(cosines, reverse=True)


async def filtered(kit: Kit, name: str, images: Sequence[StoredImage]) -> None:
    """The best matching images are found, even if many other images are nearer."""
    vector = vector_of(images[2])
    assert (
        await kit.ids(name, vector, 10, condition=UpdatedWithin(NOW + timedelta(seconds=1), NOW + timedelta(days=1)))
        == []
    )
    for condition in (Equals("odd", True), Range("number", gte=290), UpdatedWithin(NOW, NOW)):
        found = await kit.ids(name, vector, 10, condition=condition, limit=10)
        fitting = await kit.ids(name, vector, None, condition=condition, limit=300)
        assert len(found) == 10
        assert set(found) <= set(fitting)
        if len(fitting) == 10:
            assert found == fitting


async def paged_and_grouped(kit: Kit, name: str, images: Sequence[StoredImage]) -> None:
    vector = vector_of(images[0])
    page = await kit.search(name, vector, 30, limit=12)
    ids = [hit.image.id for hit in page.hits]
    while page.end is not None:
        page = await kit.search(name, vector, 30, limit=12, page=page.end)
        ids += [hit.image.id for hit in page.hits]
    assert ids == await kit.ids(name, vector, 30, limit=30)
    assert len(set(ids)) == 30
    groups = await kit.search(name, vector, 20, limit=5, group_by=GroupBy("odd", 2))
    assert sorted(bool(hit.image.attributes["odd"]) for hit in groups.hits) == [False, False, True, True]
    search = Search(name, StoredImageQuery("i0007"), limit=10, coarse=10, consistency=Consistency.STRONG)
    hits = (await kit.searches.search(search, soon())).hits
    assert len(hits) == 10
    assert "i0007" not in {hit.image.id for hit in hits}


async def searched_at_the_same_time(kit: Kit, name: str, images: Sequence[StoredImage]) -> None:
    """Concurrent searches share requests, and each gets its own hits."""
    requests = 0
    if isinstance(kit.images, MilvusStore):
        client = (await kit.images.calls.connected(soon())).reading
        search = client.search

        async def counting(*arguments: Any, **options: Any) -> Any:
            nonlocal requests
            requests += 1
            return await search(*arguments, **options)

        client.search = counting
    answers = await asyncio.gather(*(kit.ids(name, vector_of(image)) for image in images[:40]))
    assert [ids[0] for ids in answers] == [image.id for image in images[:40]]
    assert requests < 20


@ON_BOTH
async def test_writes_and_deletes_update_codes(kit: Kit, name: str) -> None:
    transform = transform_of()
    await kit.upsert(name, images_of(40))
    made = await kit.create(name, transform)
    # Also between the creation and the encoding.
    between = images_of(10, seed=2, prefix="b")
    await kit.upsert(name, between)
    assert await kit.stored_codes(name, made) == expected(transform, between)
    await kit.encode(name)
    replaced, new = images_of(20, seed=3), images_of(5, seed=4, prefix="n")
    await kit.upsert(name, [*replaced, *new])
    await kit.delete(name, "i0030", "b0001", "unknown")
    now = [*replaced, *images_of(40)[20:], *between, *new]
    left = [image for image in now if image.id not in {"i0030", "b0001"}]
    assert await kit.stored_codes(name, made) == expected(transform, left)
    assert (await kit.ids(name, vector_of(new[2])))[0] == "n0002"
    assert (await kit.ids(name, vector_of(replaced[3])))[0] == "i0003"
    assert "i0030" not in await kit.ids(name, vector_of(images_of(40)[30]), 53, limit=53)
    # Attributes are updated too, for filters.
    changed = dataclasses.replace(replaced[3], attributes={"number": 1000})
    await kit.upsert(name, [changed])
    assert await kit.ids(name, vector_of(new[2]), condition=Range("number", gte=1000)) == ["i0003"]
    # Nothing is left to encode.
    done = await kit.encode(name)
    assert (done.encoded, done.removed) == (0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coarse": 9}, "coarse.candidates is 9; it must be between 10 .the limit. and 10000"),
        ({"coarse": 10_001}, "coarse.candidates is 10001"),
        ({"parameters": SearchParameters(exact=True)}, "parameters and coarse are both set"),
        ({"parameters": SearchParameters(ef=64)}, "parameters and coarse are both set"),
    ],
)
async def test_search_with_codes_rejects_invalid_options(
    kit: Kit, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        await kit.search(name, np.ones(DIMENSION, np.float32), **options)
    assert caught.value.reason == "SEARCH_PARAMETERS_INVALID"


async def test_collection_without_codes_fails_with_codes_missing(kit: Kit, name: str) -> None:
    calls = (
        lambda: kit.search(name, np.ones(DIMENSION, np.float32)),
        lambda: kit.encode(name),
        lambda: kit.sets.delete(name, soon()),
    )
    for call in calls:
        with pytest.raises(FailedPreconditionError, match=f"collection {name} has no binary codes") as caught:
            await call()
        assert caught.value.reason == "CODES_MISSING"
    assert await kit.statuses(name) == []


@ON_BOTH
async def test_interrupted_encoding_is_resumed(kit: Kit, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search_service.core.code_sets.BATCH", 50)
    images = images_of(300)
    await kit.upsert(name, images)
    transform = transform_of()
    made = await kit.create(name, transform)
    steps = kit.sets.encode(name, soon)
    async for step in steps:
        if step.encoded == 150:
            break
    await steps.aclose()
    (status,) = await kit.statuses(name)
    assert (status.count, status.codes.ready) == (150, False)
    # Another process, with empty caches.
    other = kit.another()
    done = await other.encode(name)
    assert done.encoded == 150
    assert await kit.stored_codes(name, made) == expected(transform, images)
    assert [status.codes.ready for status in await kit.statuses(name)] == [True]


async def test_encoding_repairs_what_a_crash_left(kit: Kit, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_of(50)
    await kit.upsert(name, images)
    transform = transform_of()
    made = await kit.create(name, transform)
    await kit.encode(name)
    later = NOW + timedelta(hours=2)

    async def crash(*_: Any) -> None:
        raise UnavailableError("MILVUS_UNAVAILABLE", "gone")

    # The codes of a new image and of a new vector are stored, and the images are not.
    half = [images_of(50, seed=7)[4], *images_of(1, seed=8, prefix="new")]
    with monkeypatch.context() as patch:
        patch.setattr(kit.images, "upsert", crash)
        with pytest.raises(UnavailableError):
            await kit.upsert(name, [dataclasses.replace(image, update_time=later) for image in half])
    codes = await kit.stored_codes(name, made)
    assert codes["new0000"] == expected(transform, half)["new0000"]
    assert codes["i0004"] != expected(transform, images)["i0004"]
    # A search skips the missing image, and compares the stored vector.
    hits = (await kit.search(name, vector_of(half[1]), 51, limit=51)).hits
    assert {hit.image.id for hit in hits} == {image.id for image in images}
    # A write in flight looks the same, so the code stays for an hour.
    soon_after = kit.another(later + timedelta(minutes=59))
    done = await soon_after.encode(name)
    assert (done.encoded, done.removed) == (1, 0)
    long_after = kit.another(later + timedelta(minutes=61))
    done = await long_after.encode(name)
    assert (done.encoded, done.removed) == (0, 1)
    assert await kit.stored_codes(name, made) == expected(transform, images)


async def test_encoding_restores_missing_codes(kit: Kit, name: str) -> None:
    images = images_of(30)
    await kit.upsert(name, images)
    transform = transform_of()
    made = await kit.create(name, transform)
    await kit.encode(name)
    await kit.codes.delete(await kit.get(name), made, ["i0003", "i0017"], soon())
    assert (await kit.encode(name)).encoded == 2
    assert await kit.stored_codes(name, made) == expected(transform, images)


async def test_write_in_flight_updates_codes_created_meanwhile(
    kit: Kit, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The codes are created and encoded while the write is in flight."""
    transform = transform_of()
    other = kit.another()
    await kit.upsert(name, images_of(20))
    known = await other.get(name)
    upsert = kit.images.upsert

    async def slow(*arguments: Any) -> None:
        await kit.create(name, transform)
        await kit.encode(name)
        await upsert(*arguments)

    late = images_of(3, seed=5, prefix="late")
    with monkeypatch.context() as patch:
        patch.setattr(other.images, "upsert", slow)
        await other.store.upsert(known, late, soon())
    (status,) = await kit.statuses(name)
    assert status.codes.ready
    assert await kit.stored_codes(name, status.codes) == expected(transform, [*images_of(20), *late])


async def test_writes_succeed_after_codes_were_deleted_meanwhile(kit: Kit, name: str) -> None:
    await kit.create(name, transform_of())
    other = kit.another()
    known = await other.get(name)
    await kit.sets.delete(name, soon())
    await other.store.upsert(known, images_of(3), soon())
    made = await kit.create(name, transform_of())
    known = await other.get(name)
    await kit.sets.delete(name, soon())
    await other.store.delete(known, ["i0001"], soon())
    assert await kit.count(name) == 2
    assert made.number == 1


@ON_BOTH
async def test_ready_set_serves_until_the_new_set_is_ready(
    kit: Kit, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search_service.adapters.milvus_codes.PLANES_BYTES", 5 * 4 * DIMENSION)
    images = images_of(60)
    await kit.upsert(name, images)
    first, second = transform_of(0), transform_of(1, bits=72)
    await kit.create(name, first)
    old = (await kit.encode(name)).ready
    made = await kit.create(name, second)
    assert (made.number, made.bits) == (2, 72)
    # The same transform returns the same set.
    assert await kit.create(name, second) == made
    new = images_of(2, seed=6, prefix="new")
    await kit.upsert(name, new)
    assert old is not None
    assert await kit.stored_codes(name, old) == expected(first, [*images, *new])
    assert await kit.stored_codes(name, made) == expected(second, new)
    found = await kit.search(name, vector_of(new[1]))
    assert found.hits[0].image.id == "new0001"
    assert found.explanation.coarse is not None
    assert found.explanation.coarse.codes == old
    assert (await kit.encode(name)).encoded == 60
    found = await kit.search(name, vector_of(new[1]))
    assert found.explanation.coarse is not None
    assert found.explanation.coarse.codes.number == 2
    assert await kit.versions(name) == [second.version]
    # Another process reads the new set.
    other = kit.another()
    collection = await other.store.get_collection(name, soon())
    assert collection.codes == (dataclasses.replace(made, ready=True),)
    assert (
        await other.codes.read_transform(collection, made, soon())
    ).hyperplanes.tolist() == second.hyperplanes.tolist()
    assert (await other.ids(name, vector_of(new[0])))[0] == "new0000"
    names = [found.name for found in await other.store.list_collections("", 1000, soon())]
    assert name in names
    assert not [found for found in names if "_codes" in found]


async def test_lost_set_fails_no_write_and_can_be_created_again(kit: Kit, name: str) -> None:
    """Of two processes that create sets at the same time, one may delete the set that the other then announces."""
    images = images_of(20)
    transform = transform_of()
    lost = await kit.create(name, transform)
    await kit.codes.delete_all_but(await kit.get(name), (), soon())
    await kit.upsert(name, images)
    await kit.delete(name, "i0004")
    made = await kit.create(name, transform)
    assert made.number == lost.number + 1
    assert (await kit.encode(name)).encoded == 19
    assert [status.codes.number for status in await kit.statuses(name)] == [made.number]


async def test_set_that_becomes_ready_during_a_creation_stays(
    kit: Kit, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = images_of(20)
    await kit.upsert(name, images)
    await kit.create(name, transform_of(0))
    await kit.encode(name)
    await kit.create(name, transform_of(1))
    create = kit.codes.create

    async def create_slowly(*arguments: Any) -> None:
        await create(*arguments)
        await kit.another().encode(name)

    monkeypatch.setattr(kit.codes, "create", create_slowly)
    await kit.another().create(name, transform_of(2))
    assert [(status.codes.version, status.codes.ready) for status in await kit.statuses(name)] == [
        (transform_of(1).version, True),
        (transform_of(2).version, False),
    ]
    assert await kit.versions(name) == sorted([transform_of(1).version, transform_of(2).version])
    found = await kit.search(name, vector_of(images[3]))
    assert found.hits[0].image.id == "i0003"
    assert (await kit.encode(name)).encoded == 20


async def test_one_of_two_concurrent_creations_is_rejected(
    kit: Kit, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = kit.codes.create

    async def create_slowly(*arguments: Any) -> None:
        await create(*arguments)
        monkeypatch.setattr(kit.codes, "create", create)
        await kit.another().create(name, transform_of(1))

    monkeypatch.setattr(kit.codes, "create", create_slowly)
    with pytest.raises(FailedPreconditionError, match="codes create"):
        await kit.another().create(name, transform_of(0))
    assert [status.codes.version for status in await kit.statuses(name)] == [transform_of(1).version]


async def test_lost_codes_fail_with_codes_missing(kit: Kit, name: str) -> None:
    images = images_of(20)
    await kit.upsert(name, images)
    made = await kit.create(name, transform_of())
    await kit.encode(name)
    await kit.codes.drop(await kit.get(name), made, soon())
    other = kit.another()
    for call in (lambda: other.search(name, vector_of(images[3])), lambda: other.encode(name)):
        with pytest.raises(FailedPreconditionError) as refused:
            await call()
        assert refused.value.reason == "CODES_MISSING"
    assert [status.count for status in await other.statuses(name)] == [0]


async def test_encoding_of_a_replaced_set_fails(kit: Kit, name: str) -> None:
    await kit.upsert(name, images_of(10))
    await kit.create(name, transform_of(0))
    steps = kit.sets.encode(name, soon)
    await anext(steps)
    await kit.create(name, transform_of(1))
    with pytest.raises(FailedPreconditionError):
        async for _ in steps:
            pass
    assert [status.codes.version for status in await kit.statuses(name)] == [transform_of(1).version]


async def test_expired_images_are_no_candidates(kit: Kit) -> None:
    made = Collection(f"c_{uuid.uuid4().hex}", DIMENSION, "f", NOW, ttl=timedelta(hours=1))
    await kit.store.create_collection(made, soon())
    old, new = images_of(20, when=NOW - timedelta(minutes=50)), images_of(20, seed=2, prefix="n", when=NOW)
    await kit.store.upsert(made, [*old, *new], soon())
    await kit.create(made.name, transform_of())
    await kit.encode(made.name)
    later = kit.another(NOW + timedelta(minutes=20))
    found = await later.ids(made.name, vector_of(old[0]), 20, limit=20)
    assert set(found) == {image.id for image in new}
    await kit.store.delete_collection(made, soon())


async def test_milvus_lite_rejects_codes(tmp_path: Path) -> None:
    milvus = MilvusStore(str(tmp_path / "milvus.db"))
    kit = Kit(milvus, milvus.codes)
    try:
        await kit.store.create_collection(Collection("c", DIMENSION, "f", NOW), soon())
        await kit.upsert("c", images_of(3))
        calls = (
            lambda: kit.create("c", transform_of()),
            lambda: kit.encode("c"),
            lambda: kit.statuses("c"),
            lambda: kit.sets.delete("c", soon()),
            lambda: kit.search("c", np.ones(DIMENSION, np.float32)),
        )
        for call in calls:
            with pytest.raises(UnimplementedError, match="Milvus server") as caught:
                await call()
            assert caught.value.reason == "CODES_UNSUPPORTED"
        await kit.delete("c", "i0001")
        assert await kit.count("c") == 2
    finally:
        await milvus.close()


@pytest.mark.parametrize("collection", [Metric.COSINE, Metric.L2], indirect=True)
async def test_search_among_ids_compares_all_of_them(
    store: VectorStore, collection: Collection, deadline: Deadline
) -> None:
    vectors = np.random.default_rng(3).normal(size=(30, 8)).astype(np.float32)
    images = [
        StoredImage(f"i{n:02d}", attributes={"n": n}, create_time=NOW, update_time=NOW, vector=vector)
        for n, vector in enumerate(vectors)
    ]
    await store.upsert(collection, images, deadline)
    among = ("i03", "i04", "i17", "i29", "unknown")

    async def found(limit: int, condition: Filter | None = None) -> list[Hit]:
        nearest = Nearest(limit, View.BASIC, Consistency.STRONG, condition, among=among)
        (hits,) = await store.search(collection, [vectors[0]], nearest, deadline)
        return hits

    everything = await search_one(store, collection, vectors[0], None, 30, View.BASIC, Consistency.STRONG, deadline)
    wanted = [hit for hit in everything if hit.image.id in among]
    for limit in (2, 10):
        hits = await found(limit)
        assert [hit.image for hit in hits] == [hit.image for hit in wanted[:limit]]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in wanted[:limit]], abs=1e-5)
    assert {hit.image.id for hit in await found(10, Range("n", lt=10))} == {"i03", "i04"}
