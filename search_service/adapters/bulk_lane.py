"""The bulk lane to the embedder: many images over one EmbedStream call."""

import asyncio
import itertools
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

import grpc
from imagesearch.embedder.v1 import embedder_pb2

from grpc_kit.errors import InternalError, ServiceError, UnavailableError
from grpc_kit.server.budget import Budget
from grpc_kit.status import from_status
from search_service.adapters.embedder_messages import embedding_from, image_to, regions_from
from search_service.core.types import EmbeddedRegions, Embedding, EncodedImage

# An embedder takes this many seconds to start.
RETRY_AFTER = 2.0
FIRST_BACKOFF, MAX_BACKOFF = 0.1, 2.0

# The result of a request: with regions if it asked for them.
Result: TypeAlias = Embedding | EmbeddedRegions

Stream: TypeAlias = "grpc.aio.StreamStreamCall[bytes, embedder_pb2.EmbedStreamResponse]"


class _StreamEndedError(Exception):
    """A call ended before it returned the result of an image."""

    def __init__(self, failure: ServiceError) -> None:
        super().__init__(failure.message)
        self.failure = failure


class BulkLane:
    """Embed images over one EmbedStream call. When the call ends, start another one, on any replica."""

    def __init__(self, begin: Callable[[], "StreamCall"], retry_seconds: float) -> None:
        """`begin` starts a call; an image is retried for `retry_seconds`."""
        self._begin = begin
        self._retry_seconds = retry_seconds
        self._call: StreamCall | None = None

    async def embed(self, image: EncodedImage, model: str) -> Embedding:
        """Embed an image; retry it if a call ends before its result arrives. Raises ServiceError."""
        result = await self._send(image, model, None)
        if not isinstance(result, Embedding):
            raise _unexpected_result()
        return result

    async def embed_regions(self, image: EncodedImage, model: str, max_regions: int) -> EmbeddedRegions:
        """Embed an image and at most `max_regions` regions, as `embed` does."""
        result = await self._send(image, model, embedder_pb2.RegionOptions(max_regions=max_regions))
        if not isinstance(result, EmbeddedRegions):
            raise _unexpected_result()
        return result

    async def _send(self, image: EncodedImage, model: str, regions: embedder_pb2.RegionOptions | None) -> Result:
        give_up = math.inf
        backoff = FIRST_BACKOFF
        while True:
            if self._call is None or self._call.ended:
                self._call = self._begin()
            try:
                return await self._call.send(image, model, regions)
            except _StreamEndedError as error:
                give_up = min(give_up, time.monotonic() + self._retry_seconds)
                if not isinstance(error.failure, UnavailableError) or time.monotonic() + backoff > give_up:
                    raise error.failure from None
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, MAX_BACKOFF)

    async def close(self) -> None:
        """End the call, and fail the pending images."""
        if self._call is not None:
            await self._call.close()


class StreamCall:
    """One EmbedStream call. Images and results are matched by request id."""

    def __init__(
        self,
        stream: Stream,
        translate: Callable[[grpc.RpcError], ServiceError],
        silence_seconds: float,
        sending: Budget,
    ) -> None:
        """Start to read results.

        Args:
            stream: the call.
            translate: returns the error for the failure of the call.
            silence_seconds: the call is cancelled if images are pending and no result arrives for this long.
            sending: limits the bytes of images that are being sent.
        """
        self.ended = False
        self._failure: ServiceError = UnavailableError(
            "EMBEDDER_UNAVAILABLE", "the embedder ended the stream; try again later", retry_after=RETRY_AFTER
        )
        self._stream = stream
        self._translate = translate
        self._silence_seconds = silence_seconds
        self._last_result = time.monotonic()
        self._ids = itertools.count()
        self._pending: dict[str, asyncio.Future[Result]] = {}
        self._writing = asyncio.Lock()
        self._sending = sending
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._watch())]

    async def send(self, image: EncodedImage, model: str, regions: embedder_pb2.RegionOptions | None) -> Result:
        """Send an image and return its result, with regions if `regions` is set. Raises ServiceError."""
        request_id = str(next(self._ids))
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        if not self._pending:
            self._last_result = time.monotonic()
        self._pending[request_id] = result
        try:
            await self._write(request_id, image, model, regions)
            if self.ended and not result.done():
                raise _StreamEndedError(self._failure)
            return await result
        finally:
            self._pending.pop(request_id, None)

    async def _write(
        self, request_id: str, image: EncodedImage, model: str, regions: embedder_pb2.RegionOptions | None
    ) -> None:
        # A gRPC stream accepts one message at a time.
        async with self._writing:
            if self.ended:
                return
            reservation = await self._sending.wait(len(image.content))
            try:
                # The write fails if the call has ended. `_read` reports why.
                with suppress(grpc.RpcError, asyncio.InvalidStateError):
                    # Not before there is room, because the message has a copy of the image.
                    request = embedder_pb2.EmbedStreamRequest(
                        request_id=request_id, model=model, image=image_to(image), regions=regions
                    )
                    await self._stream.write(request.SerializeToString())
            except asyncio.CancelledError:
                # gRPC also raises this if `_watch` has cancelled the call. Then this task itself is not cancelled.
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
            finally:
                reservation.release()

    async def _read(self) -> None:
        try:
            async for response in self._stream:
                self._last_result = time.monotonic()
                result = self._pending.get(response.request_id)
                if result is None or result.done():
                    continue
                match response.WhichOneof("result"):
                    case "embedding":
                        result.set_result(embedding_from(response.embedding))
                    case "regions":
                        result.set_result(regions_from(response.regions))
                    case _:
                        result.set_exception(from_status(response.error))
        except grpc.RpcError as error:
            self._failure = self._translate(error)
        except asyncio.CancelledError:
            # `_watch` or `close` has cancelled the call.
            return
        finally:
            self.ended = True
            for result in self._pending.values():
                if not result.done():
                    result.set_exception(_StreamEndedError(self._failure))

    async def _watch(self) -> None:
        """Cancel the call if images are pending and no result arrives: gRPC may not notice a dead connection."""
        while not self.ended:
            await asyncio.sleep(self._silence_seconds / 4)
            if self._pending and time.monotonic() - self._last_result > self._silence_seconds:
                self._stream.cancel()

    async def close(self) -> None:
        """Cancel the call."""
        if not self.ended:
            self._stream.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _unexpected_result() -> InternalError:
    """Return the error for an embedder that answered another request than it was sent."""
    return InternalError("INTERNAL", "internal error; the server's log has the details")
