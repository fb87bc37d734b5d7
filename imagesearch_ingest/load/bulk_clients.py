"""The services as a load calls them: many items at a time, over short streams that go round the replicas."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Generic, Protocol, Self, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.search.v1 import image_pb2, image_pb2_grpc
from imagesearch.types.v1 import embedding_pb2, encoded_image_pb2

from grpc_kit.channel import open_channel
from grpc_kit.credentials import ClientTls
from grpc_kit.errors import CancelledError, InternalError, InvalidArgumentError, ServiceError, UnavailableError
from grpc_kit.status import from_rpc_error, from_status
from imagesearch_client import MAX_MESSAGE_BYTES
from imagesearch_ingest.load.batcher import Batcher, BatchLimits, PendingRequest
from imagesearch_ingest.load.service_retries import (
    NO_ANSWER,
    TRANSIENT_ERRORS,
    CallBrokenError,
    RequestRetries,
    ServiceRetries,
)

# Images of one call. Each call goes to the next replica, and a new replica gets its share of those that begin then.
CALL_IMAGES = 16
CALL_BYTES = 16 * 1024 * 1024
# Vectors of one call, where they are being made and where they are ready. A call waits a little to be full, because a
# row in a call of its own costs Milvus about ten times as much.
CALL_VECTORS, CALL_READY_VECTORS = 128, 256
CALL_VECTOR_BYTES = 4 * 1024 * 1024
VECTOR_CALLS = 2
LINGER_SECONDS = 4.0
# After this many calls that broke a call holds one item only: it may be what breaks the calls of its neighbours.
SUSPICIOUS = 2
STATE_SECONDS = 10.0
# Errors of one item that are of kinds which end a load otherwise.
ITEM_REASONS = frozenset({"IMAGE_NOT_FOUND", "CONTENT_CHANGED"})

Request = TypeVar("Request", bound=Message)


Either: TypeAlias = embedder_pb2.EmbedStreamResponse | image_pb2.WriteImagesResponse
Response = TypeVar("Response", bound=Either)
Response_co = TypeVar("Response_co", bound=Either, covariant=True)


class StreamCall(Protocol[Response_co]):
    """What gRPC gives for a call of a stream."""

    def __aiter__(self) -> AsyncIterator[Response_co]:
        """The responses."""

    def cancel(self) -> bool:
        """Ends the call."""


class Endpoint:
    """Where a service is, and how it is called."""

    def __init__(self, target: str, tls: ClientTls | None = None, token: str = "") -> None:
        """`target` is HOST:PORT, or a gRPC name such as dns:///embedder:50051, whose addresses are used in turn."""
        self.target = target
        self._tls = tls
        self._token = token

    def open(self) -> grpc.aio.Channel:
        """A channel. Raises CredentialsError."""
        return open_channel(self.target, MAX_MESSAGE_BYTES, tls=self._tls, token=self._token)


class BatchedCalls(Generic[Request, Response]):
    """Requests that are each answered by one response of a stream, tried again where that can help."""

    def __init__(
        self,
        begin: Callable[[Sequence[Request]], StreamCall[Response]],
        bounds: BatchLimits,
        patience: ServiceRetries,
    ) -> None:
        """`begin` opens a stream and sends it requests, whose request_id is their place among them."""
        self._begin = begin
        self._patience = patience
        self._gathering = Batcher[Request, Response](self._call, bounds)

    async def __aenter__(self) -> Self:
        """Begins."""
        await self._gathering.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the calls that are under way."""
        await self._gathering.__aexit__(kind, error, trace)

    def hurry(self) -> None:
        """There is nothing more to come."""
        self._gathering.hurry()

    def give_up(self) -> None:
        """Cancels what waits for a call, and lets the calls in flight go on."""
        self._gathering.give_up()

    async def ask(self, request: Request, before_retry: Callable[[], None] = lambda: None) -> Response:
        """The response to a request. Raises ServiceError, LoadStoppedError, and CancelledError after `give_up`."""
        tries = RequestRetries(self._patience)
        size = request.ByteSize()
        while True:
            try:
                return await self._gathering.ask(request, size, alone=tries.broken >= SUSPICIOUS)
            except ServiceError as error:
                if error.reason in ITEM_REASONS:
                    raise
                await tries.wait(error)
            before_retry()

    async def _call(self, batch: Sequence[PendingRequest[Request, Response]]) -> None:
        # Those whose call ended a moment ago judge first whether it was the last.
        await asyncio.sleep(0)
        self._patience.ask_no_more()
        loop = asyncio.get_running_loop()
        call = self._begin([entry.asked for entry in batch])
        limit = asyncio.timeout(self._patience.seconds)
        try:
            # A service that is frozen, or that nobody serves, says nothing.
            async with limit:
                async for response in call:
                    limit.reschedule(loop.time() + self._patience.seconds)
                    self._answer(batch, response)
        except grpc.aio.AioRpcError as error:
            if limit.expired():
                # gRPC may end the call that is given up before asyncio says that its time is over.
                raise CallBrokenError(NO_ANSWER, "it does not answer") from None
            meaning = from_rpc_error(error)
            # Of other kinds are the errors of proxies and broken connections.
            if isinstance(meaning, UnavailableError | InternalError | InvalidArgumentError | CancelledError):
                raise CallBrokenError(meaning.reason, meaning.message, retry_after=meaning.retry_after) from None
            raise meaning from None
        except TimeoutError:
            raise CallBrokenError(NO_ANSWER, "it does not answer") from None
        finally:
            call.cancel()

    def _answer(self, batch: Sequence[PendingRequest[Request, Response]], response: Response) -> None:
        entry = batch[int(response.request_id)]
        error = from_status(response.error) if response.WhichOneof("result") == "error" else None
        if not isinstance(error, TRANSIENT_ERRORS):
            self._patience.heard()
        if error is None:
            entry.give(response)
        else:
            entry.fail(error)


class BulkEmbedder:
    """The embedder service, all its replicas."""

    def __init__(
        self, endpoint: Endpoint, model: str, streams: int, patience: float, tell: Callable[[str], None]
    ) -> None:
        """Calls `streams` at a time for one model of it; `tell` is told while nothing is answered."""
        self._channel = endpoint.open()
        self._model = model
        self.target = endpoint.target
        self._stub: embedder_pb2_grpc.EmbedderServiceAsyncStub = embedder_pb2_grpc.EmbedderServiceStub(self._channel)
        self._calls = BatchedCalls[embedder_pb2.EmbedStreamRequest, embedder_pb2.EmbedStreamResponse](
            self._begin, image_batch_limits(streams), ServiceRetries("the embedder", patience, self._is_there, tell)
        )

    async def __aenter__(self) -> Self:
        """Begins."""
        await self._calls.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends what is under way."""
        await self._calls.__aexit__(kind, error, trace)
        await self._channel.close()

    def give_up(self) -> None:
        """Cancels images that wait for a call."""
        self._calls.give_up()

    async def describe(self) -> embedder_pb2.Model:
        """The model as the embedder has it. Raises ServiceError."""
        request = embedder_pb2.GetModelRequest(name=self._model)
        try:
            return (await self._stub.GetModel(request, timeout=STATE_SECONDS)).model
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def _is_there(self) -> bool:
        with suppress(ServiceError):
            return bool(await self.describe())
        return False

    async def embed(self, content: bytes) -> embedding_pb2.Embedding:
        """The vector of an image's file. Raises ServiceError and LoadStoppedError."""
        request = embedder_pb2.EmbedStreamRequest(
            model=self._model, image=encoded_image_pb2.EncodedImage(content=content)
        )
        return (await self._calls.ask(request)).embedding

    def _begin(
        self, requests: Sequence[embedder_pb2.EmbedStreamRequest]
    ) -> StreamCall[embedder_pb2.EmbedStreamResponse]:
        for number, request in enumerate(requests):
            request.request_id = str(number)
        return self._stub.EmbedStream(iter(requests), wait_for_ready=True)


class BulkWriter:
    """The search service's way to write images."""

    def __init__(self, endpoint: Endpoint, bounds: BatchLimits, patience: ServiceRetries) -> None:
        """`bounds` are those of its calls: of vectors or of images; `patience` is with the search service."""
        self._channel = endpoint.open()
        self._stub: image_pb2_grpc.ImageServiceAsyncStub = image_pb2_grpc.ImageServiceStub(self._channel)
        self._calls = BatchedCalls[image_pb2.WriteImagesRequest, image_pb2.WriteImagesResponse](
            self._begin, bounds, patience
        )

    async def __aenter__(self) -> Self:
        """Begins."""
        await self._calls.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends what is under way."""
        await self._calls.__aexit__(kind, error, trace)
        await self._channel.close()

    def hurry(self) -> None:
        """There is nothing more to come."""
        self._calls.hurry()

    def give_up(self) -> None:
        """Cancels what waits for a call."""
        self._calls.give_up()

    async def write(
        self, request: image_pb2.WriteImagesRequest, before_retry: Callable[[], None] = lambda: None
    ) -> image_pb2.WrittenImage:
        """Stores an image; it has when this returns. Raises ServiceError and LoadStoppedError.

        `before_retry` may change the request: what was sent before may be stored, though no answer says so.
        """
        return (await self._calls.ask(request, before_retry)).written

    def _begin(self, requests: Sequence[image_pb2.WriteImagesRequest]) -> StreamCall[image_pb2.WriteImagesResponse]:
        for number, request in enumerate(requests):
            request.request_id = str(number)
        return self._stub.WriteImages(iter(requests), wait_for_ready=True)


def vector_batch_limits(*, ready: bool) -> BatchLimits:
    """Of calls that write vectors; `ready` for those that were made before."""
    return BatchLimits(VECTOR_CALLS, CALL_READY_VECTORS if ready else CALL_VECTORS, CALL_VECTOR_BYTES, LINGER_SECONDS)


def image_batch_limits(streams: int) -> BatchLimits:
    """Of calls that carry images."""
    return BatchLimits(streams, CALL_IMAGES, CALL_BYTES)
