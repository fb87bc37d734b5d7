"""The embedder, over gRPC."""

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

import grpc
import numpy as np
import structlog
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import embedding_pb2, encoded_image_pb2

from grpc_kit.deadline import Deadline
from grpc_kit.errors import (
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    PermissionDeniedError,
    ServiceError,
    UnauthenticatedError,
    UnavailableError,
)
from grpc_kit.server.budget import Budget, Limit, Place
from grpc_kit.server.tracing import trace_metadata
from grpc_kit.status import from_rpc_error, from_status
from search_service.core.ports import BulkEmbedder
from search_service.core.types import EmbedderModel, Embedding, EncodedImage

log = structlog.stdlib.get_logger()

# Seconds after which a caller may try again when the embedder cannot be reached: it takes that long to start.
RETRY_AFTER = 2.0

EMBED = "/imagesearch.embedder.v1.EmbedderService/Embed"
EMBED_STREAM = "/imagesearch.embedder.v1.EmbedderService/EmbedStream"

Stream: TypeAlias = "grpc.aio.StreamStreamCall[bytes, embedder_pb2.EmbedStreamResponse]"


class EmbedderClient:
    """Calls the embedder."""

    def __init__(self, channel: grpc.aio.Channel, target: str, timeout: float, sent_bytes: int) -> None:
        """Makes the client.

        Args:
            channel: to the embedder.
            sent_bytes: bytes of the images that are sent at a time, in each of the two lanes. What gRPC sends it
                holds twice: as a message, and as what it may send again.
            target: the embedder's address, as errors name it.
            timeout: seconds without an answer after which the embedder counts as gone, and seconds for which the bulk
                lane tries an image again.
        """
        self._stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        # Of messages that are bytes already: gRPC keeps the message of a call until the call ends.
        self._embed: Any = channel.unary_unary(EMBED, response_deserializer=embedder_pb2.EmbedResponse.FromString)
        self._embed_stream: Any = channel.stream_stream(
            EMBED_STREAM, response_deserializer=embedder_pb2.EmbedStreamResponse.FromString
        )
        self._sent = Budget(Limit(sent_bytes, sent_bytes))
        self._sent_in_bulk = Budget(Limit(sent_bytes, sent_bytes))
        self._target = target
        self._timeout = timeout

    async def embed(self, image: EncodedImage, model: str, deadline: Deadline) -> Embedding:
        """Embeds one image in the interactive lane."""
        place = await self._room(len(image.content), deadline)
        try:
            response = await self._embed(
                embedder_pb2.EmbedRequest(model=model, image=_image_to(image)).SerializeToString(),
                timeout=deadline.timeout(self._timeout),
                metadata=trace_metadata(),
            )
        except grpc.RpcError as error:
            raise self._meaning(error, deadline) from None
        finally:
            place.leave()
        return _embedding_from(response.embedding)

    async def _room(self, size: int, deadline: Deadline) -> Place:
        """Waits until an image may be sent, as long as for the embedder's answer."""
        if place := self._sent.try_take(size):
            return place
        try:
            async with asyncio.timeout(deadline.timeout(self._timeout)):
                return await self._sent.wait(size)
        except TimeoutError:
            raise _unavailable(self._target) from None

    async def model(self, name: str, deadline: Deadline) -> EmbedderModel:
        """Describes a model."""
        request = embedder_pb2.GetModelRequest(name=name)
        try:
            response = await self._stub.GetModel(
                request, timeout=deadline.timeout(self._timeout), metadata=trace_metadata()
            )
        except grpc.RpcError as error:
            failure = self._meaning(error, deadline)
            if isinstance(failure, NotFoundError):
                failure.field = "model"
            raise failure from None
        return EmbedderModel(response.model.name, response.model.dimension, response.model.fingerprint)

    @asynccontextmanager
    async def bulk(self, deadline: Deadline) -> AsyncIterator[BulkEmbedder]:
        """Opens the bulk lane: an EmbedStream call, made when the first image comes."""

        def begin() -> _StreamCall:
            remaining = deadline.remaining()
            stream = self._embed_stream(timeout=None if math.isinf(remaining) else remaining, metadata=trace_metadata())
            return _StreamCall(stream, lambda error: self._meaning(error, deadline), self._timeout, self._sent_in_bulk)

        lane = _BulkLane(begin, self._timeout)
        try:
            yield lane
        finally:
            await lane.close()

    def _meaning(self, error: grpc.RpcError, deadline: Deadline) -> ServiceError:
        """The error, where the embedder wrote it; where gRPC did, what that means to a caller of this service."""
        failure = from_rpc_error(error)
        if isinstance(failure, InternalError) and failure.reason != "VECTOR_INVALID":
            log.error("the embedder failed", target=self._target, reason=failure.reason, message=failure.message)
            return InternalError("INTERNAL", "internal error; the server's log has the details")
        if isinstance(failure, UnauthenticatedError | PermissionDeniedError):
            # The caller's own token is another one, and was taken.
            return FailedPreconditionError(
                "EMBEDDER_ACCESS_DENIED",
                f"the embedder at {self._target} refuses the search service; its operator should check "
                "SEARCH_EMBEDDER_TOKEN and SEARCH_EMBEDDER_CERTIFICATE",
                metadata={"embedder": self._target},
            )
        out_of_time = isinstance(failure, DeadlineExceededError) and deadline.remaining() > 0
        gone = isinstance(failure, UnavailableError | CancelledError) and failure.retry_after is None
        return _unavailable(self._target) if out_of_time or gone else failure


def _unavailable(target: str) -> UnavailableError:
    return UnavailableError(
        "EMBEDDER_UNAVAILABLE",
        f"the embedder at {target} does not answer; queries by vector or id work without it",
        metadata={"embedder": target},
        retry_after=RETRY_AFTER,
    )


class _StreamEndedError(Exception):
    """A call ended before it gave an answer."""

    def __init__(self, failure: ServiceError) -> None:
        super().__init__(failure.message)
        self.failure = failure


class _BulkLane:
    """Many images over one EmbedStream call; when that ends they go on over another, on whichever replica it finds."""

    def __init__(self, begin: Callable[[], "_StreamCall"], patience: float) -> None:
        self._begin = begin
        self._patience = patience
        self._call: _StreamCall | None = None

    async def embed(self, image: EncodedImage, model: str) -> Embedding:
        """Embeds one image, again for a while where a call ended before it gave an answer."""
        give_up = math.inf
        pause = 0.1
        while True:
            if self._call is None or self._call.ended:
                self._call = self._begin()
            try:
                return await self._call.embed(image, model)
            except _StreamEndedError as error:
                give_up = min(give_up, time.monotonic() + self._patience)
                if not isinstance(error.failure, UnavailableError) or time.monotonic() + pause > give_up:
                    raise error.failure from None
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)

    async def close(self) -> None:
        """Ends the call; images that still wait are given up."""
        if self._call is not None:
            await self._call.close()


class _StreamCall:
    """One EmbedStream call; each image waits for the answer with its own id."""

    def __init__(
        self, stream: Stream, meaning: Callable[[grpc.RpcError], ServiceError], patience: float, sent: Budget
    ) -> None:
        self.ended = False
        self._failure: ServiceError = UnavailableError(
            "EMBEDDER_UNAVAILABLE", "the embedder ended the stream", retry_after=RETRY_AFTER
        )
        self._stream = stream
        self._meaning = meaning
        self._patience = patience
        self._heard = time.monotonic()
        self._ids = itertools.count()
        self._waiting: dict[str, asyncio.Future[Embedding]] = {}
        self._writing = asyncio.Lock()
        self._sent = sent
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._watch())]

    async def embed(self, image: EncodedImage, model: str) -> Embedding:
        request_id = str(next(self._ids))
        answer: asyncio.Future[Embedding] = asyncio.get_running_loop().create_future()
        if not self._waiting:
            self._heard = time.monotonic()
        self._waiting[request_id] = answer
        try:
            await self._write(request_id, image, model)
            if self.ended and not answer.done():
                raise _StreamEndedError(self._failure)
            return await answer
        finally:
            self._waiting.pop(request_id, None)

    async def _write(self, request_id: str, image: EncodedImage, model: str) -> None:
        # A gRPC stream takes one message at a time. It raises where the call has ended; the reader knows why.
        async with self._writing:
            if self.ended:
                return
            place = await self._sent.wait(len(image.content))
            try:
                with suppress(grpc.RpcError, asyncio.InvalidStateError):
                    request = embedder_pb2.EmbedStreamRequest(
                        request_id=request_id, model=model, image=_image_to(image)
                    )
                    await self._stream.write(request.SerializeToString())
            except asyncio.CancelledError:
                # So gRPC reports a call that the watch has cancelled. The reader says then what became of it.
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
            finally:
                place.leave()

    async def _read(self) -> None:
        try:
            async for response in self._stream:
                self._heard = time.monotonic()
                answer = self._waiting.get(response.request_id)
                if answer is None or answer.done():
                    continue
                if response.WhichOneof("result") == "embedding":
                    answer.set_result(_embedding_from(response.embedding))
                else:
                    answer.set_exception(from_status(response.error))
        except grpc.RpcError as error:
            self._failure = self._meaning(error)
        except asyncio.CancelledError:
            # By the watch, whose patience is over, or by `close`.
            return
        finally:
            self.ended = True
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(_StreamEndedError(self._failure))

    async def _watch(self) -> None:
        """Ends the call when images wait and nothing is heard: a connection can be dead and not know it."""
        while not self.ended:
            await asyncio.sleep(self._patience / 4)
            if self._waiting and time.monotonic() - self._heard > self._patience:
                self._stream.cancel()

    async def close(self) -> None:
        if not self.ended:
            self._stream.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _image_to(image: EncodedImage) -> encoded_image_pb2.EncodedImage:
    message = encoded_image_pb2.EncodedImage(content=image.content)
    if image.region is not None:
        region = image.region
        message.region.CopyFrom(encoded_image_pb2.Region(x0=region.x0, y0=region.y0, x1=region.x1, y1=region.y1))
    return message


def _embedding_from(message: embedding_pb2.Embedding) -> Embedding:
    return Embedding(np.array(message.values, dtype=np.float32), message.fingerprint)
