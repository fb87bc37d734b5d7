"""Call the services for many items at a time, over short streams that are balanced across the replicas."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
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
from imagesearch_ingest.load.errors import CallBrokenError
from imagesearch_ingest.load.service_retries import (
    NO_ANSWER,
    TRANSIENT_ERRORS,
    RequestRetries,
    ServiceAvailability,
)

# Images per call. Each call goes to the next replica, so that a new replica soon gets its share.
CALL_IMAGES = 16
CALL_BYTES = 16 * 1024 * 1024
# Vectors per call: of images that are being embedded, and of ready vectors. A call lingers until it is full, because
# a row in a call of its own costs Milvus about ten times as much.
CALL_VECTORS, CALL_READY_VECTORS = 128, 256
CALL_VECTOR_BYTES = 4 * 1024 * 1024
VECTOR_CALLS = 2
LINGER_SECONDS = 4.0
# After this many broken calls a request gets a call of its own: it may break the calls of its neighbors.
MAX_BROKEN_CALLS = 2
MODEL_TIMEOUT_SECONDS = 10.0
# Reasons that concern one item, although errors of their kind stop a load otherwise.
ITEM_REASONS = frozenset({"IMAGE_NOT_FOUND", "CONTENT_CHANGED"})

Request = TypeVar("Request", bound=Message)
StreamResponse: TypeAlias = embedder_pb2.EmbedStreamResponse | image_pb2.WriteImagesResponse
Response = TypeVar("Response", bound=StreamResponse)
Response_co = TypeVar("Response_co", bound=StreamResponse, covariant=True)


class StreamCall(Protocol[Response_co]):
    """A streaming call of gRPC."""

    def __aiter__(self) -> AsyncIterator[Response_co]:
        """Iterate over the responses."""

    def cancel(self) -> bool:
        """Cancel the call."""


class Endpoint:
    """The address of a service, and how to connect to it."""

    def __init__(self, target: str, tls: ClientTls | None = None, token: str = "") -> None:
        """`target` is HOST:PORT, or a gRPC name such as dns:///embedder:50051 that resolves to all replicas."""
        self.target = target
        self._tls = tls
        self._token = token

    def open(self) -> grpc.aio.Channel:
        """Open a channel. Raises CredentialsError."""
        return open_channel(self.target, MAX_MESSAGE_BYTES, tls=self._tls, token=self._token)


class BulkClient(ABC, Generic[Request, Response]):
    """Sends single requests in batches over streaming calls, and retries them. Use it with `async with`."""

    def __init__(self, endpoint: Endpoint, limits: BatchLimits) -> None:
        """Open a channel to the service."""
        self.target = endpoint.target
        self._channel = endpoint.open()
        self._batcher = Batcher[Request, Response](self._call, limits)
        self._availability: ServiceAvailability

    async def __aenter__(self) -> Self:
        """Start sending."""
        await self._batcher.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cancel the calls in flight, and close the channel."""
        await self._batcher.__aexit__()
        await self._channel.close()

    def flush(self) -> None:
        """Do not wait for full batches any more, because no further requests are expected."""
        self._batcher.flush()

    def cancel_pending(self) -> None:
        """Cancel the requests that are not in a call yet. Calls in flight continue."""
        self._batcher.cancel_pending()

    @abstractmethod
    def _start_call(self, requests: Sequence[Request]) -> StreamCall[Response]:
        """Start a streaming call with these requests."""

    async def _send(self, request: Request, before_retry: Callable[[], None] = lambda: None) -> Response:
        """Return the response. Raises ServiceError, LoadStoppedError, and CancelledError after `cancel_pending`."""
        retries = RequestRetries(self._availability)
        size = request.ByteSize()
        while True:
            try:
                return await self._batcher.submit(request, size, alone=retries.broken_calls >= MAX_BROKEN_CALLS)
            except ServiceError as error:
                if error.reason in ITEM_REASONS:
                    raise
                await retries.wait(error)
            before_retry()

    async def _call(self, batch: Sequence[PendingRequest[Request, Response]]) -> None:
        # Requests whose call has just failed decide first whether the load stops.
        await asyncio.sleep(0)
        self._availability.raise_if_stopped()
        loop = asyncio.get_running_loop()
        requests = [pending.request for pending in batch]
        for number, request in enumerate(requests):
            request.request_id = str(number)  # type: ignore[attr-defined]
        call = self._start_call(requests)
        timeout = asyncio.timeout(self._availability.retry_seconds)
        try:
            # A frozen service sends no status, so only a timeout ends the call.
            async with timeout:
                async for response in call:
                    timeout.reschedule(loop.time() + self._availability.retry_seconds)
                    self._set_result(batch, response)
        except grpc.aio.AioRpcError as error:
            if timeout.expired():
                # gRPC may report the cancelled call before asyncio reports the timeout.
                raise CallBrokenError(NO_ANSWER, "it does not answer") from None
            meaning = from_rpc_error(error)
            # Proxies and broken connections raise errors of these kinds.
            if isinstance(meaning, UnavailableError | InternalError | InvalidArgumentError | CancelledError):
                raise CallBrokenError(meaning.reason, meaning.message, retry_after=meaning.retry_after) from None
            raise meaning from None
        except TimeoutError:
            raise CallBrokenError(NO_ANSWER, "it does not answer") from None
        finally:
            call.cancel()

    def _set_result(self, batch: Sequence[PendingRequest[Request, Response]], response: Response) -> None:
        pending = batch[int(response.request_id)]
        error = from_status(response.error) if response.WhichOneof("result") == "error" else None
        if not isinstance(error, TRANSIENT_ERRORS):
            self._availability.record_success()
        if error is None:
            pending.set_result(response)
        else:
            pending.set_error(error)


class BulkEmbedder(BulkClient[embedder_pb2.EmbedStreamRequest, embedder_pb2.EmbedStreamResponse]):
    """The bulk client of the embedder service, for one model."""

    def __init__(
        self, endpoint: Endpoint, model: str, streams: int, retry_seconds: float, notify: Callable[[str], None]
    ) -> None:
        """Keep `streams` calls in flight. `notify` receives messages while the embedder does not respond."""
        super().__init__(endpoint, image_batch_limits(streams))
        self._model = model
        self._stub: embedder_pb2_grpc.EmbedderServiceAsyncStub = embedder_pb2_grpc.EmbedderServiceStub(self._channel)
        self._availability = ServiceAvailability("the embedder", retry_seconds, self._responds, notify)

    async def describe(self) -> embedder_pb2.Model:
        """Return the embedder's description of the model. Raises ServiceError."""
        request = embedder_pb2.GetModelRequest(name=self._model)
        try:
            return (await self._stub.GetModel(request, timeout=MODEL_TIMEOUT_SECONDS)).model
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def embed(self, content: bytes) -> embedding_pb2.Embedding:
        """Return the vector of an encoded image. Raises ServiceError and LoadStoppedError."""
        image = encoded_image_pb2.EncodedImage(content=content)
        return (await self._send(embedder_pb2.EmbedStreamRequest(model=self._model, image=image))).embedding

    async def embed_regions(self, content: bytes, max_regions: int) -> embedder_pb2.ImageRegions:
        """Return the vectors of an encoded image and of at most `max_regions` regions. Raises as `embed` does."""
        image = encoded_image_pb2.EncodedImage(content=content)
        options = embedder_pb2.RegionOptions(max_regions=max_regions)
        request = embedder_pb2.EmbedStreamRequest(model=self._model, image=image, regions=options)
        return (await self._send(request)).regions

    async def _responds(self) -> bool:
        with suppress(ServiceError):
            return bool(await self.describe())
        return False

    def _start_call(
        self, requests: Sequence[embedder_pb2.EmbedStreamRequest]
    ) -> StreamCall[embedder_pb2.EmbedStreamResponse]:
        return self._stub.EmbedStream(iter(requests), wait_for_ready=True)


class BulkWriter(BulkClient[image_pb2.WriteImagesRequest, image_pb2.WriteImagesResponse]):
    """The bulk client of the search service, for writes."""

    def __init__(self, endpoint: Endpoint, limits: BatchLimits, availability: ServiceAvailability) -> None:
        """Write in batches of `limits`."""
        super().__init__(endpoint, limits)
        self._stub: image_pb2_grpc.ImageServiceAsyncStub = image_pb2_grpc.ImageServiceStub(self._channel)
        self._availability = availability

    async def write(
        self, request: image_pb2.WriteImagesRequest, before_retry: Callable[[], None] = lambda: None
    ) -> image_pb2.WrittenImage:
        """Store an image, and return when it is stored. Raises ServiceError and LoadStoppedError.

        `before_retry` may change the request: a failed attempt may have stored the image all the same.
        """
        return (await self._send(request, before_retry)).written

    def _start_call(
        self, requests: Sequence[image_pb2.WriteImagesRequest]
    ) -> StreamCall[image_pb2.WriteImagesResponse]:
        return self._stub.WriteImages(iter(requests), wait_for_ready=True)


def vector_batch_limits(*, ready: bool) -> BatchLimits:
    """Return the limits of calls that write vectors; `ready` if no vector has to be computed."""
    return BatchLimits(VECTOR_CALLS, CALL_READY_VECTORS if ready else CALL_VECTORS, CALL_VECTOR_BYTES, LINGER_SECONDS)


def image_batch_limits(streams: int) -> BatchLimits:
    """Return the limits of calls that send encoded images."""
    return BatchLimits(streams, CALL_IMAGES, CALL_BYTES)
