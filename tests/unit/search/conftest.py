"""Fixtures: a store in memory, and an embedder that computes nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pytest

from grpc_kit.deadline import Deadline
from grpc_kit.errors import InvalidArgumentError, NotFoundError, out_of_memory
from search_service.core.types import (
    Collection,
    EmbeddedRegions,
    EmbedderModel,
    Embedding,
    EncodedImage,
    Region,
    StoredRegion,
)
from tests.memory_store import MemoryStore

FINGERPRINT = "vgg16-avg-0123456789abcdef"
REGION_FINGERPRINT = "vgg16-max-regions-0123456789abcdef"


@dataclass
class CountingEmbedder:
    """Use the first four bytes of an image as its vector; reject the contents b"bad!" and b"full"."""

    fingerprint: str = FINGERPRINT
    embedded: list[bytes] = field(default_factory=list)

    async def embed(self, image: EncodedImage, model: str, deadline: Deadline | None = None) -> Embedding:
        if model != "vgg16":
            raise NotFoundError("MODEL_NOT_FOUND", f"no model is called {model}")
        if image.content == b"bad!":
            raise InvalidArgumentError("IMAGE_CORRUPT", "image.content cannot be decoded", field="image.content")
        if image.content == b"full":
            raise out_of_memory()
        self.embedded.append(image.content)
        return Embedding(np.frombuffer(image.content[:4], np.uint8).astype(np.float32), self.fingerprint)

    async def embed_regions(
        self, image: EncodedImage, model: str, max_regions: int, deadline: Deadline | None = None
    ) -> EmbeddedRegions:
        """Use each further four bytes as the vector of a region, in strips from left to right."""
        embedded = await self.embed(image, model)
        vectors = np.frombuffer(image.content[4:], np.uint8).astype(np.float32).reshape(-1, 4)[:max_regions]
        boxes = [Region(n / 100, 0.0, (n + 1) / 100, 1.0) for n in range(len(vectors))]
        regions = (StoredRegion(box, vector, 1.0) for box, vector in zip(boxes, vectors, strict=True))
        return EmbeddedRegions(
            Embedding(embedded.values, REGION_FINGERPRINT), tuple(regions), Region(0.2, 0.2, 0.8, 0.8)
        )

    @asynccontextmanager
    async def bulk(self, deadline: Deadline) -> AsyncIterator["CountingEmbedder"]:
        yield self

    async def model(self, name: str, deadline: Deadline) -> EmbedderModel:
        if name not in {"", "vgg16"}:
            raise NotFoundError("MODEL_NOT_FOUND", f"no model is called {name}", field="model")
        return EmbedderModel("vgg16", 4, self.fingerprint, REGION_FINGERPRINT, "max", "native")


@pytest.fixture
def embedder() -> CountingEmbedder:
    return CountingEmbedder()


@pytest.fixture
def deadline() -> Deadline:
    return Deadline.after(30)


@pytest.fixture
async def store(deadline: Deadline) -> MemoryStore:
    """Return a store with the collection "photos" of the embedder's model, and "foreign" without a model."""
    store = MemoryStore()
    now = datetime(2026, 1, 1, tzinfo=UTC)
    await store.create_collection(Collection("photos", 4, FINGERPRINT, now, model="vgg16"), deadline)
    await store.create_collection(Collection("foreign", 4, "clip", now), deadline)
    return store
