"""Streams of images to write, on a store in memory."""

import asyncio
import dataclasses
import gc
import hashlib
import weakref
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from grpc_kit.deadline import Deadline
from grpc_kit.errors import InternalError, InvalidArgumentError, ServiceError, UnavailableError
from grpc_kit.server.budget import Budget, Limit
from search_service.core.image_locks import ImageLocks
from search_service.core.image_writes import ImageToWrite, InvalidMessage, WriteResult
from search_service.core.ports import Embedder
from search_service.core.types import Collection, Consistency, Embedding, EncodedImage, StoredImage, View
from search_service.core.write_images import WriteImages
from search_service.core.write_window import Reserve, Window
from tests.memory_store import MemoryStore

AMPLE = Limit(10**6, 10**9)
FINGERPRINT = "vgg16-avg-0123456789abcdef"


def write(image_id: str, source: EncodedImage | Embedding, collection: str = "photos", **rest: Any) -> ImageToWrite:
    return ImageToWrite(f"r-{image_id[:9]}", collection, image_id, source, **rest)


def picture(content: bytes) -> EncodedImage:
    return EncodedImage(content)


def vector(*values: float, fingerprint: str = FINGERPRINT) -> Embedding:
    return Embedding(np.array(values, np.float32), fingerprint)


class Writer:
    def __init__(
        self,
        store: MemoryStore,
        embedder: Embedder,
        window: int = 100,
        size: int = 10**6,
        reserve: Reserve | None = None,
    ) -> None:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        self.writes = WriteImages(
            store, embedder, lambda: now, ImageLocks(), window, size, reserve or Budget(AMPLE).wait
        )

    async def __call__(self, messages: Sequence[ImageToWrite | InvalidMessage]) -> list[WriteResult]:
        async def stream() -> AsyncIterator[ImageToWrite | InvalidMessage]:
            for message in messages:
                yield message

        return [result async for result in self.writes.write(stream(), Deadline.after(30))]


@pytest.fixture
def writer(store: MemoryStore, embedder: Embedder) -> Writer:
    return Writer(store, embedder)


def reason(result: WriteResult) -> str:
    return result.outcome.reason if isinstance(result.outcome, ServiceError) else "stored"


async def test_stream_stores_images_and_vectors(writer: Writer, store: MemoryStore, deadline: Deadline) -> None:
    results = await writer([write("a", picture(b"1234rest")), write("b", vector(1, 2, 3, 4), content_sha256="0" * 64)])
    assert [(result.request_id, result.id, reason(result)) for result in results] == [
        ("r-a", "a", "stored"),
        ("r-b", "b", "stored"),
    ]
    a, b = await store.get(store.collection("photos"), ["a", "b"], View.FULL, Consistency.STRONG, deadline)
    assert a.content_sha256 == hashlib.sha256(b"1234rest").hexdigest()
    assert b.content_sha256 == "0" * 64
    assert a.vector is not None
    assert a.vector.tolist() == [49, 50, 51, 52]


async def test_each_response_has_the_digest_of_its_own_message(writer: Writer) -> None:
    digests = ["a" * 64, "b" * 64]
    results = await writer([write("same", vector(1, 0, 0, 0), content_sha256=digest) for digest in digests])
    assert [getattr(result.outcome, "content_sha256", None) for result in results] == digests


async def test_only_invalid_images_of_a_stream_fail(writer: Writer, store: MemoryStore, deadline: Deadline) -> None:
    good = vector(1, 0, 0, 0)
    cases: list[tuple[str, ImageToWrite | InvalidMessage]] = [
        ("stored", write("good1", good)),
        ("IMAGE_CORRUPT", write("corrupt", picture(b"bad!"))),
        ("OUT_OF_MEMORY", write("unlucky", picture(b"full"))),
        ("ID_INVALID", write("", good)),
        ("ID_INVALID", write("x" * 513, good)),
        ("ID_INVALID", write("a\nb", good)),
        ("URI_INVALID", write("uri", good, uri="u" * 2049)),
        ("CONTENT_SHA256_INVALID", write("sha", good, content_sha256="ABC")),
        ("CONTENT_SHA256_INVALID", write("sha2", picture(b"1234"), content_sha256="0" * 64)),
        ("VECTOR_DIMENSION_MISMATCH", write("short", vector(1, 2))),
        ("VECTOR_NOT_FINITE", write("nan", vector(1, float("nan"), 0, 0))),
        ("VECTOR_NOT_FINITE", write("inf", vector(1, float("inf"), 0, 0))),
        ("VECTOR_ZERO", write("zero", vector(0, 0, 0, 0))),
        ("EMBEDDING_MISMATCH", write("other", vector(1, 0, 0, 0, fingerprint="clip"))),
        ("FINGERPRINT_INVALID", write("none", vector(1, 0, 0, 0, fingerprint=""))),
        ("SOURCE_MISSING", InvalidMessage("r-x", "x", "", InvalidArgumentError("SOURCE_MISSING", "source is missing"))),
        ("COLLECTION_CHANGED", write("elsewhere", good, collection="foreign")),
        ("REQUEST_ID_TOO_LONG", ImageToWrite("r" * 129, "photos", "long", good)),
        ("stored", write("good2", picture(b"5678"), collection="")),
    ]
    results = await writer([message for _, message in cases])
    assert [reason(result) for result in results] == [expected for expected, _ in cases]
    stored = await store.get(store.collection("photos"), ["good1", "good2"], View.ID, Consistency.STRONG, deadline)
    assert len(stored) == await store.count(store.collection("photos"), None, Consistency.STRONG, deadline) == 2


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"a" * 129: 1}, "letter"),
        ({"1a": 1}, "letter"),
        ({'a"]': 1}, "letter"),
        ({"a": float("nan")}, "finite"),
        ({f"a{n}": 1 for n in range(129)}, "128"),
        ({"a": "x" * 33000}, "32768"),
        ({"a": ["x" * 20000, "y" * 20000]}, "32768"),
        ({"a": [""] * 20000}, "32768"),
        ({"a": "\x01" * 6000}, "32768"),
    ],
)
async def test_write_rejects_invalid_attributes(writer: Writer, attributes: dict[str, object], message: str) -> None:
    (result,) = await writer([ImageToWrite("r", "photos", "a", vector(1, 0, 0, 0), attributes=attributes)])  # type: ignore[arg-type]
    assert isinstance(result.outcome, InvalidArgumentError)
    assert result.outcome.reason == "ATTRIBUTE_INVALID"
    assert message in result.outcome.message


async def test_unknown_collection_fails_each_image(writer: Writer) -> None:
    results = await writer([write(name, vector(1, 0, 0, 0), collection="nowhere") for name in "ab"])
    assert [reason(result) for result in results] == ["COLLECTION_NOT_FOUND"] * 2


async def test_stream_without_a_collection_is_rejected(writer: Writer) -> None:
    (result,) = await writer([write("a", vector(1, 0, 0, 0), collection="")])
    assert reason(result) == "COLLECTION_NAME_INVALID"


async def test_collection_without_model_rejects_images(writer: Writer) -> None:
    picture_result, vector_result = await writer(
        [write("a", picture(b"1234"), "foreign"), write("b", vector(1, 0, 0, 0, fingerprint="clip"), "foreign")]
    )
    assert reason(picture_result) == "COLLECTION_WITHOUT_MODEL"
    assert reason(vector_result) == "stored"


async def test_embedder_with_another_fingerprint_is_a_mismatch(store: MemoryStore, embedder: Embedder) -> None:
    embedder.fingerprint = "vgg16-avg-fedcba9876543210"  # type: ignore[attr-defined]
    (result,) = await Writer(store, embedder)([write("a", picture(b"1234"))])
    assert reason(result) == "EMBEDDING_MISMATCH"


async def test_later_write_of_an_id_wins(store: MemoryStore, embedder: Embedder, deadline: Deadline) -> None:
    """Even in one batch, of which a store may keep both rows."""

    class StrictStore(MemoryStore):
        async def upsert(self, collection: Collection, images: Sequence[StoredImage], deadline: Deadline) -> None:
            assert len({image.id for image in images}) == len(images)
            await super().upsert(collection, images, deadline)

    store.__class__ = StrictStore
    messages = [write("same", vector(1, n, 0, 0)) for n in range(50)]
    results = await Writer(store, embedder)(messages)
    assert {reason(result) for result in results} == {"stored"}
    (found,) = await store.get(store.collection("photos"), ["same"], View.FULL, Consistency.STRONG, deadline)
    assert found.vector is not None
    assert found.vector[1] == 49


async def test_store_failure_fails_the_batch_and_not_the_stream(store: MemoryStore, embedder: Embedder) -> None:
    class FlakyStore(MemoryStore):
        calls = 0

        async def upsert(self, collection: Collection, images: Sequence[StoredImage], deadline: Deadline) -> None:
            FlakyStore.calls += 1
            if FlakyStore.calls == 1:
                raise UnavailableError("MILVUS_UNAVAILABLE", "gone", retry_after=1)
            await super().upsert(collection, images, deadline)

    store.__class__ = FlakyStore
    # With a window of one image, every image is a batch.
    results = await Writer(store, embedder, window=1)([write(name, vector(1, 0, 0, 0)) for name in "ab"])
    assert [reason(result) for result in results] == ["MILVUS_UNAVAILABLE", "stored"]


async def test_row_that_the_store_refuses_fails_alone(
    store: MemoryStore, embedder: Embedder, deadline: Deadline
) -> None:
    class PickyStore(MemoryStore):
        async def upsert(self, collection: Collection, images: Sequence[StoredImage], deadline: Deadline) -> None:
            if any(image.id == "bad" for image in images):
                raise InternalError("INTERNAL", "the store says no, and not to which")
            await super().upsert(collection, images, deadline)

    store.__class__ = PickyStore
    names = ["a", "b", "bad", "c", "d", "e"]
    results = await Writer(store, embedder)([write(name, vector(1, 0, 0, 0)) for name in names])
    assert {result.id: reason(result) for result in results} == {
        name: "INTERNAL" if name == "bad" else "stored" for name in names
    }
    assert await store.count(store.collection("photos"), None, Consistency.STRONG, deadline) == 5


@pytest.mark.parametrize(
    "first",
    [
        InvalidMessage("r", "x", "photos", InvalidArgumentError("SOURCE_MISSING", "source is missing")),
        ImageToWrite("r" * 129, "photos", "x", vector(1, 0, 0, 0)),
        write("", vector(1, 0, 0, 0)),
    ],
)
async def test_invalid_first_message_still_names_the_collection(
    writer: Writer, first: ImageToWrite | InvalidMessage
) -> None:
    results = await writer([first, write("b", vector(1, 0, 0, 0), collection="")])
    assert [reason(result) == "stored" for result in results] == [False, True]


async def test_recreated_collection_rejects_vectors_of_the_old_fingerprint(
    store: MemoryStore, embedder: Embedder, deadline: Deadline
) -> None:
    old = await store.get_collection("photos", deadline)

    async def messages() -> AsyncIterator[ImageToWrite]:
        yield write("before", vector(1, 0, 0, 0))
        await store.delete_collection(store.collection("photos"), deadline)
        await store.create_collection(dataclasses.replace(old, fingerprint="another"), deadline)
        yield write("after", vector(1, 0, 0, 0))

    results = Writer(store, embedder, window=1).writes.write(messages(), deadline)
    assert [reason(result) async for result in results][-1] == "EMBEDDING_MISMATCH"
    assert await store.count(store.collection("photos"), None, Consistency.STRONG, deadline) == 0


async def test_stream_stops_reading_if_results_are_not_read(store: MemoryStore, embedder: Embedder) -> None:
    taken = 0

    async def endless() -> AsyncIterator[ImageToWrite]:
        nonlocal taken
        while True:
            taken += 1
            yield write(f"i{taken}", vector(1, 0, 0, 0))

    results = Writer(store, embedder, window=10).writes.write(endless(), Deadline.after(30))
    await anext(results)
    # Run all tasks that can proceed without a reader.
    for _ in range(100):
        await asyncio.sleep(0)
    assert taken <= 11
    await results.aclose()


async def test_window_limits_images_and_bytes_and_admits_one_large_image() -> None:
    window = Window(2, 100, Budget(AMPLE).wait)
    large = await window.enter(1000)
    waiting = asyncio.create_task(window.enter(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    window.release([large])
    small = await waiting
    await window.enter(99)
    full = asyncio.create_task(window.enter(0))
    await asyncio.sleep(0)
    assert not full.done()
    window.release([small])
    await full


async def test_stream_holds_shared_bytes_until_images_are_stored(store: MemoryStore, embedder: Embedder) -> None:
    shared = Budget(Limit(100, 25))
    writer = Writer(store, embedder, reserve=shared.wait)
    messages = [write(f"i{number}", picture(b"1234" + bytes(6)), size=10) for number in range(20)]
    assert [reason(result) for result in await writer(messages)] == ["stored"] * 20
    assert (shared.items, shared.size) == (0, 0)


async def test_unread_results_hold_no_shared_bytes(store: MemoryStore, embedder: Embedder) -> None:
    shared = Budget(Limit(100, 25))

    async def endless() -> AsyncIterator[ImageToWrite]:
        while True:
            yield write("i", picture(b"1234" + bytes(6)), size=10)

    results = Writer(store, embedder, window=4, reserve=shared.wait).writes.write(endless(), Deadline.after(30))
    await anext(results)
    for _ in range(100):
        await asyncio.sleep(0.001)
        if not shared.size:
            break
    # Stored images with unread results hold nothing; later images are embedded, and hold no file.
    assert shared.size == 0
    await results.aclose()
    assert (shared.items, shared.size) == (0, 0)


async def test_stream_cancelled_while_storing_releases_its_bytes(
    store: MemoryStore, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Budget(Limit(100, 1000))
    storing = asyncio.Event()

    async def never(*_: object) -> None:
        storing.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(store, "upsert", never)
    writer = Writer(store, embedder, reserve=shared.wait)
    call = asyncio.create_task(writer([write("a", picture(b"1234rest"), size=10)] * 3))
    await storing.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert (shared.items, shared.size) == (0, 0)


async def test_stream_cancelled_while_embedding_releases_its_images(
    store: MemoryStore, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: list[weakref.ref[EncodedImage]] = []

    async def never(image: EncodedImage, *_: object) -> None:
        # A reference cycle, as in the client's stream to the embedder.
        task = asyncio.current_task()
        images.append(weakref.ref(image))
        await asyncio.Event().wait()
        assert task is not None

    async def messages() -> AsyncIterator[ImageToWrite]:
        for number in range(3):
            yield write(str(number), picture(b"1234rest"))
        await asyncio.Event().wait()

    monkeypatch.setattr(embedder, "embed", never)
    results = Writer(store, embedder).writes.write(messages(), Deadline.after(30))
    gc.disable()
    try:
        reading = asyncio.create_task(anext(results))
        for _ in range(1000):
            await asyncio.sleep(0.001)
            if len(images) == 3:
                break
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await results.aclose()
        await asyncio.sleep(0)
        assert [image() for image in images] == [None] * 3
    finally:
        gc.enable()
