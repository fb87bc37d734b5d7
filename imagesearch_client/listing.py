"""List a collection with its vectors, page by page: a listing can be resumed, and waits while the service is down."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from grpc_kit.errors import InvalidArgumentError, ResourceExhaustedError
from imagesearch_client.client import Client
from imagesearch_client.defaults import MAX_PAGE
from imagesearch_client.filters import Filter
from imagesearch_client.retrying import retry
from imagesearch_client.types import Collection, Image

# The intended size of a page; a response may have 24 MiB.
PAGE_BYTES = 8 * 1024 * 1024
# A guess at the size of an image without its vector. If it is wrong, the listing asks for smaller pages.
IMAGE_BYTES = 2048

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class ListingPosition:
    """The position of a listing."""

    token: str = ""
    """The token of the next page; empty for the first page."""
    last_id: str = ""
    """The id of the last image that was returned."""
    lean: bool = False
    """Whether the listing reads pages without vectors, and then the vectors and regions by id."""
    complete: bool = False
    """Whether all images were returned."""


@dataclass(slots=True)
class PageSize:
    """The number of images in one request; it shrinks if responses would be too large."""

    images: int


class Listing:
    """A listing of the images of one collection with their vectors, ordered by id."""

    def __init__(
        self,
        client: Client,
        collection: Collection,
        condition: Filter | None,
        position: ListingPosition,
        retry_seconds: float,
        *,
        with_regions: bool = False,
    ) -> None:
        """Begin at `position`: `ListingPosition()`, or one that a listing of the same collection and filter returned.

        Args:
            client: the client of the search service.
            collection: the collection under its own name, because an alias may move meanwhile.
            condition: lists only images that match.
            position: the position of the first image.
            retry_seconds: the retry budget of each call while the service is unavailable.
            with_regions: lists the regions too.
        """
        self._client = client
        self._collection = collection.name
        self._condition = condition
        self._position = position
        self._retry_seconds = retry_seconds
        self._with_regions = with_regions
        vectors = 1 + (collection.max_regions if with_regions else 0)
        image_bytes = 4 * collection.dimension * vectors + IMAGE_BYTES
        self._full = PageSize(max(1, min(MAX_PAGE, PAGE_BYTES // image_bytes)))
        self._lean = PageSize(MAX_PAGE)
        # Whether the listing returned an image since it last restarted.
        self._advanced = True
        self.pages_asked = 0
        """The number of pages that were read."""

    def pages(self) -> Iterator[tuple[Sequence[Image], ListingPosition]]:
        """Yield images, and the position after them. Raises ServiceError."""
        while not self._position.complete:
            try:
                images, token = self._retry(self._page, self._lean if self._position.lean else self._full)
            except InvalidArgumentError as error:
                # Each replica may refuse the tokens of the others. A restart without progress would repeat for ever.
                if error.reason != "PAGE_TOKEN_INVALID" or not self._position.token or not self._advanced:
                    raise
                self._advanced = False
                self._position = ListingPosition(last_id=self._position.last_id, lean=True)
                continue
            self.pages_asked += 1
            if self._position.lean:
                yield from self._with_vectors(images, token)
            else:
                last_id = images[-1].id if images else self._position.last_id
                yield self._step(images, ListingPosition(token, last_id, complete=not token))

    def _page(self, size: int) -> tuple[list[Image], str]:
        return self._client.list_page(
            self._collection,
            page_token=self._position.token,
            where=self._condition,
            with_vector=not self._position.lean,
            with_regions=self._with_regions and not self._position.lean,
            page_size=size,
            strong=True,
        )

    def _step(self, images: Sequence[Image], position: ListingPosition) -> tuple[Sequence[Image], ListingPosition]:
        self._advanced = self._advanced or bool(images)
        self._position = position
        return images, position

    def _with_vectors(self, images: Sequence[Image], token: str) -> Iterator[tuple[Sequence[Image], ListingPosition]]:
        """Yield the images of a page without vectors that come after the last image, with their vectors."""
        left = [image.id for image in images if image.id > self._position.last_id]
        here = self._position.token

        def read(size: int) -> tuple[int, dict[str, Image]]:
            return size, self._client.get_many(
                self._collection, left[:size], with_vector=True, with_regions=self._with_regions, strong=True
            )

        last_id = left[-1] if left else self._position.last_id
        found: dict[str, Image] = {}
        while left:
            if found:
                # The position stays before this page until all of it was returned; a resumed listing skips images up to
                # `last_id`.
                yield self._step(list(found.values()), ListingPosition(here, max(found), lean=True))
            size, found = self._retry(read, self._full)
            left = left[size:]
        yield self._step(list(found.values()), ListingPosition(token, last_id, lean=True, complete=not token))

    def _retry(self, call: Callable[[int], Answer], size: PageSize) -> Answer:
        """Return the result of a call; ask for half as many images while the response would be too large."""

        def attempt() -> Answer:
            while True:
                try:
                    return call(size.images)
                except ResourceExhaustedError as error:
                    if error.retry_after is not None or size.images == 1:
                        raise
                    size.images //= 2

        return retry(attempt, self._retry_seconds)
