"""The recall of a Milvus server, with default and other search parameters."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import numpy as np
import pytest
from numpy.typing import NDArray
from pymilvus import MilvusClient

from benchmarks import search_latency
from grpc_kit.deadline import Deadline
from search_service.adapters.milvus_store import MilvusStore
from search_service.core.collections import NewCollection
from search_service.core.ports import Nearest
from search_service.core.types import (
    DEFAULT_INDEX,
    Collection,
    Consistency,
    Index,
    IndexType,
    SearchParameters,
    StoredImage,
    View,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LIMIT = 10
QUERIES = 100
# Each cluster has 500 images. With Milvus' default of 16 candidates, a search finds nine of the nearest ten.
COUNT, DIMENSION, CLUSTERS = 10_000, 128, 20

Matrix = NDArray[np.float32]


@pytest.fixture
async def store(milvus_uri: str) -> AsyncIterator[MilvusStore]:
    milvus = MilvusStore(milvus_uri)
    yield milvus
    await milvus.close()


@pytest.mark.parametrize("index", [DEFAULT_INDEX, Index(IndexType.AUTOINDEX)], ids=["default", "AUTOINDEX"])
async def test_default_recall_is_99_percent_and_ef_has_an_effect(store: MilvusStore, index: Index) -> None:
    vectors, queries = clustered(COUNT), clustered(QUERIES, seed=1)
    collection = await filled(store, vectors, index)
    by_default = await recall(store, collection, vectors, queries, SearchParameters())
    by_few, by_some = [await recall(store, collection, vectors, queries, SearchParameters(ef=ef)) for ef in (10, 32)]
    assert by_few < 0.9 < by_some < by_default
    assert by_default >= 0.99
    await store.delete_collection(collection, Deadline.after(30))


@pytest.mark.soak
async def test_default_recall_is_99_percent_with_100000_vectors(store: MilvusStore) -> None:
    vectors, queries = search_latency.clustered(search_latency.SIZE), search_latency.clustered(QUERIES, seed=1)
    # The default index of a new collection.
    collection = await filled(store, vectors, NewCollection("c").index)
    assert await recall(store, collection, vectors, queries, SearchParameters()) >= 0.99
    await store.delete_collection(collection, Deadline.after(30))


def clustered(count: int, seed: int = 0) -> Matrix:
    """Return unit vectors around some centers, float32[count, 128]."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(CLUSTERS, DIMENSION))
    vectors = centres[generator.integers(0, CLUSTERS, count)] + 0.7 * generator.normal(size=(count, DIMENSION))
    unit: Matrix = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


async def filled(store: MilvusStore, vectors: Matrix, index: Index) -> Collection:
    """Create a collection with these vectors, and wait for its index."""
    deadline = Deadline.after(600)
    collection = Collection(f"c_{uuid.uuid4().hex}", vectors.shape[1], "f", NOW, index=index)
    await store.create_collection(collection, deadline)
    for begin in range(0, len(vectors), 1000):
        images = [
            StoredImage(str(begin + number), create_time=NOW, update_time=NOW, vector=vector)
            for number, vector in enumerate(vectors[begin : begin + 1000])
        ]
        await store.upsert(collection, images, deadline)
    client = (await store.calls.connected(deadline)).blocking
    await asyncio.to_thread(build, client, collection.name, len(vectors))
    return collection


def build(client: MilvusClient, name: str, count: int) -> None:
    """Wait until all rows are in the index, and Milvus uses it."""
    client.flush(name)
    while client.describe_index(name, "vector")["indexed_rows"] < count:
        time.sleep(0.1)
    client.release_collection(name)
    client.load_collection(name)


async def recall(
    store: MilvusStore, collection: Collection, vectors: Matrix, queries: Matrix, parameters: SearchParameters
) -> float:
    """Return the mean share of the true nearest images that the store finds."""
    nearest = Nearest(LIMIT, View.ID, Consistency.BOUNDED, parameters=parameters)
    answers = await store.search(collection, list(queries), nearest, Deadline.after(120))
    found = [{int(hit.image.id) for hit in hits} for hits in answers]
    return float(
        np.mean([len(ids & true) / LIMIT for ids, true in zip(found, nearest_of(vectors, queries), strict=True)])
    )


def nearest_of(vectors: Matrix, queries: Matrix) -> Sequence[set[int]]:
    """Return the positions of the nearest vectors of each query, by an exact comparison."""
    cosines = (queries @ vectors.T) / np.linalg.norm(vectors, axis=1)
    return [set(row.tolist()) for row in np.argsort(-cosines, axis=1, kind="stable")[:, :LIMIT]]
