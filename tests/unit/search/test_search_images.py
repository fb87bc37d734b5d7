"""Searches, new collections and reads, on a store in memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import numpy as np
import pytest

from grpc_kit.deadline import Deadline
from grpc_kit.errors import (
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ServiceError,
)
from grpc_kit.server.budget import Budget, Limit
from search_service.core.change_images import ChangeImages
from search_service.core.collection_cache import CollectionCache
from search_service.core.collections import Collections, NewCollection
from search_service.core.image_locks import ImageLocks
from search_service.core.image_writes import ImageToWrite
from search_service.core.ports import Embedder
from search_service.core.read_images import get_image
from search_service.core.search_images import SearchImages
from search_service.core.searches import Search, StoredImageQuery
from search_service.core.types import (
    Collection,
    Consistency,
    EmbeddedRegions,
    EmbedderModel,
    Embedding,
    EncodedImage,
    Region,
    StoredImage,
    View,
)
from search_service.core.write_images import WriteImages
from tests.memory_store import MemoryStore

FINGERPRINT = "vgg16-avg-0123456789abcdef"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def searches(store: MemoryStore, embedder: Embedder, deadline: Deadline) -> SearchImages:
    vectors = {"east": [1, 0, 0, 0], "north": [0, 1, 0, 0], "northeast": [1, 1, 0, 0], "west": [-1, 0, 0, 0]}
    images = [StoredImage(name, vector=np.array(vector, np.float32)) for name, vector in vectors.items()]
    await store.upsert(store.collection("photos"), images, deadline)
    return SearchImages(store, embedder, CollectionCache(store))


def embedding(*values: float, fingerprint: str = FINGERPRINT) -> Embedding:
    return Embedding(np.array(values, np.float32), fingerprint)


async def found(searches: SearchImages, search: Search, deadline: Deadline) -> list[str]:
    return [hit.image.id for hit in (await searches.search(search, deadline)).hits]


async def test_search_by_vector_returns_the_best_first(searches: SearchImages, deadline: Deadline) -> None:
    search = Search("photos", embedding(1, 0.1, 0, 0), limit=3)
    assert await found(searches, search, deadline) == ["east", "northeast", "north"]


async def test_search_by_image_uses_the_model_of_the_collection(searches: SearchImages, deadline: Deadline) -> None:
    assert await found(searches, Search("photos", EncodedImage(bytes([9, 1, 0, 0])), limit=1), deadline) == ["east"]


async def test_search_by_id_excludes_the_image_unless_included(searches: SearchImages, deadline: Deadline) -> None:
    query = StoredImageQuery("east")
    assert await found(searches, Search("photos", query, limit=2), deadline) == ["northeast", "north"]
    with_itself = Search("photos", query, limit=2, include_query=True)
    assert await found(searches, with_itself, deadline) == ["east", "northeast"]


async def test_min_score_excludes_lower_scores(searches: SearchImages, deadline: Deadline) -> None:
    search = Search("photos", embedding(1, 0, 0, 0), min_score=0.5)
    assert await found(searches, search, deadline) == ["east", "northeast"]


async def test_equal_scores_are_ordered_by_id(store: MemoryStore, searches: SearchImages, deadline: Deadline) -> None:
    twins = [StoredImage(name, vector=np.array([0, 0, 1, 0], np.float32)) for name in ("c", "a", "b")]
    await store.upsert(store.collection("photos"), twins, deadline)
    assert await found(searches, Search("photos", embedding(0, 0, 1, 0), limit=3), deadline) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("search", "reason", "field"),
    [
        (Search("Photos", embedding(1, 0, 0, 0)), "COLLECTION_NAME_INVALID", "collection"),
        (Search("", embedding(1, 0, 0, 0)), "COLLECTION_NAME_INVALID", "collection"),
        (Search("nowhere", embedding(1, 0, 0, 0)), "COLLECTION_NOT_FOUND", "collection"),
        (Search("photos", embedding(1, 0, 0, 0), limit=0), "LIMIT_INVALID", "limit"),
        (Search("photos", embedding(1, 0, 0, 0), limit=-1), "LIMIT_INVALID", "limit"),
        (Search("photos", embedding(1, 0, 0, 0), limit=1001), "LIMIT_INVALID", "limit"),
        (Search("photos", embedding(1, 0, 0)), "VECTOR_DIMENSION_MISMATCH", "query.embedding.values"),
        (Search("photos", embedding(1, 0, 0, np.nan)), "VECTOR_NOT_FINITE", "query.embedding.values"),
        (Search("photos", embedding(0, 0, 0, 0)), "VECTOR_ZERO", "query.embedding.values"),
        (Search("photos", embedding(1, 0, 0, 0, fingerprint="clip")), "EMBEDDING_MISMATCH", "query.embedding"),
        (Search("photos", embedding(1, 0, 0, 0, fingerprint="a b")), "FINGERPRINT_INVALID", None),
        (Search("photos", StoredImageQuery("nobody")), "IMAGE_NOT_FOUND", "query.image_id"),
        (Search("photos", StoredImageQuery("")), "ID_INVALID", "query.image_id"),
        (Search("photos", EncodedImage(b"bad!")), "IMAGE_CORRUPT", "query.image.content"),
        (Search("photos", EncodedImage(b"full")), "OUT_OF_MEMORY", None),
        (Search("foreign", EncodedImage(b"1234")), "COLLECTION_WITHOUT_MODEL", "query.image"),
    ],
)
async def test_search_rejects_invalid_request(
    searches: SearchImages, deadline: Deadline, search: Search, reason: str, field: str | None
) -> None:
    with pytest.raises(ServiceError) as caught:
        await searches.search(search, deadline)
    assert caught.value.reason == reason
    assert field in (None, caught.value.field)


@dataclass
class OddEmbedder:
    """An embedder that violates the contract."""

    values: list[float]

    async def embed(self, image: EncodedImage, model: str, deadline: Deadline | None = None) -> Embedding:
        return embedding(*self.values)

    async def embed_regions(
        self, image: EncodedImage, model: str, max_regions: int, deadline: Deadline | None = None
    ) -> EmbeddedRegions:
        return EmbeddedRegions(embedding(*self.values), (), Region(0, 0, 1, 1))

    async def model(self, name: str, deadline: Deadline) -> EmbedderModel:
        return EmbedderModel(name, 4, FINGERPRINT)

    @asynccontextmanager
    async def bulk(self, deadline: Deadline) -> AsyncIterator[Self]:
        yield self


ODD_VECTORS: list[tuple[list[float], type[ServiceError], str]] = [
    ([1, 0, 0, np.nan], InternalError, "VECTOR_INVALID"),
    ([1, 0, 0, -np.inf], InternalError, "VECTOR_INVALID"),
    ([1, 0, 0], InternalError, "VECTOR_INVALID"),
    ([], InternalError, "VECTOR_INVALID"),
    ([1e-30, 0, 0, 0], InternalError, "VECTOR_INVALID"),
    ([1e30, 0, 0, 0], InternalError, "VECTOR_INVALID"),
    ([0, 0, 0, 0], InvalidArgumentError, "IMAGE_WITHOUT_VECTOR"),
]


@pytest.mark.parametrize(("values", "kind", "reason"), ODD_VECTORS)
async def test_search_rejects_invalid_vector_of_the_embedder(
    store: MemoryStore, deadline: Deadline, values: list[float], kind: type[ServiceError], reason: str
) -> None:
    searches = SearchImages(store, OddEmbedder(values), CollectionCache(store))
    with pytest.raises(kind) as refused:
        await searches.search(Search("photos", EncodedImage(b"1234")), deadline)
    assert (refused.value.reason, refused.value.metadata["model"]) == (reason, "vgg16")
    assert refused.value.field == ("query.image" if kind is InvalidArgumentError else "")


@pytest.mark.parametrize(("values", "kind", "reason"), ODD_VECTORS)
async def test_write_rejects_invalid_vector_of_the_embedder(
    store: MemoryStore, deadline: Deadline, values: list[float], kind: type[ServiceError], reason: str
) -> None:
    async def messages() -> AsyncIterator[ImageToWrite]:
        yield ImageToWrite("r1", "photos", "odd", EncodedImage(b"1234"))
        yield ImageToWrite("r2", "photos", "good", embedding(1, 0, 0, 0))

    ample = Budget(Limit(10**6, 10**9)).wait
    writes = WriteImages(store, OddEmbedder(values), lambda: NOW, ImageLocks(), 100, 10**6, ample)
    odd, good = [result.outcome async for result in writes.write(messages(), deadline)]
    assert isinstance(odd, kind)
    assert (odd.reason, odd.field) == (reason, "image" if kind is InvalidArgumentError else "")
    assert isinstance(good, StoredImage)
    assert [
        image.id
        for image in await store.get(store.collection("photos"), ["odd", "good"], View.ID, Consistency.STRONG, deadline)
    ] == ["good"]


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("values", [[np.nan, 0, 0, 0], [0, 0, 0, 0]])
async def test_invalid_stored_vector_is_no_hit_and_no_query(
    store: MemoryStore, searches: SearchImages, deadline: Deadline, values: list[float]
) -> None:
    # Written by another program.
    await store.upsert(store.collection("photos"), [StoredImage("odd", vector=np.array(values, np.float32))], deadline)
    result = await searches.search(Search("photos", embedding(1, 0, 0, 0), limit=10), deadline)
    assert [hit.image.id for hit in result.hits] == ["east", "northeast", "north", "west"]
    with pytest.raises(FailedPreconditionError) as refused:
        await searches.search(Search("photos", StoredImageQuery("odd")), deadline)
    assert (refused.value.reason, refused.value.field) == ("STORED_VECTOR_INVALID", "query.image_id")


async def test_search_with_a_model_that_is_gone_is_a_mismatch(
    store: MemoryStore, embedder: Embedder, deadline: Deadline
) -> None:
    old = Collection("old", 4, "f", datetime(2026, 1, 1, tzinfo=UTC), model="vgg19")
    await store.create_collection(old, deadline)
    with pytest.raises(FailedPreconditionError) as caught:
        await SearchImages(store, embedder, CollectionCache(store)).search(
            Search("old", EncodedImage(b"1234")), deadline
        )
    assert caught.value.reason == "EMBEDDING_MISMATCH"


class TestCollections:
    @pytest.fixture
    def collections(self, store: MemoryStore, embedder: Embedder) -> Collections:
        return Collections(store, embedder, CollectionCache(store), lambda: datetime(2026, 1, 1, tzinfo=UTC))

    async def test_new_collection_gets_defaults_from_the_model(
        self, collections: Collections, deadline: Deadline
    ) -> None:
        made = await collections.create(NewCollection("new"), deadline, validate_only=False)
        assert (made.model, made.dimension, made.fingerprint) == ("vgg16", 4, FINGERPRINT)
        assert await collections.get("new", deadline) == made

    async def test_collection_without_model_does_not_call_the_embedder(
        self, collections: Collections, deadline: Deadline
    ) -> None:
        wanted = NewCollection("new", dimension=128, fingerprint="clip-vit-b32")
        made = await collections.create(wanted, deadline, validate_only=False)
        assert (made.model, made.dimension, made.fingerprint) == ("", 128, "clip-vit-b32")

    async def test_validate_only_checks_and_creates_nothing(self, collections: Collections, deadline: Deadline) -> None:
        await collections.create(NewCollection("new"), deadline, validate_only=True)
        with pytest.raises(NotFoundError):
            await collections.get("new", deadline)
        with pytest.raises(ServiceError, match="exists"):
            await collections.create(NewCollection("photos"), deadline, validate_only=True)

    @pytest.mark.parametrize(
        ("wanted", "reason", "field"),
        [
            (NewCollection("photos"), "COLLECTION_EXISTS", "collection.name"),
            *((NewCollection(name), "COLLECTION_NAME_INVALID", "collection.name") for name in (
                "", "A", "1a", "_a", "a-b", "a b", "a.b", "ä", "a" * 64, 'a"; drop', "a\n",
            )),
            (NewCollection("new", dimension=1, fingerprint="f"), "DIMENSION_INVALID", "collection.dimension"),
            (NewCollection("new", dimension=-4), "DIMENSION_INVALID", "collection.dimension"),
            (NewCollection("new", dimension=32769, fingerprint="f"), "DIMENSION_INVALID", "collection.dimension"),
            (NewCollection("new", fingerprint="a b", dimension=4), "FINGERPRINT_INVALID", "collection.fingerprint"),
            (NewCollection("new", dimension=128), "EMBEDDING_MISMATCH", "collection.dimension"),
            (NewCollection("new", fingerprint="clip"), "EMBEDDING_MISMATCH", "collection.fingerprint"),
            (NewCollection("new", model="vgg16", dimension=5), "EMBEDDING_MISMATCH", "collection.dimension"),
            (NewCollection("new", model="vgg99"), "MODEL_NOT_FOUND", "collection.model"),
            (NewCollection("new", description="x" * 1025), "DESCRIPTION_TOO_LONG", "collection.description"),
            (NewCollection("new", labels={"": "x"}), "LABELS_INVALID", "collection.labels"),
            (NewCollection("new", labels={"k": "v" * 256}), "LABELS_INVALID", "collection.labels"),
            (NewCollection("new", labels={f"k{n}": "v" for n in range(65)}), "LABELS_INVALID", "collection.labels"),
        ],
    )  # fmt: skip
    async def test_create_rejects_invalid_collection(
        self, collections: Collections, deadline: Deadline, wanted: NewCollection, reason: str, field: str
    ) -> None:
        with pytest.raises(ServiceError) as caught:
            await collections.create(wanted, deadline, validate_only=False)
        assert (caught.value.reason, caught.value.field) == (reason, field)


class TestReading:
    async def test_missing_image_is_not_found(self, store: MemoryStore, deadline: Deadline) -> None:
        with pytest.raises(NotFoundError) as caught:
            await get_image(store, "photos", "nobody", View.BASIC, Consistency.STRONG, deadline)
        assert caught.value.reason == "IMAGE_NOT_FOUND"

    async def test_delete_returns_the_number_of_existing_images(
        self, searches: SearchImages, store: MemoryStore, deadline: Deadline
    ) -> None:
        assert searches
        ids = ["east", "nobody", "west", "east"]
        changes = ChangeImages(store, lambda: NOW, ImageLocks())
        assert await changes.delete_ids("photos", ids, deadline, validate_only=True) == 2
        assert await store.count(store.collection("photos"), None, Consistency.STRONG, deadline) == 4
        assert await changes.delete_ids("photos", ids, deadline, validate_only=False) == 2
        assert await changes.delete_ids("photos", ids, deadline, validate_only=False) == 0

    @pytest.mark.parametrize(
        ("ids", "reason"), [([], "ID_INVALID"), (["a", ""], "ID_INVALID"), (["a"] * 1001, "TOO_MANY_IDS")]
    )
    async def test_delete_rejects_invalid_ids(
        self, store: MemoryStore, deadline: Deadline, ids: list[str], reason: str
    ) -> None:
        with pytest.raises(ServiceError) as caught:
            await ChangeImages(store, lambda: NOW, ImageLocks()).delete_ids(
                "photos", ids, deadline, validate_only=False
            )
        assert caught.value.reason == reason
