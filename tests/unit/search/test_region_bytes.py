"""Images with many large regions do not fill the memory: every step has a limit on bytes."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import numpy as np
import pytest

from grpc_kit.deadline import Deadline
from grpc_kit.server.budget import Budget, Limit
from search_service.adapters.milvus_regions import WRITE_BYTES, batches
from search_service.core import write_window
from search_service.core.image_locks import ImageLocks
from search_service.core.image_writes import ImageToWrite
from search_service.core.kept_parts import READ_BYTES, Keep, chunk_size, view_of
from search_service.core.ports import Embedder
from search_service.core.prepare_images import ImagePreparer
from search_service.core.regions import STEP_BYTES, STEP_REGIONS, generations_per_read, image_bytes
from search_service.core.types import Collection, EncodedImage, Region, StoredImage, StoredRegion, View
from search_service.core.write_images import WriteImages
from tests.memory_store import MemoryStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LARGEST = Collection("largest", 32_768, "f", NOW, max_regions=64)
SMALL = Collection("small", 2, "f", NOW, max_regions=64)
FLAT = Collection("flat", 32_768, "f", NOW)


def test_reads_and_writes_count_the_regions_of_an_image() -> None:
    keep = [(StoredImage("a"), Keep(vector=True))]
    assert view_of(keep) is View.FULL
    assert chunk_size(LARGEST, keep) * image_bytes(LARGEST) <= READ_BYTES
    # To compare an image with the stored one, its regions are not read.
    compare = [(StoredImage("a"), Keep(report=True))]
    assert view_of(compare) is View.VECTOR
    assert chunk_size(LARGEST, compare) == chunk_size(FLAT, keep) == READ_BYTES // (4 * 32_768)
    assert view_of([*compare, *keep]) is View.FULL
    # One image is always possible.
    assert generations_per_read(LARGEST) == 1
    assert image_bytes(LARGEST) - 4 * LARGEST.dimension <= STEP_BYTES
    assert generations_per_read(SMALL) * SMALL.max_regions <= STEP_REGIONS


def test_rows_of_regions_are_written_in_steps() -> None:
    vector = np.ones(LARGEST.dimension, np.float32)
    regions = tuple(StoredRegion(Region(0, 0, 1, 1), vector) for _ in range(64))
    large = {"text": "x" * 30_000}
    images = [StoredImage(f"i{n}", attributes=large, regions=regions, generation=n) for n in range(1000)]
    tracemalloc.start()
    keys: set[str] = set()
    for rows in batches(LARGEST, images):
        # A row has its vector and the attributes.
        assert len(rows) * (4 * LARGEST.dimension + 30_000) <= WRITE_BYTES
        keys.update(row["key"] for row in rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(keys) == 64_000
    # Mostly the keys of this test.
    assert peak < 20 * 1024**2


async def test_stream_holds_few_images_whose_vectors_are_large(
    store: MemoryStore, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is small, and its regions may have megabytes."""
    collection = Collection("photos_with_regions", 4, "vgg16-avg-0123456789abcdef", NOW, "vgg16", max_regions=64)
    await store.create_collection(collection, Deadline.after(30))
    held: list[int] = []
    stored = 0

    async def messages() -> AsyncIterator[ImageToWrite]:
        for number in range(20):
            held.append(number - stored)
            yield ImageToWrite("r", collection.name, f"i{number}", EncodedImage(b"1234rest"), size=100)
            await asyncio.sleep(0)

    monkeypatch.setattr(write_window, "EMBEDDED_BYTES", 3 * image_bytes(collection))
    reserve = Budget(Limit(10**6, 10**9)).wait
    writes = WriteImages(store, embedder, lambda: NOW, ImageLocks(), 1000, 10**9, reserve)
    async for _ in writes.write(messages(), Deadline.after(30)):
        stored += 1
    assert stored == 20
    assert max(held) <= 4


async def test_only_images_that_the_service_embeds_count_their_vectors(store: MemoryStore, embedder: Embedder) -> None:
    await store.create_collection(LARGEST, Deadline.after(30))
    async with embedder.bulk(Deadline.after(30)) as bulk:
        preparer = ImagePreparer(store, bulk, Deadline.after(30))
        message = ImageToWrite("r", LARGEST.name, "a", EncodedImage(b"1234"))
        preparer.read_name(message)
        assert await preparer.embedded_bytes(message) == image_bytes(LARGEST) == 65 * 4 * 32_768
        missing = ImagePreparer(store, bulk, Deadline.after(30))
        missing.read_name(ImageToWrite("r", "missing", "a", EncodedImage(b"1234")))
        assert await missing.embedded_bytes(message) == 0
