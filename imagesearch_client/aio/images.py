"""The calls that write, read, change and delete images."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from imagesearch.search.v1 import collection_pb2, image_pb2, image_pb2_grpc

from grpc_kit.errors import CancelledError, ResourceExhaustedError, ServiceError, UnavailableError
from imagesearch_client.aio.connection import Connection, asks_to_wait, service_errors
from imagesearch_client.aio.outgoing import Outgoing
from imagesearch_client.defaults import MAX_IDS
from imagesearch_client.filters import Filter
from imagesearch_client.from_messages import image_from, write_result
from imagesearch_client.ids import in_parts
from imagesearch_client.threads import AsyncItems
from imagesearch_client.to_messages import (
    check_filter,
    consistency_to,
    list_request,
    update_request,
    view_to,
    write_request,
)
from imagesearch_client.types import AttributeValue, Image, Images, NewImage, Page, WriteResult


class ImageCalls(Connection):
    """The calls that write, read, change and delete images."""

    @cached_property
    def _images(self) -> "image_pb2_grpc.ImageServiceAsyncStub":
        return image_pb2_grpc.ImageServiceStub(self._channel)

    def write(self, collection: str, images: AsyncItems[NewImage]) -> AsyncIterator[WriteResult]:
        """Write images over one stream. Yield one result for each; an error of one image never stops the others.

        A result without an error means that the image is stored and survives a crash. `images` may be longer than
        memory: the client reads it in another thread, as fast as the service embeds. What `images` raises is raised
        here after the results of the images before.

        If the service becomes unavailable, images without a result may be stored or not: write them again.
        """
        outgoing: Outgoing[NewImage, image_pb2.WriteImagesRequest, WriteResult] = Outgoing(
            images,
            lambda _, image: write_request(image, collection),
            lambda _, image, error: WriteResult(image.id, error),
        )
        return outgoing.results(self._images.WriteImages, write_result)

    async def get(
        self,
        collection: str,
        image_id: str,
        *,
        with_vector: bool = False,
        with_regions: bool = False,
        strong: bool = False,
    ) -> Image:
        """Return one image.

        Args:
            collection: its collection.
            image_id: its id.
            with_vector: whether to read its vector too.
            with_regions: whether to read its regions too; they come with the vector.
            strong: whether to see every write that was acknowledged before.
        """
        request = image_pb2.GetImageRequest(
            collection=collection,
            id=image_id,
            view=view_to(with_vector=with_vector, with_regions=with_regions),
            consistency=consistency_to(strong=strong),
        )
        return image_from((await self._call(self._images.GetImage, request, asks_to_wait)).image)

    async def get_many(
        self,
        collection: str,
        ids: Iterable[str],
        *,
        with_vector: bool = False,
        with_regions: bool = False,
        strong: bool = False,
    ) -> dict[str, Image]:
        """Return the images that exist, by id and in the order of the ids. The options are those of `get`."""
        found = self.get_each(collection, ids, with_vector=with_vector, with_regions=with_regions, strong=strong)
        return {image_id: image async for image_id, image in found if image is not None}

    def get_each(
        self,
        collection: str,
        ids: Iterable[str],
        *,
        with_vector: bool = False,
        with_regions: bool = False,
        strong: bool = False,
    ) -> AsyncIterator[tuple[str, Image | None]]:
        """Yield each distinct id in order, with its image, or None if there is no such image.

        One call reads up to 1,000 images, or fewer if the response would be too large. The options are those of `get`.
        """
        request = image_pb2.GetImagesRequest(
            collection=collection,
            view=view_to(with_vector=with_vector, with_regions=with_regions),
            consistency=consistency_to(strong=strong),
        )
        return self._read_parts(request, in_parts(ids))

    async def _read_parts(
        self, request: image_pb2.GetImagesRequest, parts: Iterator[Sequence[str]]
    ) -> AsyncIterator[tuple[str, Image | None]]:
        for part in parts:
            waiting = [part]
            while waiting:
                ids = waiting.pop()
                request.ids[:] = ids
                try:
                    response = await self._call(self._images.GetImages, request, asks_to_wait)
                except ResourceExhaustedError as error:
                    if error.reason != "ANSWER_TOO_LARGE" or len(ids) == 1:
                        raise
                    middle = len(ids) // 2
                    waiting += [ids[middle:], ids[:middle]]
                    continue
                found = {message.id: image_from(message) for message in response.images}
                for image_id in ids:
                    yield image_id, found.get(image_id)

    def list(
        self,
        collection: str,
        *,
        where: Filter | None = None,
        latest_first: bool = False,
        with_vector: bool = False,
        with_regions: bool = False,
        page_size: int = 100,
        strong: bool = False,
    ) -> AsyncIterator[Image]:
        """Yield every image, read page by page.

        Args:
            collection: the collection.
            where: yields only images that match.
            latest_first: orders by the time of the last change, latest first; by default images are ordered by id.
            with_vector: whether to read the vectors too.
            with_regions: whether to read the regions too; they come with the vectors.
            page_size: images in one call, 1 to 1,000.
            strong: whether to see every write that was acknowledged before.
        """
        return self._pages(
            list_request(
                collection,
                where,
                page_size,
                latest_first=latest_first,
                with_vector=with_vector,
                with_regions=with_regions,
                strong=strong,
            )
        )

    async def _pages(self, request: image_pb2.ListImagesRequest) -> AsyncIterator[Image]:
        while True:
            response = await self._call(self._images.ListImages, request, asks_to_wait)
            for image in response.images:
                yield image_from(image)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    async def list_page(
        self,
        collection: str,
        *,
        page_token: str = "",
        where: Filter | None = None,
        latest_first: bool = False,
        with_vector: bool = False,
        with_regions: bool = False,
        page_size: int = 100,
        strong: bool = False,
    ) -> Page:
        """Return one page of `list`, and the token of the next page; it is empty after the last page.

        An empty `page_token` reads the first page. A token is valid as long as the collection exists, for calls with
        the same arguments; only `page_size` may differ.
        """
        request = list_request(
            collection,
            where,
            page_size,
            latest_first=latest_first,
            with_vector=with_vector,
            with_regions=with_regions,
            strong=strong,
        )
        request.page_token = page_token
        response = await self._call(self._images.ListImages, request, asks_to_wait)
        return Page(Images(map(image_from, response.images)), response.next_page_token)

    async def update(
        self,
        collection: str,
        image_id: str,
        *,
        uri: str | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
        remove: Sequence[str] = (),
    ) -> Image:
        """Change an image, keep its vector, and return the image after the change.

        Args:
            collection: its collection.
            image_id: its id.
            uri: the new uri; None keeps it.
            attributes: attributes to set; all others stay.
            remove: names of attributes to remove.
        """
        request = update_request(collection, image_id, uri, attributes or {}, remove)
        return image_from((await self._call(self._images.UpdateImage, request, asks_to_wait)).image)

    async def delete(
        self,
        collection: str,
        ids: Iterable[str],
        *,
        dry_run: bool = False,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Delete images by id. Return how many existed.

        One call deletes up to 1,000 images. If a call fails, the calls before it have deleted their images: the error
        has their number in `metadata["deleted_count"]`, and the same delete again removes the rest.

        A call whose response was lost is repeated. The client then counts the images that it saw before the first
        attempt. The count can be wrong only if another client writes or deletes these images in the same moment.

        Args:
            collection: their collection.
            ids: any number of ids.
            dry_run: count the images and delete nothing.
            on_progress: receives the number of deleted images after each call.
        """
        deleted = 0
        for part in in_parts(ids):
            request = image_pb2.DeleteImagesRequest(
                collection=collection, ids=image_pb2.ImageIds(ids=part), validate_only=dry_run
            )
            try:
                deleted += await self._delete_part(request)
            except ServiceError as error:
                error.metadata["deleted_count"] = str(deleted)
                raise
            on_progress(deleted)
        return deleted

    async def _delete_part(self, request: image_pb2.DeleteImagesRequest) -> int:
        """Delete images by id; repeat the call if its response is lost."""
        if request.validate_only:
            return (await self._call(self._images.DeleteImages, request, asks_to_wait)).deleted_count
        attempts = 0
        existing = await self._existing(request.collection, request.ids.ids)

        def should_retry(error: Exception) -> bool:
            nonlocal attempts
            attempts += 1
            return existing is not None and (
                asks_to_wait(error) or isinstance(error, UnavailableError | CancelledError)
            )

        response = await self._call(self._images.DeleteImages, request, should_retry)
        return max(response.deleted_count, existing or 0) if attempts else response.deleted_count

    async def _existing(self, collection: str, ids: Sequence[str]) -> int | None:
        """Return how many of the images exist, or None if the service does not answer that."""
        request = image_pb2.GetImagesRequest(
            collection=collection,
            ids=ids,
            view=image_pb2.IMAGE_VIEW_ID,
            consistency=collection_pb2.CONSISTENCY_BOUNDED,
        )
        try:
            with service_errors():
                return len((await self._images.GetImages(request, timeout=self._timeout)).images)
        except ServiceError:
            return None

    async def delete_where(
        self,
        collection: str,
        where: Filter,
        *,
        dry_run: bool = False,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Delete the images that match a filter. Return how many they were.

        One call deletes up to 1,000 images. No call is repeated, because the count would be wrong. Errors, `dry_run`
        and `on_progress` are those of `delete`.
        """
        check_filter(where)
        request = image_pb2.DeleteImagesRequest(
            collection=collection, filter=where, validate_only=dry_run, max_count=0 if dry_run else MAX_IDS
        )
        deleted = 0
        while True:
            try:
                count = (await self._call(self._images.DeleteImages, request)).deleted_count
            except ServiceError as error:
                error.metadata["deleted_count"] = str(deleted)
                raise
            deleted += count
            on_progress(deleted)
            if dry_run or count < MAX_IDS:
                return deleted

    async def count(self, collection: str, *, where: Filter | None = None) -> int:
        """Return the number of images, or of the images that match a filter."""
        check_filter(where)
        request = image_pb2.CountImagesRequest(collection=collection, filter=where)
        return (await self._call(self._images.CountImages, request, asks_to_wait)).count
