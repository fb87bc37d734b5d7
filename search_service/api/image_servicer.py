"""ImageService."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from imagesearch.search.v1 import image_pb2, image_pb2_grpc

from grpc_kit.deadline import Deadline
from grpc_kit.errors import InvalidArgumentError, ServiceError
from grpc_kit.server.interceptors.context_interceptor import Context
from grpc_kit.status import to_status
from search_service.api.call_limits import DOMAIN, CallLimits
from search_service.api.converters import consistency_from, paged_request
from search_service.api.filter_converters import filter_from
from search_service.api.image_converters import (
    fill_image,
    image_to,
    image_to_write_from,
    listing_from,
    position_from,
    position_to,
    update_from,
    view_from,
)
from search_service.api.response_budget import ResponseBudget
from search_service.core.change_images import ChangeImages
from search_service.core.checks import MAX_IDS, MAX_REQUEST_ID
from search_service.core.image_writes import ImageToWrite, InvalidMessage, WriteResult
from search_service.core.page_tokens import PageTokens
from search_service.core.ports import VectorStore
from search_service.core.read_images import MAX_PAGE, count_images, get_image, get_images, list_images
from search_service.core.types import Consistency
from search_service.core.write_images import WriteImages

# Characters of an invalid id in a response. A valid id has fewer.
MAX_SHOWN_ID = 1024


class ImageServicer(image_pb2_grpc.ImageServiceServicer):
    """Write, read, change, delete and count images."""

    def __init__(
        self,
        store: VectorStore,
        writes: WriteImages,
        changes: ChangeImages,
        tokens: PageTokens,
        limits: CallLimits,
        responses: ResponseBudget,
    ) -> None:
        """Wire the servicer.

        Args:
            store: reads images.
            writes: writes streams of images.
            changes: changes and deletes images.
            tokens: creates and reads page tokens.
            limits: sets the default deadline of unary calls, and the maximum size of responses.
            responses: limits the memory of responses in preparation.
        """
        self._store = store
        self._writes = writes
        self._changes = changes
        self._tokens = tokens
        self._limits = limits
        self._responses = responses

    async def WriteImages(
        self, request_iterator: AsyncIterator[image_pb2.WriteImagesRequest], context: Context
    ) -> AsyncIterator[image_pb2.WriteImagesResponse]:
        """Write a stream of images, and return a result for each."""
        deadline = Deadline.after(context.time_remaining())

        async def messages() -> AsyncIterator[ImageToWrite | InvalidMessage]:
            async for request in request_iterator:
                message = _image_from(request)
                # Do not keep the image twice, nor until the next one arrives.
                del request
                yield message
                del message

        async with aclosing(self._writes.write(messages(), deadline)) as results:
            async for result in results:
                yield _response(result)

    async def GetImage(self, request: image_pb2.GetImageRequest, context: Context) -> image_pb2.GetImageResponse:
        """Return one image."""
        deadline = self._limits.deadline(context)
        view = view_from(request.view, "view")
        consistency = consistency_from(request.consistency, "consistency") or Consistency.STRONG
        found = await get_image(self._store, request.collection, request.id, view, consistency, deadline)
        return image_pb2.GetImageResponse(image=image_to(found.images[0], found.fingerprint))

    async def GetImages(self, request: image_pb2.GetImagesRequest, context: Context) -> image_pb2.GetImagesResponse:
        """Return several images."""
        deadline = self._limits.deadline(context)
        view = view_from(request.view, "view")
        consistency = consistency_from(request.consistency, "consistency") or Consistency.STRONG
        async with self._responses.reserved(request.collection, view, min(len(request.ids), MAX_IDS)):
            found, missing = await get_images(self._store, request.collection, request.ids, view, consistency, deadline)
            response = image_pb2.GetImagesResponse(missing_ids=missing)
            for image in found.images:
                fill_image(response.images.add(), image, found.fingerprint)
            self._responses.observe(request.collection, view, len(found.images), response.ByteSize())
            return self._limits.checked(response)

    async def ListImages(self, request: image_pb2.ListImagesRequest, context: Context) -> image_pb2.ListImagesResponse:
        """Return a page of images."""
        digest = paged_request(request)
        after = position_from(self._tokens.read(request.page_token, digest))
        listing = listing_from(request, after)
        async with self._responses.reserved(listing.collection, listing.view, max(0, min(listing.page_size, MAX_PAGE))):
            page = await list_images(self._store, listing, self._limits.deadline(context))
            token = self._tokens.make(digest, position_to(page.end)) if page.end else ""
            response = image_pb2.ListImagesResponse(next_page_token=token)
            for image in page.images:
                fill_image(response.images.add(), image, page.fingerprint)
            self._responses.observe(listing.collection, listing.view, len(page.images), response.ByteSize())
            return self._limits.checked(response)

    async def UpdateImage(
        self, request: image_pb2.UpdateImageRequest, context: Context
    ) -> image_pb2.UpdateImageResponse:
        """Change an image."""
        image = await self._changes.update(update_from(request), self._limits.deadline(context))
        return image_pb2.UpdateImageResponse(image=image_to(image, ""))

    async def DeleteImages(
        self, request: image_pb2.DeleteImagesRequest, context: Context
    ) -> image_pb2.DeleteImagesResponse:
        """Delete images by ids or by a filter."""
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
                    "TARGET_MISSING", "target is missing; it must be ids or a filter", field="target"
                )
        return image_pb2.DeleteImagesResponse(deleted_count=deleted)

    async def CountImages(
        self, request: image_pb2.CountImagesRequest, context: Context
    ) -> image_pb2.CountImagesResponse:
        """Count images."""
        condition = filter_from(request.filter) if request.HasField("filter") else None
        count = await count_images(self._store, request.collection, condition, self._limits.deadline(context))
        return image_pb2.CountImagesResponse(count=count)


def _image_from(request: image_pb2.WriteImagesRequest) -> ImageToWrite | InvalidMessage:
    try:
        return image_to_write_from(request)
    except ServiceError as error:
        error.release_frames()
        # The message may be pending for long, so keep no more of its ids than a response needs.
        request_id, image_id = request.request_id[:MAX_REQUEST_ID], request.id[:MAX_SHOWN_ID]
        return InvalidMessage(request_id, image_id, request.collection[:MAX_SHOWN_ID], error)


def _response(result: WriteResult) -> image_pb2.WriteImagesResponse:
    # An id that is too long was refused. The response has only the start of it.
    response = image_pb2.WriteImagesResponse(request_id=result.request_id[:MAX_REQUEST_ID], id=result.id[:MAX_SHOWN_ID])
    if isinstance(result.outcome, ServiceError):
        response.error.CopyFrom(to_status(result.outcome, DOMAIN))
    else:
        response.written.content_sha256 = result.outcome.content_sha256
        response.written.replaced = result.replaced
        if result.outcome.create_time is not None:
            response.written.create_time.FromDatetime(result.outcome.create_time)
    return response
