"""Writes that keep parts of the stored image, on the store in memory."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from grpc_kit.deadline import Deadline
from grpc_kit.errors import ServiceError
from grpc_kit.server.budget import Budget, Limit
from search_service.core import kept_parts
from search_service.core.change_images import ChangeImages, ImageUpdate
from search_service.core.image_locks import ImageLocks
from search_service.core.image_writes import ImageToWrite, WriteResult
from search_service.core.types import (
    Collection,
    Consistency,
    Embedding,
    EncodedImage,
    KeptVector,
    Region,
    StoredImage,
    View,
)
from search_service.core.write_images import WriteImages
from tests.memory_store import MemoryStore
from tests.unit.search.conftest import FINGERPRINT, CountingEmbedder

THEN, NOW = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 2, tzinfo=UTC)
SHA256 = "a" * 64
STORED = StoredImage(
    "a",
    "u/a",
    {"price": 3, "kind": "hat"},
    SHA256,
    THEN,
    THEN,
    np.array([1, 2, 3, 4], np.float32),
    Region(0, 0, 0.5, 1),
)


class SlowReads(MemoryStore):
    """Let other tasks run between a read and its result."""

    async def get(
        self, collection: Collection, ids: Sequence[str], view: View, consistency: Consistency, deadline: Deadline
    ) -> list[StoredImage]:
        found = await super().get(collection, ids, view, consistency, deadline)
        await asyncio.sleep(0.01)
        return found


class Services:
    """The writer and the updater of one process."""

    def __init__(self, store: MemoryStore, embedder: CountingEmbedder) -> None:
        locks = ImageLocks()
        reserve = Budget(Limit(10**6, 10**9)).wait
        self.store = store
        self.writes = WriteImages(store, embedder, lambda: NOW, locks, 100, 10**6, reserve)
        self.changes = ChangeImages(store, lambda: NOW, locks)

    async def write(self, *messages: ImageToWrite) -> list[WriteResult]:
        async def stream() -> AsyncIterator[ImageToWrite]:
            for message in messages:
                yield message

        return [result async for result in self.writes.write(stream(), Deadline.after(30))]

    async def set(self, **attributes: int) -> None:
        paths = [f"attributes.{name}" for name in attributes]
        await self.changes.update(ImageUpdate("photos", "a", paths, "", dict(attributes)), Deadline.after(30))

    async def read(self) -> StoredImage:
        (found,) = await self.store.get(
            self.store.collection("photos"), ["a"], View.FULL, Consistency.STRONG, Deadline.after(30)
        )
        return found


def image(source: EncodedImage | Embedding | KeptVector, **rest: Any) -> ImageToWrite:
    return ImageToWrite("r", "photos", "a", source, **rest)


def vector(*values: float) -> Embedding:
    return Embedding(np.array(values, np.float32), FINGERPRINT)


@pytest.fixture
async def services(store: MemoryStore, embedder: CountingEmbedder, deadline: Deadline) -> Services:
    await store.upsert(store.collection("photos"), [STORED], deadline)
    return Services(store, embedder)


def reason(result: WriteResult) -> str:
    return result.outcome.reason if isinstance(result.outcome, ServiceError) else "stored"


async def test_keep_attributes_merges_stored_and_new_attributes(services: Services) -> None:
    await services.write(image(vector(4, 3, 2, 1), attributes={"price": 5, "size": 42}, keep_attributes=True))
    found = await services.read()
    assert found.attributes == {"price": 5, "kind": "hat", "size": 42}
    assert found.vector is not None
    assert found.vector.tolist() == [4, 3, 2, 1]
    await services.write(image(vector(4, 3, 2, 1), attributes={"size": 1}))
    assert (await services.read()).attributes == {"size": 1}


async def test_kept_vector_keeps_its_region_and_create_time(services: Services) -> None:
    (result,) = await services.write(image(KeptVector(), uri="new", content_sha256=SHA256, attributes={"n": 1}))
    assert reason(result) == "stored"
    found = await services.read()
    assert found.vector is not None
    assert found.vector.tolist() == [1, 2, 3, 4]
    assert (found.uri, found.attributes, found.region) == ("new", {"n": 1}, STORED.region)
    assert (found.create_time, found.update_time) == (THEN, NOW)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (image(KeptVector(), content_sha256="b" * 64), "CONTENT_CHANGED"),
        (image(KeptVector()), "CONTENT_CHANGED"),
        (ImageToWrite("r", "photos", "nobody", KeptVector(), content_sha256=SHA256), "IMAGE_NOT_FOUND"),
        (image(KeptVector(), content_sha256=SHA256, region=Region(0, 0, 1, 1)), "REGION_INVALID"),
        (
            image(vector(1, 0, 0, 0), attributes={f"a{n}": 1 for n in range(127)}, keep_attributes=True),
            "ATTRIBUTE_INVALID",
        ),
    ],
)
async def test_write_that_cannot_keep_its_parts_changes_nothing(
    services: Services, message: ImageToWrite, expected: str
) -> None:
    (result, other) = await services.write(message, ImageToWrite("s", "photos", "b", vector(1, 0, 0, 0)))
    assert (reason(result), reason(other)) == (expected, "stored")
    assert await services.read() == STORED


async def test_write_keeps_parts_of_the_previous_write_in_the_stream(services: Services) -> None:
    """Also if both are prepared at the same time."""
    results = await services.write(
        image(vector(9, 9, 9, 9), attributes={"first": 1}, content_sha256="c" * 64),
        image(KeptVector(), uri="second", content_sha256="c" * 64, keep_attributes=True),
        image(vector(5, 5, 5, 5), keep_attributes=True, attributes={"third": 3}),
    )
    assert [reason(result) for result in results] == ["stored"] * 3
    found = await services.read()
    assert found.attributes == {"first": 1, "third": 3}


async def test_concurrent_writes_do_not_undo_an_update(services: Services, store: MemoryStore) -> None:
    store.__class__ = SlowReads

    async def change() -> None:
        for number in range(20):
            await services.set(**{f"n{number}": number})

    async def write() -> None:
        for number in range(20):
            (result,) = await services.write(image(EncodedImage(b"%04d" % number), keep_attributes=True))
            assert reason(result) == "stored"

    await asyncio.gather(change(), services.set(other=1), write())
    found = await services.read()
    assert found.attributes == {**STORED.attributes, "other": 1, **{f"n{number}": number for number in range(20)}}


@pytest.mark.parametrize(
    ("new", "replaced"),
    [
        ({"uri": "u/a", "content_sha256": "b" * 64}, False),
        ({"uri": "u/b", "content_sha256": SHA256}, False),
        ({"uri": "u/b", "content_sha256": "b" * 64}, True),
        ({"uri": "", "content_sha256": "b" * 64}, True),
        # Without a SHA-256, the vectors are compared.
        ({"uri": "u/b"}, True),
        ({"uri": "u/b", "values": (1, 2, 3, 4.00001)}, False),
    ],
)
async def test_result_reports_whether_another_image_was_replaced(
    services: Services, new: dict[str, Any], replaced: bool
) -> None:
    values = new.pop("values", (4, 3, 2, 1))
    (quiet,) = await services.write(image(vector(*values), **new))
    await services.store.upsert(services.store.collection("photos"), [STORED], Deadline.after(30))
    (reported,) = await services.write(image(vector(*values), report_replaced=True, **new))
    assert (quiet.replaced, reported.replaced) == (False, replaced)
    (first,) = await services.write(ImageToWrite("r", "photos", "new", vector(1, 0, 0, 0), report_replaced=True))
    assert not first.replaced


async def test_stored_vectors_are_read_in_chunks(
    services: Services, deadline: Deadline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_parts, "READ_BYTES", 3 * 16)
    names = [f"i{number}" for number in range(10)]
    ready = [ImageToWrite(name, "photos", name, vector(1, number, 0, 0)) for number, name in enumerate(names)]
    await services.write(*ready)
    kept = [ImageToWrite(name, "photos", name, KeptVector(), uri=f"u/{name}") for name in names]
    assert {reason(result) for result in await services.write(*kept)} == {"stored"}
    found = await services.store.get(
        services.store.collection("photos"), names, View.FULL, Consistency.STRONG, deadline
    )
    assert {stored.id: (stored.uri, float(stored.vector[1])) for stored in found if stored.vector is not None} == {
        name: (f"u/{name}", number) for number, name in enumerate(names)
    }
