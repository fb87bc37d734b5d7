"""Large filters, exact searches and loads at the start end in time, or are rejected with the limit."""

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymilvus import MilvusClient

from grpc_kit.deadline import Deadline
from grpc_kit.errors import ResourceExhaustedError, UnavailableError
from search_service.adapters.milvus_store import MilvusStore
from search_service.core.filters import And, Equals, Filter, In, Not, Or
from search_service.core.ports import Nearest
from search_service.core.types import Collection, Consistency, SearchParameters, StoredImage, View

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STRONG = Consistency.STRONG
TEXTS = tuple(f"value {number}" for number in range(1000))


def images(count: int) -> list[StoredImage]:
    """Return images of which half have a string, and half a list of strings."""
    vectors = np.random.default_rng(1).normal(size=(count, 8)).astype(np.float32)
    values: list[Any] = [f"value {number}" if number % 2 else [f"value {number}", "more"] for number in range(count)]
    return [
        StoredImage(f"i{number:05d}", attributes={"k": values[number]}, create_time=NOW, update_time=NOW, vector=vector)
        for number, vector in enumerate(vectors)
    ]


@pytest.fixture(params=["lite", "server"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "milvus.db") if request.param == "lite" else str(request.getfixturevalue("milvus_uri"))


@pytest.fixture
async def filled(uri: str) -> AsyncIterator[Collection]:
    store, collection = MilvusStore(uri), Collection(f"c_{uuid.uuid4().hex}", 8, "f", NOW)
    await store.create_collection(collection, Deadline.after(60))
    for begin in range(0, 2000, 1000):
        await store.upsert(collection, images(2000)[begin : begin + 1000], Deadline.after(60))
    await store.close()
    yield collection
    store = MilvusStore(uri)
    await store.delete_collection(collection, Deadline.after(60))
    await store.close()


async def test_filter_with_a_thousand_values_is_answered_in_time(uri: str, filled: Collection) -> None:
    """With one test for each value, Milvus Lite took 20 s for half as many images."""
    store = MilvusStore(uri)
    deadline = Deadline.after(60)
    for condition, expected in ((In("k", TEXTS), 1000), (Not(In("k", TEXTS)), 1000), (In("k", ("more",)), 1000)):
        assert await store.count(filled, condition, STRONG, deadline) == expected
        nearest = Nearest(1000, View.ID, STRONG, condition)
        (hits,) = await store.search(filled, [np.ones(8, np.float32)], nearest, deadline)
        assert len(hits) == expected
    await store.close()


async def test_filter_too_slow_for_milvus_lite_is_rejected_at_once(tmp_path: Path) -> None:
    store, collection = MilvusStore(str(tmp_path / "milvus.db"), timeout=1.0), Collection("c", 8, "f", NOW)
    deadline = Deadline.after(60)
    await store.create_collection(collection, deadline)
    for begin in range(0, 2000, 500):
        await store.upsert(collection, images(2000)[begin : begin + 500], deadline)
    many: Filter = Or(tuple(And((Equals("k", text), Equals("k", "more"))) for text in TEXTS[:80]))
    began = time.monotonic()
    for read in (
        store.count(collection, many, STRONG, deadline),
        store.query(collection, many, 10, View.ID, STRONG, deadline),
        store.search(collection, [np.ones(8, np.float32)], Nearest(10, View.ID, STRONG, many), deadline),
    ):
        with pytest.raises(ResourceExhaustedError, match="at most") as refused:
            await read
        assert (refused.value.reason, refused.value.field) == ("FILTER_TOO_LARGE", "filter")
        assert refused.value.metadata == {"max_seconds": "0.5"}
    assert time.monotonic() - began < 5
    await store.close()


async def test_exact_search_rejects_too_many_bytes(uri: str, filled: Collection) -> None:
    deadline, exact = Deadline.after(60), SearchParameters(exact=True)
    store = MilvusStore(uri, max_exact_bytes=1000 * 8 * 4)
    nearest = Nearest(3, View.ID, STRONG, In("k", TEXTS), exact)
    (hits,) = await store.search(filled, [np.ones(8, np.float32)], nearest, deadline)
    assert len(hits) == 3
    whole = Nearest(3, View.ID, STRONG, parameters=exact)
    if store.is_lite:
        # On Milvus Lite, every search compares every vector.
        await store.search(filled, [np.ones(8, np.float32)], whole, deadline)
    else:
        with pytest.raises(ResourceExhaustedError, match="at most 32000 are allowed") as refused:
            await store.search(filled, [np.ones(8, np.float32)], whole, deadline)
        assert refused.value.reason == "EXACT_TOO_LARGE"
    await store.close()


async def test_collection_is_usable_while_another_is_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deadline, uri = Deadline.after(60), str(tmp_path / "milvus.db")
    quick, slow = (Collection(name, 8, "f", NOW) for name in ("a_quick", "b_slow"))
    first = MilvusStore(uri)
    for collection in (quick, slow):
        await first.create_collection(collection, deadline)
        await first.upsert(collection, images(10), deadline)
    await first.close()
    go_on, load = threading.Event(), MilvusClient.load_collection

    def slow_load(self: MilvusClient, name: str, **options: Any) -> None:
        if name == slow.name:
            go_on.wait(30)
        load(self, name, **options)

    monkeypatch.setattr(MilvusClient, "load_collection", slow_load)
    second = MilvusStore(uri)
    try:
        await second.check(deadline)
        assert await second.count(quick, None, STRONG, deadline) == 10
        with pytest.raises(UnavailableError, match="still loading") as refused:
            await second.count(slow, None, STRONG, Deadline.after(0.2))
        assert (refused.value.reason, refused.value.retry_after) == ("COLLECTION_LOADING", 2.0)
        waiting = asyncio.create_task(second.count(slow, None, STRONG, deadline))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        go_on.set()
        assert await waiting == 10
    finally:
        go_on.set()
        await second.close()


async def test_loaded_collection_is_not_loaded_again(milvus_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second load would reset the number of replicas that an operator has set."""
    deadline, collection = Deadline.after(60), Collection(f"c_{uuid.uuid4().hex}", 8, "f", NOW)
    first = MilvusStore(milvus_uri)
    await first.create_collection(collection, deadline)
    loaded, load = [], MilvusClient.load_collection

    def recorded(self: MilvusClient, name: str, **options: Any) -> None:
        loaded.append(name)
        load(self, name, **options)

    monkeypatch.setattr(MilvusClient, "load_collection", recorded)
    second = MilvusStore(milvus_uri)
    assert await second.count(collection, None, STRONG, deadline) == 0
    assert collection.name not in loaded
    await second.delete_collection(collection, deadline)
    await second.close()
    await first.close()
