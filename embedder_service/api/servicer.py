"""The gRPC servicer of EmbedderService."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc

from embedder_service.api.converters import embedding_to, image_from, image_regions_to, model_to, request_from
from embedder_service.core.embed_images import EmbedImages
from embedder_service.core.held_image import AdmittedImage
from embedder_service.core.types import EncodedImage, Lane, RegionRequest
from grpc_kit.deadline import Deadline
from grpc_kit.errors import InvalidArgumentError, ServiceError
from grpc_kit.server.interceptors.context_interceptor import Context
from grpc_kit.server.interceptors.error_mapping import internal_error
from grpc_kit.server.streams import ResponseSizes, answer_each
from grpc_kit.status import to_status

DOMAIN = "embedder.imagesearch"
MAX_REQUEST_ID = 128
BYTES_PER_COMPONENT = 4


@dataclass
class _Item:
    """One request of a stream. It keeps the image's bytes until the image is admitted, and never the message."""

    request_id: str
    model: str
    image: EncodedImage | None = None
    regions: RegionRequest | None = None
    admitted: AdmittedImage | None = None
    refusal: ServiceError | None = None


class EmbedderServicer(embedder_pb2_grpc.EmbedderServiceServicer):
    """Implements EmbedderService."""

    def __init__(self, images: EmbedImages, stream_window: int, stream_unread_bytes: int) -> None:
        """Limit a stream to `stream_window` images in flight, and `stream_unread_bytes` of responses."""
        self._images = images
        self._stream_window = stream_window
        self._sizes: ResponseSizes[_Item, embedder_pb2.EmbedStreamResponse] = ResponseSizes(
            stream_unread_bytes, self._expected_bytes, embedder_pb2.EmbedStreamResponse.ByteSize
        )

    async def Embed(self, request: embedder_pb2.EmbedRequest, context: Context) -> embedder_pb2.EmbedResponse:
        """Embed one image in the interactive lane."""
        deadline = Deadline.after(context.time_remaining())
        embedding = self._images.embed(image_from(request.image), request.model, Lane.INTERACTIVE, deadline)
        # `embedding` has a copy of the image's bytes.
        del request
        return embedder_pb2.EmbedResponse(embedding=embedding_to(await embedding))

    async def EmbedRegions(
        self, request: embedder_pb2.EmbedRegionsRequest, context: Context
    ) -> embedder_pb2.EmbedRegionsResponse:
        """Embed one image and its regions in the interactive lane."""
        deadline = Deadline.after(context.time_remaining())
        regions = request_from(request.options, "options")
        embedding = self._images.embed(image_from(request.image), request.model, Lane.INTERACTIVE, deadline, regions)
        # `embedding` has a copy of the image's bytes.
        del request
        return embedder_pb2.EmbedRegionsResponse(regions=image_regions_to(await embedding))

    async def EmbedStream(
        self, request_iterator: AsyncIterator[embedder_pb2.EmbedStreamRequest], context: Context
    ) -> AsyncIterator[embedder_pb2.EmbedStreamResponse]:
        """Embed many images in the bulk lane, and answer each one separately."""
        deadline = Deadline.after(context.time_remaining())

        async def answer(item: _Item) -> embedder_pb2.EmbedStreamResponse:
            return await self._answer(item, deadline)

        async with (
            aclosing(self._items(request_iterator)) as items,
            aclosing(answer_each(items, answer, self._stream_window, self._admit, self._sizes)) as responses,
        ):
            async for response in responses:
                yield response
                del response

    async def _items(self, requests: AsyncIterator[embedder_pb2.EmbedStreamRequest]) -> AsyncGenerator[_Item, None]:
        async for request in requests:
            item = _item(request)
            del request
            yield item
            del item

    async def _admit(self, item: _Item) -> Callable[[], None]:
        """Wait until the image is admitted. A refused request takes no slot."""
        image, item.image = item.image, None
        if image is None:
            return _release_nothing
        try:
            item.admitted = await self._images.admit(image, item.model, Lane.BULK)
        except ServiceError as error:
            error.release_frames()
            item.refusal = error
            return _release_nothing
        return item.admitted.release

    def _expected_bytes(self, item: _Item) -> int:
        """Return the maximum bytes of the vectors of a response."""
        vectors = 1 if item.regions is None else item.regions.max_vectors
        try:
            return vectors * self._images.model(item.model).dimension * BYTES_PER_COMPONENT
        except ServiceError:
            return 0

    async def _answer(self, item: _Item, deadline: Deadline) -> embedder_pb2.EmbedStreamResponse:
        response = embedder_pb2.EmbedStreamResponse(request_id=item.request_id)
        try:
            if item.admitted is None:
                raise item.refusal or RuntimeError("the image was not admitted")
            embedding = await self._images.embed_admitted(item.admitted, item.model, Lane.BULK, deadline, item.regions)
            if embedding.regions is None:
                response.embedding.CopyFrom(embedding_to(embedding))
            else:
                response.regions.CopyFrom(image_regions_to(embedding))
        except ServiceError as error:
            response.error.CopyFrom(to_status(error, DOMAIN))
            error.release_frames()
        except Exception as error:  # noqa: BLE001 - an error of one item must not end the stream
            response.error.CopyFrom(to_status(internal_error(error, "EmbedStream"), DOMAIN))
        return response

    async def ListModels(
        self, request: embedder_pb2.ListModelsRequest, context: Context
    ) -> embedder_pb2.ListModelsResponse:
        """List the served models."""
        models = [model_to(info, self._images.limits, self._images.default) for info in self._images.models()]
        return embedder_pb2.ListModelsResponse(models=models)

    async def GetModel(self, request: embedder_pb2.GetModelRequest, context: Context) -> embedder_pb2.GetModelResponse:
        """Describe one model."""
        try:
            info = self._images.model(request.name)
        except ServiceError as error:
            error.field = "name"
            raise
        return embedder_pb2.GetModelResponse(model=model_to(info, self._images.limits, self._images.default))


def _item(request: embedder_pb2.EmbedStreamRequest) -> _Item:
    if len(request.request_id) > MAX_REQUEST_ID:
        refusal = InvalidArgumentError(
            "REQUEST_ID_TOO_LONG",
            f"request_id has {len(request.request_id)} characters; the maximum is {MAX_REQUEST_ID}",
            field="request_id",
        )
        return _Item(request.request_id[:MAX_REQUEST_ID], request.model, refusal=refusal)
    regions = request_from(request.regions, "regions") if request.HasField("regions") else None
    return _Item(request.request_id, request.model, image_from(request.image), regions)


def _release_nothing() -> None:
    """Release nothing, because nothing was admitted."""
