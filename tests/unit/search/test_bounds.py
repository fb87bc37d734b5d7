"""What one search may cost, and what the embedder's refusals mean to callers."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc
import numpy as np
import pytest
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc

from grpc_kit.deadline import Deadline
from grpc_kit.errors import FailedPreconditionError
from search_service.adapters.embedder_client import EmbedderClient
from search_service.core.collection_cache import CollectionCache
from search_service.core.ports import Embedder, Nearest
from search_service.core.search_images import SearchImages
from search_service.core.searches import GroupBy, Search
from search_service.core.types import Collection, Embedding, EncodedImage, Hit, StoredImage, Vector
from tests.memory_store import MemoryStore

NEVER = Deadline.after(None)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
GROUPS, EACH = 20, 40


class CountingStore(MemoryStore):
    """Counts searches."""

    searches = 0

    async def search(
        self, collection: Collection, vectors: Sequence[Vector], nearest: Nearest, deadline: Deadline
    ) -> list[list[Hit]]:
        self.searches += 1
        return await super().search(collection, vectors, nearest, deadline)


async def test_grouped_search_needs_at_most_eight_store_searches(embedder: Embedder) -> None:
    store = CountingStore()
    await store.create_collection(Collection("grouped", 2, "f", NOW), NEVER)
    angles = np.linspace(0, 1, GROUPS * EACH)
    images = [
        StoredImage(f"i{number:04d}", attributes={"k": number // EACH}, vector=np.array([np.cos(angle), np.sin(angle)]))
        for number, angle in enumerate(angles)
    ]
    await store.upsert(store.collection("grouped"), images, NEVER)
    searches = SearchImages(store, embedder, CollectionCache(store))
    query = Embedding(np.array([1, 0], np.float32), "f")
    found = await searches.search(Search("grouped", query, limit=GROUPS, group_by=GroupBy("k")), NEVER)
    assert [hit.image.attributes["k"] for hit in found.hits] == list(range(GROUPS))
    assert store.searches <= 8


class Doorkeeper(embedder_pb2_grpc.EmbedderServiceServicer):
    """Refuses every call as an embedder does whose token or certificates the caller does not have."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self.code = code

    async def Embed(self, request: embedder_pb2.EmbedRequest, context: Any) -> embedder_pb2.EmbedResponse:
        return await context.abort(self.code, "no")  # type: ignore[no-any-return]

    async def EmbedStream(
        self, request_iterator: AsyncIterator[embedder_pb2.EmbedStreamRequest], context: Any
    ) -> AsyncIterator[embedder_pb2.EmbedStreamResponse]:
        await context.abort(self.code, "no")
        yield embedder_pb2.EmbedStreamResponse()

    async def ListModels(
        self, request: embedder_pb2.ListModelsRequest, context: Any
    ) -> embedder_pb2.ListModelsResponse:
        return await context.abort(self.code, "no")  # type: ignore[no-any-return]

    async def GetModel(self, request: embedder_pb2.GetModelRequest, context: Any) -> embedder_pb2.GetModelResponse:
        return await context.abort(self.code, "no")  # type: ignore[no-any-return]


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED])
async def test_embedder_access_denied_is_failed_precondition(code: grpc.StatusCode) -> None:
    server = grpc.aio.server()
    embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(Doorkeeper(code), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    image, deadline = EncodedImage(b"bytes"), Deadline.after(10)
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            client = EmbedderClient(channel, address, 5, sent_bytes=2**20)
            async with client.bulk(deadline) as bulk:
                for call in (client.embed(image, "", deadline), client.model("", deadline), bulk.embed(image, "")):
                    with pytest.raises(FailedPreconditionError, match="SEARCH_EMBEDDER_TOKEN") as refused:
                        await call
                    assert refused.value.reason == "EMBEDDER_ACCESS_DENIED"
                    assert refused.value.retry_after is None
    finally:
        await server.stop(None)
