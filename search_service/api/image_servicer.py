"""ImageService: translates between messages and the core."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from imagesearch.search.v1 import image_pb2, image_pb2_grpc

from grpc_kit.deadline import Deadline
from grpc_kit.errors import InvalidArgumentError, ServiceError
from grpc_kit.server.interceptors.context_interceptor import Context
from grpc_kit.status import to_status
from search_service.api.answer_room import AnswerRoom
from search_service.api.calls import DOMAIN, CallLimits
from search_service.api.converters import (
    consistency_from,
    fill_image,
    image_to,
    image_to_write_from,
    listing_from,
    paged_request,
    position_from,
    position_to,
    update_from,
    view_from,
)
from search_service.api.filter_converters import filter_from
from search_service.core.change_images import ChangeImages
from search_service.core.checks import MAX_IDS, MAX_REQUEST_ID
from search_service.core.image_writes import ImageToWrite, InvalidMessage, WriteResult
from search_service.core.page_tokens import PageTokens
from search_service.core.ports import VectorStore
from search_service.core.read_images import MAX_PAGE, count_images, get_image, get_images, list_images
from search_service.core.types import Consistency
from search_service.core.write_images import WriteImages

# Characters of an id that an answer repeats; an id that is right has fewer.
MAX_SHOWN_ID = 1024


class ImageServicer(image_pb2_grpc.ImageServiceServicer):
    """Serves the contract of images."""

    def __init__(
        self,
        store: VectorStore,
        writes: WriteImages,
        changes: ChangeImages,
        tokens: PageTokens,
        limits: CallLimits,
        answers: AnswerRoom,
    ) -> None:
        """Makes the servicer.

        Args:
            store: reads images.
            writes: writes streams of images.
            changes: changes single images.
            tokens: page tokens.
            limits: gives a call that states none its time; a stream may last as long as it wants.
            answers: bounds the answers that are being made.
        """
        self._store = store
        self._writes = writes
        self._changes = changes
        self._tokens = tokens
        self._limits = limits
        self._answers = answers

    async def WriteImages(
        self, request_iterator: AsyncIterator[image_pb2.WriteImagesRequest], context: Context
    ) -> AsyncIterator[image_pb2.WriteImagesResponse]:
        """Writes images, each with an answer of its own."""
        deadline = Deadline.after(context.time_remaining())

        async def messages() -> AsyncIterator[ImageToWrite | InvalidMessage]:
            async for request in request_iterator:
                message = _image_from(request)
                # The image itself is not kept twice, nor until the next one comes.
                del request
                yield message
                del message

        async with aclosing(self._writes.write(messages(), deadline)) as results:
            async for result in results:
                yield _response(result)

    async def GetImage(self, request: image_pb2.GetImageRequest, context: Context) -> image_pb2.GetImageResponse:
        """Reads one image."""
        deadline = self._limits.deadline(context)
        view = view_from(request.view, "view")
        consistency = consistency_from(request.consistency, "consistency") or Consistency.STRONG
        found = await get_image(self._store, request.collection, request.id, view, consistency, deadline)
        return image_pb2.GetImageResponse(image=image_to(found.images[0], found.fingerprint))

    async def GetImages(self, request: image_pb2.GetImagesRequest, context: Context) -> image_pb2.GetImagesResponse:
        """Reads several images."""
        deadline = self._limits.deadline(context)
        view = view_from(request.view, "view")
        consistency = consistency_from(request.consistency, "consistency") or Consistency.STRONG
        async with self._answers.held(request.collection, view, min(len(request.ids), MAX_IDS)):
            found, missing = await get_images(self._store, request.collection, request.ids, view, consistency, deadline)
            response = image_pb2.GetImagesResponse(missing_ids=missing)
            for image in found.images:
                fill_image(response.images.add(), image, found.fingerprint)
            self._answers.observe(request.collection, view, len(found.images), response.ByteSize())
            return self._limits.sendable(response)

    async def ListImages(self, request: image_pb2.ListImagesRequest, context: Context) -> image_pb2.ListImagesResponse:
        """Lists images page by page."""
        asked = paged_request(request)
        after = position_from(self._tokens.read(request.page_token, asked))
        listing = listing_from(request, after)
        async with self._answers.held(listing.collection, listing.view, max(0, min(listing.page_size, MAX_PAGE))):
            page = await list_images(self._store, listing, self._limits.deadline(context))
            token = self._tokens.make(asked, position_to(page.end)) if page.end else ""
            response = image_pb2.ListImagesResponse(next_page_token=token)
            for image in page.images:
                fill_image(response.images.add(), image, page.fingerprint)
            self._answers.observe(listing.collection, listing.view, len(page.images), response.ByteSize())
            return self._limits.sendable(response)

    async def UpdateImage(
        self, request: image_pb2.UpdateImageRequest, context: Context
    ) -> image_pb2.UpdateImageResponse:
        """Changes an image."""
        image = await self._changes.update(update_from(request), self._limits.deadline(context))
        return image_pb2.UpdateImageResponse(image=image_to(image, ""))

    async def DeleteImages(
        self, request: image_pb2.DeleteImagesRequest, context: Context
    ) -> image_pb2.DeleteImagesResponse:
        """Removes images by id."""
        deadline, validate_only = self._limits.deadline(context), request.validate_only
        match request.WhichOneof("target"):
            case "ids":
                deleted = await self._changes.delete_ids(
                    request.collection, request.ids.ids, deadline, validate_only=validate_only
                )
            case "filter":
                deleted = await self._changes.delete_matching(
                    request.collection,
                    filter_from(request.filter),
                    deadline,
                    validate_only=validate_only,
                    max_count=request.max_count,
                )
            case _:
                raise InvalidArgumentError(
                    "TARGET_MISSING", "target is missing; it should be ids or a filter", field="target"
                )
        return image_pb2.DeleteImagesResponse(deleted_count=deleted)

    async def CountImages(
        self, request: image_pb2.CountImagesRequest, context: Context
    ) -> image_pb2.CountImagesResponse:
        """Counts images."""
        condition = filter_from(request.filter) if request.HasField("filter") else None
        count = await count_images(self._store, request.collection, condition, self._limits.deadline(context))
        return image_pb2.CountImagesResponse(count=count)


def _image_from(request: image_pb2.WriteImagesRequest) -> ImageToWrite | InvalidMessage:
    try:
        return image_to_write_from(request)
    except ServiceError as error:
        error.release_frames()
        # What is too long to be right is not kept until its turn comes.
        request_id, image_id = request.request_id[:MAX_REQUEST_ID], request.id[:MAX_SHOWN_ID]
        return InvalidMessage(request_id, image_id, request.collection[:MAX_SHOWN_ID], error)


def _response(result: WriteResult) -> image_pb2.WriteImagesResponse:
    # What is too long was refused, and is not sent back whole.
    response = image_pb2.WriteImagesResponse(request_id=result.request_id[:MAX_REQUEST_ID], id=result.id[:MAX_SHOWN_ID])
    if isinstance(result.outcome, ServiceError):
        response.error.CopyFrom(to_status(result.outcome, DOMAIN))
    else:
        response.written.content_sha256 = result.outcome.content_sha256
        response.written.replaced = result.replaced
        if result.outcome.create_time is not None:
            response.written.create_time.FromDatetime(result.outcome.create_time)
    return response
