"""The stores that the contract suite runs on: in memory, Milvus Lite and a Milvus server."""

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from grpc_kit.deadline import Deadline
from search_service.adapters.milvus_store import MilvusStore
from search_service.core.ports import VectorStore
from search_service.core.types import Collection, Metric
from tests.memory_store import MemoryStore

DIMENSION = 8


@pytest.fixture(params=["memory", "lite", "server"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[VectorStore]:
    if request.param == "memory":
        yield MemoryStore()
        return
    if request.param == "lite":
        milvus = MilvusStore(str(tmp_path / "milvus.db"))
    else:
        uri: str = request.getfixturevalue("milvus_uri")
        milvus = MilvusStore(uri)
    try:
        yield milvus
    finally:
        await milvus.close()


@pytest.fixture
def deadline() -> Deadline:
    return Deadline.after(30)


@pytest.fixture
async def collection(
    request: pytest.FixtureRequest, store: VectorStore, deadline: Deadline
) -> AsyncIterator[Collection]:
    """Create an empty collection for a test; `indirect` sets another metric than cosine."""
    made = Collection(
        name=f"c_{uuid.uuid4().hex}",
        dimension=DIMENSION,
        fingerprint="vgg16-avg-0123456789abcdef",
        create_time=datetime(2026, 5, 4, 3, 2, 1, 123456, UTC),
        model="vgg16",
        metric=getattr(request, "param", Metric.COSINE),
        description='for "tests", ทดสอบ',
        labels={"team": "shop", "quote": 'it\'s "so"'},
    )
    await store.create_collection(made, deadline)
    yield made
    await store.delete_collection(made, Deadline.after(30))
