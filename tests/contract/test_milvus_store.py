"""What only Milvus can do, and only Milvus can do wrong."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pymilvus import MilvusClient

from grpc_kit.deadline import Deadline
from grpc_kit.errors import DeadlineExceededError, NotFoundError, UnavailableError
from search_service.adapters.milvus_store import MilvusStore
from search_service.core.ports import VectorStore
from search_service.core.types import Collection, Consistency, StoredImage, View
from tests.milvus_server import MilvusProcess

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def images(count: int, prefix: str = "i") -> list[StoredImage]:
    vectors = np.random.default_rng(1).normal(size=(count, 8)).astype(np.float32)
    return [
        StoredImage(f"{prefix}{n}", create_time=NOW, update_time=NOW, vector=vector) for n, vector in enumerate(vectors)
    ]


async def test_lite_keeps_what_it_has_when_it_is_opened_again(tmp_path: Path, deadline: Deadline) -> None:
    path = str(tmp_path / "new" / "folder" / "milvus.db")
    kept = Collection("kept", 8, "f", NOW, description="x", labels={"a": "b"})
    first = MilvusStore(path)
    await first.create_collection(kept, deadline)
    await first.upsert("kept", images(300), deadline)
    await first.close()
    second = MilvusStore(path)
    try:
        assert await second.get_collection("kept", deadline) == kept
        assert await second.count("kept", deadline) == 300
        hits = await second.search(kept, np.ones(8, np.float32), 5, View.BASIC, Consistency.BOUNDED, deadline)
        assert len(hits) == 5
    finally:
        await second.close()


async def test_writes_at_the_same_time_are_all_kept(store: VectorStore, collection: Collection) -> None:
    """Milvus Lite loses most of them where nothing keeps writers apart."""
    deadline = Deadline.after(60)
    await asyncio.gather(*(store.upsert(collection.name, images(20, f"w{n}_"), deadline) for n in range(40)))
    assert await store.count(collection.name, deadline) == 800


async def test_somebody_elses_milvus_collection_is_left_alone(
    milvus_server: MilvusProcess, tmp_path: Path, deadline: Deadline
) -> None:
    for uri in (str(tmp_path / "milvus.db"), milvus_server.uri):
        store = MilvusStore(uri)
        await store.check(deadline)
        client = MilvusClient(uri)
        client.create_collection("foreign", dimension=4)
        try:
            assert "foreign" not in [found.name for found in await store.list_collections(deadline)]
            with pytest.raises(NotFoundError):
                await store.delete_collection("foreign", deadline)
            assert client.has_collection("foreign")
        finally:
            client.drop_collection("foreign")
            await store.close()


@pytest.mark.parametrize("uri", ["milvus", "/data/milvus.sqlite", "localhost:19530"])
def test_a_uri_that_is_no_milvus_is_refused(uri: str) -> None:
    with pytest.raises(OSError, match=r"\.db"):
        MilvusStore(uri)


async def test_a_deadline_that_has_passed_costs_no_call(tmp_path: Path) -> None:
    store = MilvusStore(str(tmp_path / "milvus.db"))
    try:
        with pytest.raises(DeadlineExceededError):
            await store.count("any", Deadline.after(0))
    finally:
        await store.close()


async def test_a_server_that_is_not_there_is_unavailable_in_time() -> None:
    store = MilvusStore("http://127.0.0.1:1", timeout=2)
    try:
        with pytest.raises((UnavailableError, DeadlineExceededError)) as caught:
            await store.check(Deadline.after(5))
        assert isinstance(caught.value, UnavailableError)
        assert caught.value.reason == "MILVUS_UNAVAILABLE"
        assert caught.value.retry_after
    finally:
        await store.close()
