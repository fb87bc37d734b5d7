"""Behaviour that is specific to Milvus."""

import asyncio
import dataclasses
import os
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from grpc_kit.deadline import Deadline
from grpc_kit.errors import DeadlineExceededError, NotFoundError, UnavailableError
from search_service.adapters.milvus_rows import PROPERTY, notes_of, row_of, schema_of
from search_service.adapters.milvus_store import MilvusStore
from search_service.core.change_images import ChangeImages
from search_service.core.image_locks import ImageLocks
from search_service.core.ports import After, Nearest, VectorStore
from search_service.core.read_images import count_images, get_image
from search_service.core.types import (
    Collection,
    Consistency,
    Hit,
    HnswParameters,
    Index,
    IndexType,
    IvfParameters,
    Metric,
    StoredImage,
    View,
)
from tests.contract.searching import search_one

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def images(count: int, prefix: str = "i") -> list[StoredImage]:
    vectors = np.random.default_rng(1).normal(size=(count, 8)).astype(np.float32)
    return [
        StoredImage(f"{prefix}{n}", create_time=NOW, update_time=NOW, vector=vector) for n, vector in enumerate(vectors)
    ]


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("metric", list(Metric))
async def test_lite_ranks_invalid_vectors_last(tmp_path: Path, deadline: Deadline, metric: Metric) -> None:
    collection = Collection("odd", 8, "f", NOW, metric=metric)
    good = images(20)
    # Written by another program: Milvus Lite accepts them.
    odd = [
        dataclasses.replace(good[0], id=f"odd{value}", vector=np.full(8, value, np.float32))
        for value in (np.nan, np.inf)
    ]
    ids = tuple(image.id for image in (*odd, *good))
    store = MilvusStore(str(tmp_path / "milvus.db"))
    try:
        await store.create_collection(collection, deadline)
        await store.upsert(collection, [*odd, *good], deadline)
        for among in (None, ids):
            nearest = Nearest(limit=22, view=View.ID, consistency=Consistency.STRONG, among=among)
            (hits,) = await store.search(collection, [np.ones(8, np.float32)], nearest, deadline)
            scores = [hit.score for hit in hits]
            assert np.isfinite(scores[:20]).all()
            assert scores == sorted(scores, reverse=True)
            assert [hit.score for hit in hits if hit.image.id.startswith("odd")] == [-np.inf, -np.inf]
    finally:
        await store.close()


async def test_lite_keeps_its_data_when_reopened(tmp_path: Path, deadline: Deadline) -> None:
    path = str(tmp_path / "new" / "folder" / "milvus.db")
    kept = Collection("kept", 8, "f", NOW, description="x", labels={"a": "b"})
    first = MilvusStore(path)
    await first.create_collection(kept, deadline)
    await first.upsert(kept, images(300), deadline)
    await first.close()
    second = MilvusStore(path)
    try:
        assert await second.get_collection("kept", deadline) == kept
        assert await second.count(kept, None, Consistency.STRONG, deadline) == 300
        hits = await search_one(
            second, kept, np.ones(8, np.float32), None, 5, View.BASIC, Consistency.BOUNDED, deadline
        )
        assert len(hits) == 5
    finally:
        await second.close()


def cut_indexes(folder: Path, left: int) -> int:
    """Truncate all index files, and return how many there are."""
    indexes = list(folder.rglob("*.idx"))
    for index in indexes:
        os.truncate(index, left)
    return len(indexes)


@pytest.mark.parametrize("left", [0, 50, 1000])
async def test_lite_loads_a_collection_with_a_truncated_index(tmp_path: Path, deadline: Deadline, left: int) -> None:
    path = str(tmp_path / "milvus.db")
    kept = Collection("kept", 8, "f", NOW)
    first = MilvusStore(path)
    await first.create_collection(kept, deadline)
    await first.upsert(kept, images(300), deadline)
    await first.close()
    # The index file is created when the file is first reopened.
    second = MilvusStore(path)
    assert await second.count(kept, None, Consistency.STRONG, deadline) == 300
    await second.close()
    assert cut_indexes(tmp_path, left) > 0
    third = MilvusStore(path)
    try:
        assert await third.count(kept, None, Consistency.STRONG, deadline) == 300
        hits = await search_one(third, kept, np.ones(8, np.float32), None, 5, View.BASIC, Consistency.BOUNDED, deadline)
        assert len(hits) == 5
    finally:
        await third.close()


async def test_concurrent_writes_are_all_stored(store: VectorStore, collection: Collection) -> None:
    """Without mutual exclusion, Milvus Lite loses most of them."""
    deadline = Deadline.after(60)
    await asyncio.gather(*(store.upsert(collection, images(20, f"w{n}_"), deadline) for n in range(40)))
    assert await store.count(collection, None, Consistency.STRONG, deadline) == 800


async def test_cancelled_write_still_excludes_other_calls(tmp_path: Path) -> None:
    """The thread of a cancelled call continues: on Milvus Lite, the next call must wait for it.

    Overlapping writes would lose rows, and a read would miss the rows that are being written to a file.
    """
    store = MilvusStore(str(tmp_path / "milvus.db"))
    deadline = Deadline.after(60)
    collection = Collection("c", 8, "f", NOW)
    await store.create_collection(collection, deadline)
    at_once, most, read_beside = 0, 0, 0
    clients = await store.calls.connected(deadline)
    upsert, query = clients.blocking.upsert, clients.reading.query

    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            return upsert(*arguments, **options)
        finally:
            at_once -= 1

    async def looking(*arguments: Any, **options: Any) -> Any:
        nonlocal read_beside
        read_beside += at_once
        return await query(*arguments, **options)

    clients.blocking.upsert, clients.reading.query = counting, looking
    kept: list[str] = []
    for n in range(30):
        gone = asyncio.create_task(store.upsert(collection, images(200, f"gone{n}_"), deadline))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gone.cancel()
        batch = images(20, f"kept{n}_")
        reading = store.get(collection, kept[-1:] or ["none"], View.ID, Consistency.STRONG, deadline)
        seen, _ = await asyncio.gather(reading, store.upsert(collection, batch, deadline))
        assert [image.id for image in seen] == kept[-1:]
        kept += [image.id for image in batch]
    assert most == 1
    assert not read_beside
    found = await store.get(collection, kept, View.ID, Consistency.STRONG, deadline)
    assert {image.id for image in found} == set(kept)
    await store.close()


async def test_timed_out_write_still_excludes_other_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Milvus Lite continues a call after its timeout, and loses rows if two writes overlap."""
    store = MilvusStore(str(tmp_path / "milvus.db"))
    collection = Collection("c", 8, "f", NOW)
    await store.create_collection(collection, Deadline.after(60))
    from milvus_lite.engine import collection as engine  # noqa: PLC0415 - the store says how before it is imported

    at_once, most = 0, 0
    upsert = engine.Collection.upsert

    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            # Longer than the deadline of the first caller, even on a fast machine.
            time.sleep(0.3)
            return upsert(*arguments, **options)
        finally:
            at_once -= 1

    monkeypatch.setattr(engine.Collection, "upsert", counting)
    for n in range(5):
        with pytest.raises(DeadlineExceededError):
            await store.upsert(collection, images(1000, f"late{n}_"), Deadline.after(0.05))
        await store.upsert(collection, images(5, f"kept{n}_"), Deadline.after(60))
    assert most == 1
    await store.close()


def failing(*_: Any, **__: Any) -> None:
    raise MilvusException(code=101, message="not loaded")


async def test_creation_that_fails_without_an_index_leaves_no_collection(tmp_path: Path, deadline: Deadline) -> None:
    store = MilvusStore(str(tmp_path / "milvus.db"))
    client = (await store.calls.connected(deadline)).blocking
    create_index, client.create_index = client.create_index, failing
    collection = Collection("c", 8, "f", NOW)
    with pytest.raises(UnavailableError):
        await store.create_collection(collection, deadline)
    client.create_index = create_index
    await store.create_collection(collection, deadline)
    assert await store.count(collection, None, Consistency.STRONG, deadline) == 0
    await store.close()


@pytest.mark.parametrize("backend", ["lite", "server"])
async def test_collection_that_cannot_be_loaded_at_once_keeps_the_images_of_other_callers(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path, deadline: Deadline
) -> None:
    uri = str(tmp_path / "milvus.db") if backend == "lite" else request.getfixturevalue("milvus_uri")
    store = MilvusStore(uri)
    client = (await store.calls.connected(deadline)).blocking
    load = client.load_collection
    collection = Collection(f"c_{uuid.uuid4().hex}", 8, "f", NOW)

    def written_meanwhile(name: str, **options: Any) -> None:
        client.load_collection = load
        client.upsert(name, [row_of(image, 0) for image in images(3)], timeout=10)
        failing(name, **options)

    client.load_collection = written_meanwhile
    await store.create_collection(collection, deadline)
    assert await store.count(collection, None, Consistency.STRONG, deadline) == 3
    await store.delete_collection(collection, deadline)
    await store.close()


async def test_collection_without_an_index_is_repaired_at_start(milvus_uri: str, deadline: Deadline) -> None:
    """A kill between two steps of a creation leaves such a collection."""
    half = Collection("half", 8, "f", NOW)
    client = MilvusClient(milvus_uri)
    client.create_collection("half", schema=schema_of(half), properties={PROPERTY: notes_of(half)})
    assert client.list_indexes("half") == []
    store = MilvusStore(milvus_uri)
    try:
        await store.check(deadline)
        await store.upsert(half, images(3), deadline)
        hits = await search_one(store, half, np.ones(8, np.float32), None, 5, View.ID, Consistency.STRONG, deadline)
        assert len(hits) == 3
    finally:
        await store.delete_collection(half, deadline)
        await store.close()


@pytest.mark.parametrize("backend", ["lite", "server"])
async def test_listings_skip_concurrently_deleted_names(
    backend: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    deadline: Deadline,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the listing and the descriptions of its names."""
    uri: str = str(tmp_path / "milvus.db") if backend == "lite" else request.getfixturevalue("milvus_uri")
    gone = f"c_{uuid.uuid4().hex}"
    collections, aliases = MilvusClient.list_collections, MilvusClient.list_aliases

    def listed_collections(client: MilvusClient, **options: Any) -> list[str]:
        return [gone, *collections(client, **options)]

    def listed_aliases(client: MilvusClient, **options: Any) -> dict[str, list[str]]:
        return {"aliases": [gone, *aliases(client, **options)["aliases"]]}

    monkeypatch.setattr(MilvusClient, "list_collections", listed_collections)
    monkeypatch.setattr(MilvusClient, "list_aliases", listed_aliases)
    store = MilvusStore(uri)
    try:
        await store.check(deadline)
        assert gone not in [found.name for found in await store.list_collections("", 1000, deadline)]
        assert gone not in [alias.name for alias in await store.list_aliases(deadline)]
    finally:
        await store.close()


async def test_collections_of_other_applications_are_left_alone(
    milvus_uri: str, tmp_path: Path, deadline: Deadline
) -> None:
    for uri in (str(tmp_path / "milvus.db"), milvus_uri):
        store = MilvusStore(uri)
        await store.check(deadline)
        client = MilvusClient(uri)
        client.create_collection("foreign", dimension=4)
        try:
            assert "foreign" not in [found.name for found in await store.list_collections("", 1000, deadline)]
            client.insert("foreign", [{"id": 1, "vector": [1.0, 0.0, 0.0, 0.0]}])
            for call in (
                store.delete_collection(Collection("foreign", 4, "f", NOW), deadline),
                count_images(store, "foreign", None, deadline),
                ChangeImages(store, lambda: NOW, ImageLocks()).delete_ids(
                    "foreign", ["1"], deadline, validate_only=False
                ),
                get_image(store, "foreign", "1", View.BASIC, Consistency.STRONG, deadline),
            ):
                with pytest.raises(NotFoundError, match="no collection called foreign"):
                    await call
            assert client.query("foreign", filter="id == 1", consistency_level="Strong")
        finally:
            client.drop_collection("foreign")
            await store.close()


@pytest.mark.parametrize("uri", ["milvus", "/data/milvus.sqlite", "localhost:19530"])
def test_store_rejects_an_invalid_address(uri: str) -> None:
    with pytest.raises(OSError, match=r"\.db"):
        MilvusStore(uri)


async def test_passed_deadline_sends_no_call(tmp_path: Path) -> None:
    store = MilvusStore(str(tmp_path / "milvus.db"))
    try:
        with pytest.raises(DeadlineExceededError):
            await store.count(Collection("any", 8, "f", NOW), None, Consistency.STRONG, Deadline.after(0))
    finally:
        await store.close()


async def test_missing_server_is_unavailable_in_time() -> None:
    store = MilvusStore("http://127.0.0.1:1", timeout=2)
    try:
        with pytest.raises((UnavailableError, DeadlineExceededError)) as caught:
            await store.check(Deadline.after(5))
        assert isinstance(caught.value, UnavailableError)
        assert caught.value.reason == "MILVUS_UNAVAILABLE"
        assert caught.value.retry_after
    finally:
        await store.close()


async def test_acknowledged_images_are_readable_during_writes(store: VectorStore) -> None:
    """While Milvus Lite writes rows to a file, its reads miss them."""
    deadline = Deadline.after(120)
    wanted = Collection(f"c_{uuid.uuid4().hex}", 512, "f", NOW)
    await store.create_collection(wanted, deadline)
    acknowledged = ""

    async def write() -> None:
        nonlocal acknowledged
        vectors = np.random.default_rng(2).normal(size=(3000, 512)).astype(np.float32)
        for begin in range(0, len(vectors), 30):
            batch = [
                StoredImage(f"i{n}", create_time=NOW, update_time=NOW, vector=vectors[n])
                for n in range(begin, begin + 30)
            ]
            await store.upsert(wanted, batch, deadline)
            acknowledged = batch[-1].id

    writing = asyncio.create_task(write())
    missed, ended = [], False
    while not ended:
        await asyncio.sleep(0.001)
        ended = writing.done()
        last = acknowledged
        if last and not await store.get(wanted, [last], View.ID, Consistency.STRONG, deadline):
            missed.append(last)
    await writing
    await store.delete_collection(wanted, deadline)
    assert not missed


def build_index(client: MilvusClient, name: str, count: int) -> None:
    client.flush(name)
    while client.describe_index(name, "vector")["indexed_rows"] < count:
        time.sleep(0.05)
    # Until the collection is loaded again, Milvus may answer without the index.
    client.release_collection(name)
    client.load_collection(name)


@pytest.mark.parametrize(
    ("index", "first"),
    [
        (Index(IndexType.HNSW, hnsw=HnswParameters(16, 200)), 500),
        (Index(IndexType.IVF_FLAT, ivf=IvfParameters(64)), 10),
    ],
    ids=["HNSW", "IVF_FLAT"],
)
async def test_pages_through_a_built_index_return_every_image(milvus_uri: str, index: Index, first: int) -> None:
    """With one candidate for each hit, HNSW would miss some hits of a large first page."""
    store = MilvusStore(milvus_uri)
    deadline = Deadline.after(120)
    wanted = Collection(f"c_{uuid.uuid4().hex}", 32, "f", NOW, index=index)
    generator = np.random.default_rng(3)
    centres = generator.normal(size=(100, 32)).astype(np.float32)
    vectors = (centres[np.arange(5000) % 100] + 0.7 * generator.normal(size=(5000, 32))).astype(np.float32)
    await store.create_collection(wanted, deadline)
    rows = [StoredImage(f"i{n}", create_time=NOW, update_time=NOW, vector=vector) for n, vector in enumerate(vectors)]
    for begin in range(0, len(rows), 1000):
        await store.upsert(wanted, rows[begin : begin + 1000], deadline)
    client = (await store.calls.connected(deadline)).blocking
    await asyncio.to_thread(build_index, client, wanted.name, len(rows))
    seen: list[Hit] = []
    page = Nearest(first, View.ID, Consistency.STRONG)
    while True:
        (hits,) = await store.search(wanted, [centres[0]], page, deadline)
        seen += hits
        if len(hits) < page.limit:
            break
        last = seen[-1]
        page = dataclasses.replace(page, limit=500, after=After(last.score, last.distance, last.image.id, len(seen)))
    ids = [hit.image.id for hit in seen]
    assert len(set(ids)) == len(ids)
    assert set(ids) == {row.id for row in rows}
    await store.delete_collection(wanted, deadline)
    await store.close()


async def test_lite_flushes_rows_to_files_early(tmp_path: Path) -> None:
    """Milvus Lite searches rows outside of files one by one."""
    store = MilvusStore(str(tmp_path / "milvus.db"))
    deadline = Deadline.after(60)
    collection = Collection("c", 512, "f", NOW)
    await store.create_collection(collection, deadline)
    vector = np.ones(512, np.float32)
    for batch in range(5):
        rows = [dataclasses.replace(image, vector=vector) for image in images(500, f"b{batch}_")]
        await store.upsert(collection, rows, deadline)
    assert await asyncio.to_thread(lambda: list(tmp_path.rglob("data_*.parquet")))
    assert await store.count(collection, None, Consistency.STRONG, deadline) == 2500
    await store.close()
