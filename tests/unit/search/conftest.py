"""Fixtures: a store in memory, and an embedder that computes nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pytest

from grpc_kit.deadline import Deadline
from grpc_kit.errors import InvalidArgumentError, NotFoundError, out_of_memory
from search_service.core.types import Collection, EmbedderModel, Embedding, EncodedImage
from tests.memory_store import MemoryStore

FINGERPRINT = "vgg16-avg-0123456789abcdef"


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

    @asynccontextmanager
    async def bulk(self, deadline: Deadline) -> AsyncIterator["CountingEmbedder"]:
        yield self

    async def model(self, name: str, deadline: Deadline) -> EmbedderModel:
        if name not in {"", "vgg16"}:
            raise NotFoundError("MODEL_NOT_FOUND", f"no model is called {name}", field="model")
        return EmbedderModel("vgg16", 4, self.fingerprint)


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
