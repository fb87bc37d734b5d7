"""Searches by vector on every store: pages, exact searches, indexes and aliases."""

import dataclasses
from datetime import UTC, datetime

import numpy as np
import pytest

from grpc_kit.deadline import Deadline
from search_service.core.filters import Equals
from search_service.core.ports import After, Nearest, VectorStore
from search_service.core.types import (
    Alias,
    Collection,
    Consistency,
    Hit,
    HnswParameters,
    Index,
    IndexType,
    IvfParameters,
    Metric,
    SearchParameters,
    StoredImage,
    Vector,
    View,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
METRICS = list(Metric)
COUNT = 600


def images(seed: int = 0) -> list[StoredImage]:
    """Return images of which some have equal vectors, and so equal scores."""
    vectors = np.random.default_rng(seed).normal(size=(COUNT, 8)).astype(np.float32)
    vectors[100:140] = vectors[100]
    vectors[300:320] = vectors[7]
    return [
        StoredImage(f"i{n * 7919 % COUNT:03d}", f"u/{n}", {"even": n % 2 == 0}, "", NOW, NOW, vector)
        for n, vector in enumerate(vectors)
    ]


def query() -> Vector:
    return np.random.default_rng(99).normal(size=8).astype(np.float32)


async def fill(store: VectorStore, collection: Collection, deadline: Deadline) -> list[StoredImage]:
    await store.upsert(collection, images(), deadline)
    return images()


def after(hit: Hit, seen: int) -> After:
    return After(hit.score, hit.distance, hit.image.id, seen)


@pytest.mark.parametrize("collection", METRICS, indirect=True, ids=lambda metric: metric.value)
@pytest.mark.parametrize("size", [7, 250])
async def test_pages_have_no_gap_and_no_duplicate(
    store: VectorStore, collection: Collection, deadline: Deadline, size: int
) -> None:
    await fill(store, collection, deadline)
    nearest = Nearest(size + 1, View.BASIC, Consistency.STRONG)
    (page,) = await store.search(collection, [query()], nearest, deadline)
    # Later pages need no strong consistency.
    later = dataclasses.replace(nearest, consistency=Consistency.BOUNDED)
    seen: list[Hit] = []
    while True:
        seen += page[:size]
        if len(page) <= size:
            break
        following = dataclasses.replace(later, after=after(seen[-1], len(seen)))
        (page,) = await store.search(collection, [query()], following, deadline)
    assert sorted(hit.image.id for hit in seen) == sorted(image.id for image in images())
    assert [(-hit.score, hit.image.id) for hit in seen] == sorted((-hit.score, hit.image.id) for hit in seen)
    assert all(hit.image.uri for hit in seen)


@pytest.mark.parametrize("collection", METRICS, indirect=True, ids=lambda metric: metric.value)
async def test_exact_search_equals_a_flat_index(store: VectorStore, collection: Collection, deadline: Deadline) -> None:
    await fill(store, collection, deadline)
    for condition in (None, Equals("even", True)):
        nearest = Nearest(51, View.FULL, Consistency.STRONG, condition)
        (some,) = await store.search(collection, [query()], nearest, deadline)
        exact = dataclasses.replace(nearest, parameters=SearchParameters(exact=True))
        (all_of_them,) = await store.search(collection, [query()], exact, deadline)
        assert [hit.image.id for hit in some[:50]] == [hit.image.id for hit in all_of_them[:50]]
        assert [hit.score for hit in some[:50]] == pytest.approx([hit.score for hit in all_of_them[:50]], abs=1e-4)
        assert all(hit.image.vector is not None for hit in all_of_them)
    (rest,) = await store.search(
        collection, [query()], dataclasses.replace(exact, after=after(all_of_them[9], 10)), deadline
    )
    assert [hit.image.id for hit in rest[:40]] == [hit.image.id for hit in all_of_them[10:50]]


async def test_equal_scores_are_ordered_by_id_at_the_limit(
    store: VectorStore, collection: Collection, deadline: Deadline
) -> None:
    await fill(store, collection, deadline)
    twins = sorted(image.id for number, image in enumerate(images()) if 100 <= number < 140)
    vector = images()[100].vector
    assert vector is not None
    for limit in (2, 6, 21):
        (hits,) = await store.search(collection, [vector], Nearest(limit, View.ID, Consistency.STRONG), deadline)
        assert [hit.image.id for hit in hits[: limit - 1]] == twins[: limit - 1]


async def test_several_vectors_are_answered_in_order(
    store: VectorStore, collection: Collection, deadline: Deadline
) -> None:
    filled = await fill(store, collection, deadline)
    vectors = [image.vector for image in filled[:90] if image.vector is not None]
    nearest = Nearest(2, View.ID, Consistency.STRONG)
    answers = await store.search(collection, vectors, nearest, deadline)
    twins = {filled[7].id: {image.id for image in (filled[7], *filled[300:320])}}
    for image, hits in zip(filled[:90], answers, strict=True):
        assert hits[0].image.id in twins.get(image.id, {image.id})


INDEXES = [
    Index(IndexType.FLAT),
    Index(IndexType.HNSW, hnsw=HnswParameters(8, 100)),
    Index(IndexType.IVF_FLAT, ivf=IvfParameters(16)),
    Index(IndexType.IVF_SQ8, ivf=IvfParameters(16)),
    Index(IndexType.DISKANN),
    Index(IndexType.AUTOINDEX),
]
PARAMETERS = {
    IndexType.HNSW: SearchParameters(ef=64),
    IndexType.AUTOINDEX: SearchParameters(ef=64),
    IndexType.IVF_FLAT: SearchParameters(nprobe=16),
    IndexType.IVF_SQ8: SearchParameters(nprobe=16),
    IndexType.DISKANN: SearchParameters(search_list=64),
}


@pytest.mark.parametrize("index", INDEXES, ids=lambda index: index.type.value)
async def test_every_index_type_is_created_and_searched(
    store: VectorStore, collection: Collection, deadline: Deadline, index: Index
) -> None:
    # Some indexes need vectors with more than 8 components.
    wanted = dataclasses.replace(collection, name=f"x_{collection.name}"[:60], index=index, dimension=32)
    await store.create_collection(wanted, deadline)
    try:
        assert await store.get_collection(wanted.name, deadline) == wanted
        vectors = np.random.default_rng(5).normal(size=(300, 32)).astype(np.float32)
        made = [
            StoredImage(f"i{n}", create_time=NOW, update_time=NOW, vector=vector) for n, vector in enumerate(vectors)
        ]
        await store.upsert(wanted, made, deadline)
        parameters = PARAMETERS.get(index.type, SearchParameters())
        nearest = Nearest(5, View.ID, Consistency.STRONG, parameters=parameters)
        answers = await store.search(wanted, list(vectors[:20]), nearest, deadline)
        assert [hits[0].image.id for hits in answers] == [f"i{n}" for n in range(20)]
        assert store.index_of(wanted, SearchParameters()).type in {index.type, IndexType.FLAT}
        assert store.index_of(wanted, SearchParameters(exact=True)).type is IndexType.FLAT
    finally:
        await store.delete_collection(wanted, Deadline.after(30))


async def test_alias_is_created_moved_and_deleted(
    store: VectorStore, collection: Collection, deadline: Deadline
) -> None:
    other = dataclasses.replace(collection, name=f"o_{collection.name}"[:60])
    name = f"a_{collection.name}"[:60]
    await store.create_collection(other, deadline)
    try:
        await store.set_alias(Alias(name, collection.name), deadline)
        assert await store.get_collection(name, deadline) == collection
        assert Alias(name, collection.name) in await store.list_aliases(deadline)
        await store.set_alias(Alias(name, other.name), deadline)
        assert await store.get_collection(name, deadline) == other
        assert Alias(name, other.name) in await store.list_aliases(deadline)
        assert name not in [found.name for found in await store.list_collections("", 1000, deadline)]
    finally:
        await store.delete_alias(name, Deadline.after(30))
        await store.delete_collection(other, Deadline.after(30))
    assert name not in [alias.name for alias in await store.list_aliases(deadline)]
