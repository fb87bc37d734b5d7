"""A proxy for the embedder: it forwards images, counts them, and refuses some as the embedder could."""

import asyncio
import hashlib
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import grpc
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc

from demo.local_stack import free_port
from grpc_kit.channel import channel_options, open_channel
from grpc_kit.errors import ResourceExhaustedError, UnavailableError
from grpc_kit.status import to_status

MAX_MESSAGE_BYTES = 24 * 1024 * 1024


class Relay(embedder_pb2_grpc.EmbedderServiceServicer):
    """Serves in a thread on a fixed address, within its context."""

    def __init__(self, embedder: str, *, refused: float = 0.0, broken: float = 0.0) -> None:
        """Create a relay; `refused` is the fraction of refused images, `broken` the fraction of interrupted calls."""
        self.address = f"127.0.0.1:{free_port()}"
        self.embedded: Counter[str] = Counter()
        """Number of times that each content was embedded, by SHA-256."""
        self.responses: dict[str, embedder_pb2.EmbedStreamResponse] = {}
        """The last response for each content, by SHA-256."""
        self.refusals = 0
        self.fingerprint = ""
        """Fingerprint that it reports; empty means the fingerprint of the embedder."""
        self.frozen = False
        """True if it answers nothing."""
        self.pause = 0.0
        """Seconds that it waits before each image."""
        self.poison = ""
        """SHA-256 of a content that interrupts its call."""
        self._embedder = embedder
        self.refused = refused
        self._broken = broken
        self.in_flight = 0
        """Number of EmbedStream calls in flight."""
        self._dice = random.Random(1)
        self._up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        assert self._stopping is not None
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(20)

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        server = grpc.aio.server(options=channel_options(MAX_MESSAGE_BYTES))
        embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(self, server)
        server.add_insecure_port(self.address)
        async with open_channel(self._embedder, MAX_MESSAGE_BYTES) as channel:
            self._stub: embedder_pb2_grpc.EmbedderServiceAsyncStub = embedder_pb2_grpc.EmbedderServiceStub(channel)
            await server.start()
            self._up.set()
            await self._stopping.wait()
            await server.stop(0)

    async def GetModel(self, request: embedder_pb2.GetModelRequest, context: Any) -> embedder_pb2.GetModelResponse:
        response = await self._stub.GetModel(request)
        response.model.fingerprint = self.fingerprint or response.model.fingerprint
        return response

    async def Embed(self, request: embedder_pb2.EmbedRequest, context: Any) -> embedder_pb2.EmbedResponse:
        return await self._stub.Embed(request)

    async def EmbedRegions(
        self, request: embedder_pb2.EmbedRegionsRequest, context: Any
    ) -> embedder_pb2.EmbedRegionsResponse:
        return await self._stub.EmbedRegions(request)

    async def ListModels(
        self, request: embedder_pb2.ListModelsRequest, context: Any
    ) -> embedder_pb2.ListModelsResponse:
        return await self._stub.ListModels(request)

    async def EmbedStream(
        self, request_iterator: AsyncIterator[embedder_pb2.EmbedStreamRequest], context: Any
    ) -> AsyncIterator[embedder_pb2.EmbedStreamResponse]:
        self.in_flight += 1
        try:
            async for response in self._answers(request_iterator, context):
                yield response
        finally:
            self.in_flight -= 1

    async def _answers(
        self, request_iterator: AsyncIterator[embedder_pb2.EmbedStreamRequest], context: Any
    ) -> AsyncIterator[embedder_pb2.EmbedStreamResponse]:
        breaks = self._dice.random() < self._broken
        answers = 0
        if self.frozen:
            await asyncio.sleep(60)
        async for request in request_iterator:
            await asyncio.sleep(self.pause)
            sha256 = hashlib.sha256(request.image.content).hexdigest()
            if sha256 == self.poison or (breaks and answers == 2):
                await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            response = embedder_pb2.EmbedStreamResponse(request_id=request.request_id)
            if self._dice.random() < self.refused:
                self.refusals += 1
                errors = [
                    ResourceExhaustedError("OVERLOADED", "too many calls are pending", retry_after=0.05),
                    ResourceExhaustedError("OUT_OF_MEMORY", "no memory", retry_after=0.05),
                    UnavailableError("STOPPING", "the server is stopping"),
                ]
                response.error.CopyFrom(to_status(self._dice.choice(errors), "embedder.imagesearch"))
            else:
                call = self._stub.EmbedStream(iter([request]))
                async for answer in call:
                    response = answer
                if response.WhichOneof("result") != "error":
                    self.embedded[sha256] += 1
                    self.responses[sha256] = response
            answers += 1
            yield response
