"""The embedder, over gRPC."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias

import grpc
import numpy as np
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import embedding_pb2, image_pb2

from grpc_kit.deadline import Deadline
from grpc_kit.errors import ServiceError, UnavailableError
from grpc_kit.status import from_rpc_error, from_status
from search_service.core.ports import BulkEmbedder
from search_service.core.types import EmbedderModel, Embedding, EncodedImage

# Seconds after which a caller may try again when the embedder cannot be reached: it takes that long to start.
RETRY_AFTER = 2.0

Stream: TypeAlias = "grpc.aio.StreamStreamCall[embedder_pb2.EmbedStreamRequest, embedder_pb2.EmbedStreamResponse]"


class EmbedderClient:
    """Calls the embedder."""

    def __init__(self, channel: grpc.aio.Channel, target: str, timeout: float) -> None:
        """`target` is named in errors; `timeout` is the most seconds that one image gets."""
        self._stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        self._target = target
        self._timeout = timeout

    async def embed(self, image: EncodedImage, model: str, deadline: Deadline) -> Embedding:
        """Embeds one image in the interactive lane."""
        request = embedder_pb2.EmbedRequest(model=model, image=_image_to(image))
        try:
            response = await self._stub.Embed(request, timeout=deadline.timeout(self._timeout))
        except grpc.RpcError as error:
            raise self._meaning(error) from None
        return _embedding_from(response.embedding)

    async def model(self, name: str, deadline: Deadline) -> EmbedderModel:
        """Describes a model."""
        request = embedder_pb2.GetModelRequest(name=name)
        try:
            response = await self._stub.GetModel(request, timeout=deadline.timeout(self._timeout))
        except grpc.RpcError as error:
            failure = self._meaning(error)
            failure.field = "model"
            raise failure from None
        return EmbedderModel(response.model.name, response.model.dimension, response.model.fingerprint)

    @asynccontextmanager
    async def bulk(self) -> AsyncIterator[BulkEmbedder]:
        """Opens the bulk lane: one EmbedStream call, made when the first image comes."""
        lane = _BulkLane(self._stub.EmbedStream, self._meaning)
        try:
            yield lane
        finally:
            await lane.close()

    def _meaning(self, error: grpc.RpcError) -> ServiceError:
        """The error, where the embedder wrote it; where gRPC did, what that means to a caller of this service."""
        failure = from_rpc_error(error)
        if isinstance(failure, UnavailableError) and failure.retry_after is None:
            return UnavailableError(
                "EMBEDDER_UNAVAILABLE",
                f"the embedder at {self._target} cannot be reached; queries by vector or id work without it",
                metadata={"embedder": self._target},
                retry_after=RETRY_AFTER,
            )
        return failure


class _BulkLane:
    """Many images over one EmbedStream call, which is made anew when it has failed and another image comes."""

    def __init__(self, begin: Callable[[], Stream], meaning: Callable[[grpc.RpcError], ServiceError]) -> None:
        self._begin = begin
        self._meaning = meaning
        self._call: _StreamCall | None = None

    async def embed(self, image: EncodedImage, model: str) -> Embedding:
        """Embeds one image."""
        if self._call is None or self._call.failure is not None:
            self._call = _StreamCall(self._begin(), self._meaning)
        return await self._call.embed(image, model)

    async def close(self) -> None:
        """Ends the call; images that still wait are given up."""
        if self._call is not None:
            await self._call.close()


class _StreamCall:
    """One EmbedStream call; each image waits for the answer with its own id."""

    def __init__(self, stream: Stream, meaning: Callable[[grpc.RpcError], ServiceError]) -> None:
        self.failure: ServiceError | None = None
        """Why the call ended, once it has."""
        self._stream = stream
        self._meaning = meaning
        self._ids = itertools.count()
        self._waiting: dict[str, asyncio.Future[Embedding]] = {}
        self._writing = asyncio.Lock()
        self._reader = asyncio.create_task(self._read())

    async def embed(self, image: EncodedImage, model: str) -> Embedding:
        request_id = str(next(self._ids))
        request = embedder_pb2.EmbedStreamRequest(request_id=request_id, model=model, image=_image_to(image))
        answer: asyncio.Future[Embedding] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = answer
        try:
            # A gRPC stream takes one message at a time. It raises where the call has ended; the reader knows why.
            async with self._writing:
                with suppress(grpc.RpcError, asyncio.InvalidStateError):
                    await self._stream.write(request)
            if self.failure is not None and not answer.done():
                raise self.failure
            return await answer
        finally:
            self._waiting.pop(request_id, None)

    async def _read(self) -> None:
        failure: ServiceError = UnavailableError(
            "EMBEDDER_UNAVAILABLE", "the embedder ended the stream", retry_after=RETRY_AFTER
        )
        try:
            async for response in self._stream:
                answer = self._waiting.get(response.request_id)
                if answer is None or answer.done():
                    continue
                if response.WhichOneof("result") == "embedding":
                    answer.set_result(_embedding_from(response.embedding))
                else:
                    answer.set_exception(from_status(response.error))
        except grpc.RpcError as error:
            failure = self._meaning(error)
        finally:
            self.failure = failure
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(failure)

    async def close(self) -> None:
        self._stream.cancel()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)


def _image_to(image: EncodedImage) -> image_pb2.EncodedImage:
    message = image_pb2.EncodedImage(content=image.content)
    if image.region is not None:
        region = image.region
        message.region.CopyFrom(image_pb2.Region(x0=region.x0, y0=region.y0, x1=region.x1, y1=region.y1))
    return message


def _embedding_from(message: embedding_pb2.Embedding) -> Embedding:
    return Embedding(np.array(message.values, dtype=np.float32), message.fingerprint)
