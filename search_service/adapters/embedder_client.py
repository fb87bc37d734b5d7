"""The embedder, over gRPC."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import structlog
from google.protobuf.message import Message
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc

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
from grpc_kit.server.budget import Budget, Limit, Reservation
from grpc_kit.server.tracing import trace_metadata
from grpc_kit.status import from_rpc_error
from search_service.adapters.bulk_lane import RETRY_AFTER, BulkLane, StreamCall
from search_service.adapters.embedder_messages import embedding_from, image_to, regions_from
from search_service.core.ports import BulkEmbedder
from search_service.core.types import EmbeddedRegions, EmbedderModel, Embedding, EncodedImage

log = structlog.stdlib.get_logger()

EMBED = "/imagesearch.embedder.v1.EmbedderService/Embed"
EMBED_REGIONS = "/imagesearch.embedder.v1.EmbedderService/EmbedRegions"
EMBED_STREAM = "/imagesearch.embedder.v1.EmbedderService/EmbedStream"


class EmbedderClient:
    """Call the embedder."""

    def __init__(self, channel: grpc.aio.Channel, target: str, timeout: float, sent_bytes: int) -> None:
        """Prepare to call.

        Args:
            channel: channel to the embedder.
            target: address of the embedder, for error messages.
            timeout: maximum seconds of a call without a result, and seconds for which the bulk lane retries an image.
            sent_bytes: maximum bytes of the images that are being sent, in each of the two lanes. gRPC holds each image
                twice: as a message, and in its retry buffer.
        """
        self._stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        # These take serialized messages: gRPC keeps the message of a call in memory until the call ends.
        self._embed: Any = channel.unary_unary(EMBED, response_deserializer=embedder_pb2.EmbedResponse.FromString)
        self._embed_regions: Any = channel.unary_unary(
            EMBED_REGIONS, response_deserializer=embedder_pb2.EmbedRegionsResponse.FromString
        )
        self._embed_stream: Any = channel.stream_stream(
            EMBED_STREAM, response_deserializer=embedder_pb2.EmbedStreamResponse.FromString
        )
        self._sending = Budget(Limit(sent_bytes, sent_bytes))
        self._sending_in_bulk = Budget(Limit(sent_bytes, sent_bytes))
        self._target = target
        self._timeout = timeout

    async def embed(self, image: EncodedImage, model: str, deadline: Deadline) -> Embedding:
        """Embed an image in the interactive lane. Raises ServiceError."""
        response = await self._send(
            self._embed, lambda: embedder_pb2.EmbedRequest(model=model, image=image_to(image)), image, deadline
        )
        return embedding_from(response.embedding)

    async def embed_regions(
        self, image: EncodedImage, model: str, max_regions: int, deadline: Deadline
    ) -> EmbeddedRegions:
        """Embed an image and at most `max_regions` regions in the interactive lane. Raises ServiceError."""
        options = embedder_pb2.RegionOptions(max_regions=max_regions)
        response = await self._send(
            self._embed_regions,
            lambda: embedder_pb2.EmbedRegionsRequest(model=model, image=image_to(image), options=options),
            image,
            deadline,
        )
        return regions_from(response.regions)

    async def _send(self, method: Any, request: Callable[[], Message], image: EncodedImage, deadline: Deadline) -> Any:
        """Return the response of a unary method to a request with an image, which is made when there is room for it."""
        reservation = await self._reserve(len(image.content), deadline)
        try:
            return await method(
                request().SerializeToString(), timeout=deadline.timeout(self._timeout), metadata=trace_metadata()
            )
        except grpc.RpcError as error:
            raise self._translated(error, deadline) from None
        finally:
            reservation.release()

    async def _reserve(self, size: int, deadline: Deadline) -> Reservation:
        """Wait until an image may be sent, at most for the timeout of a call."""
        if reservation := self._sending.try_take(size):
            return reservation
        try:
            async with asyncio.timeout(deadline.timeout(self._timeout)):
                return await self._sending.wait(size)
        except TimeoutError:
            raise _unavailable(self._target) from None

    async def model(self, name: str, deadline: Deadline) -> EmbedderModel:
        """Describe a model. Raises ServiceError."""
        request = embedder_pb2.GetModelRequest(name=name)
        try:
            response = await self._stub.GetModel(
                request, timeout=deadline.timeout(self._timeout), metadata=trace_metadata()
            )
        except grpc.RpcError as error:
            failure = self._translated(error, deadline)
            if isinstance(failure, NotFoundError):
                failure.field = "model"
            raise failure from None
        model = response.model
        return EmbedderModel(
            model.name, model.dimension, model.fingerprint, model.region_fingerprint, model.head, model.input
        )

    @asynccontextmanager
    async def bulk(self, deadline: Deadline) -> AsyncIterator[BulkEmbedder]:
        """Open the bulk lane. The first image starts its EmbedStream call."""

        def begin() -> StreamCall:
            remaining = deadline.remaining()
            stream = self._embed_stream(timeout=None if math.isinf(remaining) else remaining, metadata=trace_metadata())
            return StreamCall(
                stream, lambda error: self._translated(error, deadline), self._timeout, self._sending_in_bulk
            )

        lane = BulkLane(begin, self._timeout)
        try:
            yield lane
        finally:
            await lane.close()

    def _translated(self, error: grpc.RpcError, deadline: Deadline) -> ServiceError:
        """Return the embedder's own error for the caller, or what a failure of gRPC means to the caller."""
        failure = from_rpc_error(error)
        if isinstance(failure, InternalError) and failure.reason != "VECTOR_INVALID":
            log.error("the embedder failed", target=self._target, reason=failure.reason, message=failure.message)
            return InternalError("INTERNAL", "internal error; the server's log has the details")
        if isinstance(failure, UnauthenticatedError | PermissionDeniedError):
            # This is about the credentials of the service, not about those of the caller.
            return FailedPreconditionError(
                "EMBEDDER_ACCESS_DENIED",
                f"the embedder at {self._target} refuses the search service; its operator must check "
                "SEARCH_EMBEDDER_TOKEN and SEARCH_EMBEDDER_CERTIFICATE",
                metadata={"embedder": self._target},
            )
        out_of_time = isinstance(failure, DeadlineExceededError) and deadline.remaining() > 0
        gone = isinstance(failure, UnavailableError | CancelledError) and failure.retry_after is None
        return _unavailable(self._target) if out_of_time or gone else failure


def _unavailable(target: str) -> UnavailableError:
    return UnavailableError(
        "EMBEDDER_UNAVAILABLE",
        f"the embedder at {target} does not answer; try again later, or search by vector or id, which works without it",
        metadata={"embedder": target},
        retry_after=RETRY_AFTER,
    )
