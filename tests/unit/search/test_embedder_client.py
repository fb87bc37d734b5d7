"""Calls to an embedder that refuses the search service, or is unavailable for a moment."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc

from grpc_kit.channel import open_channel
from grpc_kit.deadline import Deadline
from grpc_kit.errors import FailedPreconditionError
from search_service.adapters.embedder_client import EmbedderClient
from search_service.bootstrap import REPEATABLE
from search_service.core.types import EncodedImage


class AccessDenied(embedder_pb2_grpc.EmbedderServiceServicer):
    """Reject every call, as an embedder does if the token or certificate is wrong."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self.code = code

    async def Embed(self, request: embedder_pb2.EmbedRequest, context: Any) -> embedder_pb2.EmbedResponse:
        return await context.abort(self.code, "no")  # type: ignore[no-any-return]

    async def EmbedRegions(
        self, request: embedder_pb2.EmbedRegionsRequest, context: Any
    ) -> embedder_pb2.EmbedRegionsResponse:
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
    embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(AccessDenied(code), server)
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


class Restarting(AccessDenied):
    """Is unavailable for the first call of each method."""

    def __init__(self) -> None:
        super().__init__(grpc.StatusCode.UNAVAILABLE)
        self.calls: list[str] = []

    async def _begin(self, method: str, context: Any) -> None:
        self.calls.append(method)
        if self.calls.count(method) == 1:
            await context.abort(self.code, "the server is stopping")

    async def Embed(self, request: embedder_pb2.EmbedRequest, context: Any) -> embedder_pb2.EmbedResponse:
        await self._begin("Embed", context)
        return embedder_pb2.EmbedResponse()

    async def EmbedRegions(
        self, request: embedder_pb2.EmbedRegionsRequest, context: Any
    ) -> embedder_pb2.EmbedRegionsResponse:
        await self._begin("EmbedRegions", context)
        return embedder_pb2.EmbedRegionsResponse()


async def test_a_query_is_embedded_by_another_attempt_if_the_embedder_is_unavailable() -> None:
    server, servicer = grpc.aio.server(), Restarting()
    embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    image, deadline = EncodedImage(b"bytes"), Deadline.after(10)
    try:
        async with open_channel(address, 2**20, REPEATABLE) as channel:
            client = EmbedderClient(channel, address, 5, sent_bytes=2**20)
            await client.embed(image, "", deadline)
            await client.embed_regions(image, "", 3, deadline)
    finally:
        await server.stop(None)
    assert servicer.calls == ["Embed"] * 2 + ["EmbedRegions"] * 2
