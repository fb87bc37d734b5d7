"""What every vector store does."""

import dataclasses
import json
from datetime import UTC, datetime

import numpy as np
import pytest

from grpc_kit.deadline import Deadline
from grpc_kit.errors import AlreadyExistsError, NotFoundError
from search_service.core.ports import VectorStore
from search_service.core.types import Collection, Consistency, Metric, Region, StoredImage, View
from tests.contract.searching import search_one
from tests.memory_store import score_and_distance

STRONG = Consistency.STRONG
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)

# Texts that would change or break a filter without escaping.
AWKWARD_IDS = [
    'a"b',
    "a'b",
    "a\\b",
    "trailing\\",
    '\\"',
    "100%",
    "under_score",
    '" or id != "',
    '"] or id not in ["',
    "{x} %s $meta",
    "folder/a b?c=1&d#e.jpg",
    "รูปภาพ.jpg",
    "שלום",
    "a\u200db\u202ec\ufeff",
    "😀",
    "e\u0301",
    "x" * 512,
    "😀" * 128,
]


def image(image_id: str, *components: float, **fields: object) -> StoredImage:
    vector = np.zeros(8, np.float32)
    vector[: len(components)] = components
    made = StoredImage(id=image_id, create_time=NOW, update_time=NOW, vector=vector)
    return dataclasses.replace(made, **fields)  # type: ignore[arg-type]


async def ids_of(store: VectorStore, collection: Collection, ids: list[str], deadline: Deadline) -> set[str]:
    return {found.id for found in await store.get(collection, ids, View.ID, STRONG, deadline)}


async def test_collection_is_described_as_created(
    store: VectorStore, collection: Collection, deadline: Deadline
) -> None:
    assert await store.get_collection(collection.name, deadline) == collection
    assert collection in await store.list_collections("", 1000, deadline)


async def test_collections_are_listed_by_name(store: VectorStore, collection: Collection, deadline: Deadline) -> None:
    # Collections of other tests sort after these, and may change meanwhile.
    first, second = (dataclasses.replace(collection, name=f"a{n}_{collection.name}"[:60]) for n in (1, 2))
    for made in (second, first):
        await store.create_collection(made, deadline)
    names = [found.name for found in await store.list_collections("", 1000, deadline)]
    assert names[:2] == [first.name, second.name]
    assert [found.name for found in await store.list_collections(first.name, 1, deadline)] == [second.name]
    for made in (first, second):
        await store.delete_collection(made, deadline)
    assert names == sorted(names)
    assert collection.name in names


async def test_create_rejects_an_existing_name(store: VectorStore, collection: Collection, deadline: Deadline) -> None:
    await store.upsert(collection, [image("kept", 1)], deadline)
    with pytest.raises(AlreadyExistsError) as caught:
        await store.create_collection(collection, deadline)
    assert caught.value.reason == "COLLECTION_EXISTS"
    assert await store.count(collection, None, STRONG, deadline) == 1


async def test_unknown_collection_is_not_found(store: VectorStore, collection: Collection, deadline: Deadline) -> None:
    unknown = dataclasses.replace(collection, name="nowhere")
    vector = np.ones(8, np.float32)
    calls = [
        store.get_collection("nowhere", deadline),
        store.delete_collection(unknown, deadline),
        store.upsert(unknown, [image("a", 1)], deadline),
        store.get(unknown, ["a"], View.BASIC, STRONG, deadline),
        store.delete(unknown, ["a"], deadline),
        store.count(unknown, None, STRONG, deadline),
        search_one(store, unknown, vector, None, 5, View.BASIC, STRONG, deadline),
    ]
    for call in calls:
        with pytest.raises(NotFoundError) as caught:
            await call
        assert caught.value.reason == "COLLECTION_NOT_FOUND"


async def test_name_of_a_deleted_collection_is_free(
    store: VectorStore, collection: Collection, deadline: Deadline
) -> None:
    await store.upsert(collection, [image("a", 1)], deadline)
    await store.delete_collection(collection, deadline)
    with pytest.raises(NotFoundError):
        await store.count(collection, None, STRONG, deadline)
    await store.create_collection(collection, deadline)
    assert await store.count(collection, None, STRONG, deadline) == 0


async def test_image_is_read_as_written(store: VectorStore, collection: Collection, deadline: Deadline) -> None:
    attributes = {
        "text": 'ทดสอบ "quoted" \\ \u202e',
        "empty": "",
        "big": 9007199254740993,
        "negative": -5,
        "least": -(2**63),
        "number": 0.1,
        "whole": 3.0,
        "yes": True,
        "no": False,
        "tags": ["a", 'b"c', ""],
        "none": [],
    }
    written = image(
        "a",
        0.1,
        -2.5,
        3e-8,
        uri="s3://bucket/ü.jpg",
        attributes=attributes,
        content_sha256="0123456789abcdef" * 4,
        region=Region(0.1, 0.0, 1.0, 1 / 3),
    )
    await store.upsert(collection, [written], deadline)
    (full,) = await store.get(collection, ["a"], View.FULL, STRONG, deadline)
    assert full.vector is not None
    assert written.vector is not None
    np.testing.assert_array_equal(full.vector, written.vector)
    assert dataclasses.replace(full, vector=None) == dataclasses.replace(written, vector=None)
    # Equality alone does not distinguish 3.0 from 3, and True from 1.
    assert {name: type(value) for name, value in full.attributes.items()} == {
        name: type(value) for name, value in attributes.items()
    }


async def test_view_selects_the_fields(store: VectorStore, collection: Collection, deadline: Deadline) -> None:
    await store.upsert(collection, [image("a", 1, uri="u", attributes={"k": "v"})], deadline)
    (only_id,) = await store.get(collection, ["a"], View.ID, STRONG, deadline)
    (basic,) = await store.get(collection, ["a"], View.BASIC, STRONG, deadline)
    assert only_id == StoredImage("a")
    assert (basic.uri, basic.attributes, basic.vector) == ("u", {"k": "v"}, None)
    for view, vector_expected in ((View.ID, False), (View.BASIC, False), (View.FULL, True)):
        (hit,) = await search_one(store, collection, np.ones(8, np.float32), None, 5, view, STRONG, deadline)
        assert (hit.image.vector is not None) is vector_expected
        assert hit.image.uri == ("" if view is View.ID else "u")


async def test_upsert_replaces_the_whole_image(store: VectorStore, collection: Collection, deadline: Deadline) -> None:
    await store.upsert(collection, [image("a", 1, uri="old", attributes={"k": "v"}), image("b", 1)], deadline)
    await store.upsert(collection, [image("a", 0, 1, uri="new")], deadline)
    (found,) = await store.get(collection, ["a"], View.FULL, STRONG, deadline)
    assert (found.uri, found.attributes) == ("new", {})
    assert found.vector is not None
    assert found.vector[1] == 1
    assert await store.count(collection, None, STRONG, deadline) == 2
    hits = await search_one(store, collection, np.eye(8, dtype=np.float32)[1], None, 10, View.ID, STRONG, deadline)
    assert [hit.image.id for hit in hits] == ["a", "b"]


async def test_ids_may_be_any_text(store: VectorStore, collection: Collection, deadline: Deadline) -> None:
    await store.upsert(collection, [image(image_id, 1, n) for n, image_id in enumerate(AWKWARD_IDS)], deadline)
    assert await ids_of(store, collection, AWKWARD_IDS, deadline) == set(AWKWARD_IDS)
    left = set(AWKWARD_IDS)
    for image_id in AWKWARD_IDS:
        assert await ids_of(store, collection, [image_id], deadline) == {image_id}
        await store.delete(collection, [image_id], deadline)
        left -= {image_id}
        assert await ids_of(store, collection, AWKWARD_IDS, deadline) == left, json.dumps(image_id)


async def test_delete_ignores_missing_ids(store: VectorStore, collection: Collection, deadline: Deadline) -> None:
    await store.upsert(collection, [image(name, 1, n) for n, name in enumerate("abc")], deadline)
    await store.delete(collection, ["a", "nothing", "c"], deadline)
    assert await ids_of(store, collection, ["a", "b", "c"], deadline) == {"b"}
    assert await store.count(collection, None, STRONG, deadline) == 1
    hits = await search_one(store, collection, np.ones(8, np.float32), None, 10, View.ID, STRONG, deadline)
    assert [hit.image.id for hit in hits] == ["b"]


async def test_count_is_exact_after_writes_and_deletes(
    store: VectorStore, collection: Collection, deadline: Deadline
) -> None:
    images = [image(f"i{n}", 1, n) for n in range(500)]
    await store.upsert(collection, images, deadline)
    await store.upsert(collection, images[:200], deadline)
    assert await store.count(collection, None, STRONG, deadline) == 500
    await store.delete(collection, [made.id for made in images[100:250]], deadline)
    assert await store.count(collection, None, STRONG, deadline) == 350


@pytest.mark.parametrize("collection", list(Metric), indirect=True, ids=lambda metric: metric.value)
async def test_scores_and_distances_follow_the_metric(
    store: VectorStore, collection: Collection, deadline: Deadline
) -> None:
    random = np.random.default_rng(0)
    # With many lengths, so that cosine and inner product differ.
    vectors = random.normal(size=(50, 8)).astype(np.float32) * random.uniform(0.1, 9, size=(50, 1)).astype(np.float32)
    images = {f"i{n}": image(f"i{n}", *vector) for n, vector in enumerate(vectors)}
    await store.upsert(collection, list(images.values()), deadline)
    query = random.normal(size=8).astype(np.float32)
    expected = {
        name: score_and_distance(query, made.vector, collection.metric)
        for name, made in images.items()
        if made.vector is not None
    }
    hits = await search_one(store, collection, query, None, 20, View.ID, STRONG, deadline)
    assert [hit.image.id for hit in hits] == sorted(expected, key=lambda name: -expected[name][0])[:20]
    for hit in hits:
        assert (hit.score, hit.distance) == pytest.approx(expected[hit.image.id], rel=1e-4, abs=1e-5)


async def test_search_returns_fewer_hits_than_the_limit(
    store: VectorStore, collection: Collection, deadline: Deadline
) -> None:
    query = np.ones(8, np.float32)
    assert await search_one(store, collection, query, None, 10, View.BASIC, STRONG, deadline) == []
    await store.upsert(collection, [image("a", 1), image("b", 2)], deadline)
    hits = await search_one(store, collection, query, None, 1000, View.BASIC, STRONG, deadline)
    assert {hit.image.id for hit in hits} == {"a", "b"}


async def test_session_reads_its_own_writes(store: VectorStore, collection: Collection, deadline: Deadline) -> None:
    for n in range(3):
        await store.upsert(collection, [image("a", 1, uri=str(n))], deadline)
        (found,) = await store.get(collection, ["a"], View.BASIC, Consistency.SESSION, deadline)
        assert found.uri == str(n)


async def test_check_returns(store: VectorStore, deadline: Deadline) -> None:
    await store.check(deadline)
