"""Examples, groups, pages and search parameters, on the store in memory."""

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pytest

from grpc_kit.deadline import Deadline
from grpc_kit.errors import InvalidArgumentError, NotFoundError, ServiceError
from search_service.core.collection_cache import CollectionCache
from search_service.core.examples import vector_of_examples
from search_service.core.filters import Equals, Not
from search_service.core.ports import Embedder, Nearest
from search_service.core.search_images import SearchImages
from search_service.core.searches import Example, Examples, GroupBy, Search, StoredImageQuery
from search_service.core.types import (
    AttributeValue,
    Collection,
    Embedding,
    EncodedImage,
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
from tests.memory_store import MemoryStore

FINGERPRINT = "vgg16-avg-0123456789abcdef"
NEVER = Deadline.after(None)
BY_ANGLE = 40


def embedding(*values: float) -> Embedding:
    return Embedding(np.array(values, np.float32), FINGERPRINT)


@pytest.fixture
async def searches(store: MemoryStore, embedder: Embedder) -> SearchImages:
    """Return searches in images i00, i01, ... at growing distances from (1, 0); some are in groups."""
    shops: list[AttributeValue] = ["a", "a", "a", "b", "a", True, 1, "c", 1.0, ["a", "b"], "b"]
    images = []
    for number in range(BY_ANGLE):
        attributes = {"shop": shops[number % 11]} if number % 12 != 11 else {}
        angle = number * np.pi / BY_ANGLE
        vector = np.array([np.cos(angle), np.sin(angle), 0, 0], np.float32)
        images.append(StoredImage(f"i{number:02d}", f"u/{number}", attributes, vector=vector))
    await store.upsert(store.collection("photos"), images, NEVER)
    return SearchImages(store, embedder, CollectionCache(store))


async def ids(searches: SearchImages, search: Search) -> list[str]:
    return [hit.image.id for hit in (await searches.search(search, NEVER)).hits]


EAST, NORTH = embedding(1, 0, 0, 0), embedding(0, 1, 0, 0)


def test_query_vector_of_examples_follows_rocchio() -> None:
    positive = [np.array([3, 0], np.float32), np.array([0, 5], np.float32)]
    negative = [np.array([2, 0], np.float32)]
    towards = np.array([0.5, 0.5])
    assert vector_of_examples(positive, [], Metric.COSINE) == pytest.approx(towards)
    away = towards + 0.25 * (towards - np.array([1, 0]))
    assert vector_of_examples(positive, negative, Metric.COSINE) == pytest.approx(away)
    # 0.75 of the positive minus 0.15 of the negative example, up to a factor.
    assert away / (0.75 * towards - 0.15 * np.array([1, 0])) == pytest.approx(np.full(2, away[1] / 0.375))
    assert vector_of_examples(positive, negative, Metric.L2) == pytest.approx([1.5 - 0.25 * 0.5, 2.5 + 0.25 * 2.5])


def test_examples_work_with_l2_at_any_offset() -> None:
    generator = np.random.default_rng(0)
    positive, negative = generator.normal(size=(3, 4)), generator.normal(size=(2, 4))
    moved = vector_of_examples(list(positive + 7), list(negative + 7), Metric.L2)
    assert moved == pytest.approx(vector_of_examples(list(positive), list(negative), Metric.L2) + 7, abs=1e-5)


async def test_examples_may_be_images_ids_and_vectors(searches: SearchImages) -> None:
    between = Examples([EAST, StoredImageQuery("i20"), EncodedImage(bytes([1, 1, 0, 0]))])
    assert (await ids(searches, Search("photos", between, limit=1)))[0] == "i10"
    away = Examples([StoredImageQuery("i10")], [StoredImageQuery("i00")])
    assert (await ids(searches, Search("photos", away, limit=1)))[0] > "i10"


async def test_stored_examples_are_no_hits_unless_included(searches: SearchImages) -> None:
    query = Examples([StoredImageQuery("i00"), StoredImageQuery("i02")], [StoredImageQuery("i39")])
    found = await ids(searches, Search("photos", query, limit=BY_ANGLE))
    assert len(found) == BY_ANGLE - 3
    assert not {"i00", "i02", "i39"} & set(found)
    assert len(await ids(searches, Search("photos", query, limit=BY_ANGLE, include_query=True))) == BY_ANGLE


@pytest.mark.parametrize(
    ("query", "reason", "field"),
    [
        (Examples([]), "EXAMPLES_INVALID", "query.examples.positive"),
        (Examples([EAST] * 33), "EXAMPLES_INVALID", "query.examples.positive"),
        (Examples([EAST], [NORTH] * 33), "EXAMPLES_INVALID", "query.examples.negative"),
        (Examples([EAST, embedding(-1, 0, 0, 0)]), "VECTOR_ZERO", "query.examples"),
        (Examples([EAST, embedding(1, 0)]), "VECTOR_DIMENSION_MISMATCH", "query.examples.positive[1].embedding.values"),
        (Examples([EAST], [StoredImageQuery("nobody")]), "IMAGE_NOT_FOUND", "query.examples.negative[0].image_id"),
        (Examples([EncodedImage(b"bad!")]), "IMAGE_CORRUPT", "query.examples.positive[0].image.content"),
    ],
    ids=str,
)
async def test_invalid_example_is_rejected_with_its_path(
    searches: SearchImages, query: Examples, reason: str, field: str
) -> None:
    with pytest.raises(ServiceError) as refused:
        await searches.search(Search("photos", query), NEVER)
    assert (refused.value.reason, refused.value.field) == (reason, field)


async def test_group_has_at_most_group_size_best_hits(searches: SearchImages) -> None:
    by_shop = Search("photos", EAST, limit=5, group_by=GroupBy("shop"))
    # True is not a number, 1.0 equals 1, and images with a list or without the attribute are in no group.
    assert await ids(searches, by_shop) == ["i00", "i03", "i05", "i06", "i07"]
    twos = dataclasses.replace(by_shop, group_by=GroupBy("shop", 2), limit=10)
    assert await ids(searches, twos) == ["i00", "i01", "i03", "i05", "i06", "i07", "i08", "i10", "i16", "i18"]


async def test_groups_apply_filter_and_view(searches: SearchImages) -> None:
    search = Search("photos", EAST, limit=5, group_by=GroupBy("shop"), condition=Not(Equals("shop", "a")), view=View.ID)
    found = await searches.search(search, NEVER)
    assert [hit.image for hit in found.hits] == [StoredImage(name) for name in ("i03", "i05", "i06", "i07")]
    assert found.end is None


@pytest.mark.parametrize(
    "group_by", [GroupBy(""), GroupBy("1"), GroupBy("shop", 0), GroupBy("shop", 101), GroupBy("shop", -1)], ids=str
)
async def test_invalid_group_by_is_rejected(searches: SearchImages, group_by: GroupBy) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        await searches.search(Search("photos", EAST, group_by=group_by), NEVER)
    assert refused.value.reason == "GROUP_BY_INVALID"


@pytest.mark.parametrize("size", [1, 3, 7, 39, 40, 41])
@pytest.mark.parametrize("query", [EAST, StoredImageQuery("i20"), Examples([EAST, NORTH])], ids=["v", "id", "examples"])
async def test_pages_together_equal_the_whole_result(
    searches: SearchImages, size: int, query: Example | Examples
) -> None:
    whole = await ids(searches, Search("photos", query, limit=100))
    search, seen = Search("photos", query, limit=size, paged=True), []
    while True:
        found = await searches.search(search, NEVER)
        seen += [hit.image.id for hit in found.hits]
        if found.end is None:
            break
        assert found.end.after.seen == len(seen)
        assert len(found.hits) == size
        search = dataclasses.replace(search, page=found.end)
    assert seen == whole


async def test_pages_end_at_the_minimum_score(searches: SearchImages) -> None:
    search = Search("photos", EAST, limit=4, min_score=float(np.cos(5.5 * np.pi / BY_ANGLE)), paged=True)
    first = await searches.search(search, NEVER)
    assert first.end is not None
    second = await searches.search(dataclasses.replace(search, page=first.end), NEVER)
    assert [hit.image.id for hit in (*first.hits, *second.hits)] == [f"i{number:02d}" for number in range(6)]
    assert second.end is None


async def test_next_page_needs_neither_embedder_nor_stored_query(searches: SearchImages, store: MemoryStore) -> None:
    search = Search("photos", StoredImageQuery("i00"), limit=2, paged=True)
    first = await searches.search(search, NEVER)
    await store.delete(store.collection("photos"), ["i00"], NEVER)
    following = dataclasses.replace(search, page=first.end)
    assert await ids(searches, following) == ["i03", "i04"]
    with pytest.raises(NotFoundError):
        await searches.search(search, NEVER)


HNSW = Index(IndexType.HNSW, hnsw=HnswParameters())
AUTO, DISK, FLAT = Index(IndexType.AUTOINDEX), Index(IndexType.DISKANN), Index(IndexType.FLAT)
IVF = Index(IndexType.IVF_FLAT, ivf=IvfParameters(64))


@pytest.mark.parametrize(
    ("index", "parameters", "field"),
    [
        (FLAT, SearchParameters(ef=64), "parameters.ef"),
        (DISK, SearchParameters(ef=64), "parameters.ef"),
        (DISK, SearchParameters(search_list=9), "parameters.search_list"),
        (DISK, SearchParameters(search_list=201), "parameters.search_list"),
        (HNSW, SearchParameters(search_list=64), "parameters.search_list"),
        (AUTO, SearchParameters(search_list=64), "parameters.search_list"),
        (AUTO, SearchParameters(nprobe=1), "parameters.nprobe"),
        (DISK, SearchParameters(search_list=10), ""),
        (DISK, SearchParameters(search_list=200), ""),
        (AUTO, SearchParameters(ef=10), ""),
        (IVF, SearchParameters(ef=64), "parameters.ef"),
        (HNSW, SearchParameters(ef=9), "parameters.ef"),
        (HNSW, SearchParameters(ef=32769), "parameters.ef"),
        (HNSW, SearchParameters(nprobe=1), "parameters.nprobe"),
        (IVF, SearchParameters(nprobe=0), "parameters.nprobe"),
        (IVF, SearchParameters(nprobe=65), "parameters.nprobe"),
        (HNSW, SearchParameters(ef=10), ""),
        (IVF, SearchParameters(nprobe=64), ""),
        (AUTO, SearchParameters(exact=True), ""),
    ],
    ids=str,
)
async def test_search_parameter_must_match_the_index(
    store: MemoryStore, embedder: Embedder, index: Index, parameters: SearchParameters, field: str
) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    await store.create_collection(Collection("indexed", 4, FINGERPRINT, now, index=index), NEVER)
    search = Search("indexed", EAST, limit=10, parameters=parameters)
    if not field:
        assert await ids(SearchImages(store, embedder, CollectionCache(store)), search) == []
        return
    with pytest.raises(InvalidArgumentError) as refused:
        await SearchImages(store, embedder, CollectionCache(store)).search(search, NEVER)
    assert (refused.value.reason, refused.value.field) == ("SEARCH_PARAMETERS_INVALID", field)


@pytest.mark.parametrize(
    ("index", "parameters", "right", "own"),
    [
        (DISK, SearchParameters(ef=64), "HNSW and AUTOINDEX", "DISKANN, which uses search_list"),
        (IVF, SearchParameters(search_list=64), "DISKANN", "IVF_FLAT, which uses nprobe"),
        (AUTO, SearchParameters(nprobe=4), "IVF_FLAT and IVF_SQ8", "AUTOINDEX, which uses ef"),
        (FLAT, SearchParameters(ef=64), "HNSW and AUTOINDEX", "FLAT, which uses none"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_error_names_the_parameter_of_the_index(
    store: MemoryStore, embedder: Embedder, index: Index, parameters: SearchParameters, right: str, own: str
) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    await store.create_collection(Collection("indexed", 4, FINGERPRINT, now, index=index), NEVER)
    search = Search("indexed", EAST, limit=10, parameters=parameters)
    with pytest.raises(InvalidArgumentError, match=f"is for {right}; the index of this collection is {own}$"):
        await SearchImages(store, embedder, CollectionCache(store)).search(search, NEVER)


async def test_search_result_has_an_explanation(searches: SearchImages) -> None:
    explanation = (await searches.search(Search("photos", EncodedImage(bytes([1, 0, 0, 0]))), NEVER)).explanation
    assert explanation.index.type is IndexType.FLAT
    parts = explanation.embed_seconds + explanation.store_seconds
    assert 0 < parts <= explanation.total_seconds < 5


class CountingStore(MemoryStore):
    """Count searches."""

    searches = 0

    async def search(
        self, collection: Collection, vectors: Sequence[Vector], nearest: Nearest, deadline: Deadline
    ) -> list[list[Hit]]:
        self.searches += 1
        return await super().search(collection, vectors, nearest, deadline)


async def test_grouped_search_needs_at_most_eight_store_searches(embedder: Embedder) -> None:
    store, groups, each = CountingStore(), 20, 40
    await store.create_collection(Collection("grouped", 2, "f", datetime(2026, 1, 1, tzinfo=UTC)), NEVER)
    angles = np.linspace(0, 1, groups * each)
    images = [
        StoredImage(f"i{number:04d}", attributes={"k": number // each}, vector=np.array([np.cos(angle), np.sin(angle)]))
        for number, angle in enumerate(angles)
    ]
    await store.upsert(store.collection("grouped"), images, NEVER)
    searches = SearchImages(store, embedder, CollectionCache(store))
    query = Embedding(np.array([1, 0], np.float32), "f")
    found = await searches.search(Search("grouped", query, limit=groups, group_by=GroupBy("k")), NEVER)
    assert [hit.image.attributes["k"] for hit in found.hits] == list(range(groups))
    assert store.searches <= 8
