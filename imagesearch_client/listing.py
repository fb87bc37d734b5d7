"""A listing of a collection with its vectors: it can be taken up again, and waits where the service is away."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from grpc_kit.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from imagesearch_client.client import MAX_PAGE, Client
from imagesearch_client.filters import Filter
from imagesearch_client.types import Collection, Image

# What a page should have, of the 24 MiB that it may.
PAGE_BYTES = 8 * 1024 * 1024
# Of an image without its vector, as a guess: pages become smaller where it is wrong.
IMAGE_BYTES = 2048
# Seconds between tries where the service does not say how many: they double from the first to the last.
FIRST_PAUSE, LAST_PAUSE = 0.1, 10.0

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Place:
    """How far a listing is."""

    token: str = ""
    """Of the next page; empty is the first one."""
    last_id: str = ""
    """The last image that was given."""
    lean: bool = False
    """Whether it goes on without vectors, which are then asked for by id."""
    complete: bool = False
    """Whether there is no more."""


@dataclass(slots=True)
class PageSize:
    """How many images are asked for at a time."""

    images: int


class Listing:
    """Lists the images of one collection by id, with their vectors."""

    def __init__(
        self, client: Client, collection: Collection, condition: Filter | None, place: Place, patience: float
    ) -> None:
        """Goes on at a place, which one of the same collection and filter has given.

        Args:
            client: of the service.
            collection: by its own name: an alias may point elsewhere tomorrow.
            condition: only images that fit.
            place: where to begin.
            patience: seconds for which a page is asked for again where the service is away.
        """
        self._client = client
        self._collection = collection.name
        self._condition = condition
        self._place = place
        self._patience = patience
        self._full = PageSize(max(1, min(MAX_PAGE, PAGE_BYTES // (4 * collection.dimension + IMAGE_BYTES))))
        self._lean = PageSize(MAX_PAGE)
        # Whether there was an image since the listing was last begun anew.
        self._advanced = True
        self.pages_asked = 0
        """Pages that the service gave."""

    def pages(self) -> Iterator[tuple[Sequence[Image], Place]]:
        """Some images, and where to go on after them. Raises ServiceError."""
        while not self._place.complete:
            try:
                images, token = self._patiently(self._page, self._lean if self._place.lean else self._full)
            except InvalidArgumentError as error:
                # With replicas that do not know one another's tokens it would never end.
                if error.reason != "PAGE_TOKEN_INVALID" or not self._place.token or not self._advanced:
                    raise
                self._advanced = False
                self._place = Place(last_id=self._place.last_id, lean=True)
                continue
            self.pages_asked += 1
            if self._place.lean:
                yield from self._with_vectors(images, token)
            else:
                last_id = images[-1].id if images else self._place.last_id
                yield self._step(images, Place(token, last_id, complete=not token))

    def _page(self, size: int) -> tuple[list[Image], str]:
        return self._client.list_page(
            self._collection,
            page_token=self._place.token,
            where=self._condition,
            with_vector=not self._place.lean,
            page_size=size,
            strong=True,
        )

    def _step(self, images: Sequence[Image], place: Place) -> tuple[Sequence[Image], Place]:
        self._advanced = self._advanced or bool(images)
        self._place = place
        return images, place

    def _with_vectors(self, images: Sequence[Image], token: str) -> Iterator[tuple[Sequence[Image], Place]]:
        """Those of a page without vectors that come after the last image, with their vectors."""
        left = [image.id for image in images if image.id > self._place.last_id]
        here = self._place.token

        def read(size: int) -> tuple[int, dict[str, Image]]:
            return size, self._client.get_many(self._collection, left[:size], with_vector=True, strong=True)

        last_id = left[-1] if left else self._place.last_id
        found: dict[str, Image] = {}
        while left:
            if found:
                # Until the page is through the listing is before it, and then passes over what was given.
                yield self._step(list(found.values()), Place(here, max(found), lean=True))
            size, found = self._patiently(read, self._full)
            left = left[size:]
        yield self._step(list(found.values()), Place(token, last_id, lean=True, complete=not token))

    def _patiently(self, call: Callable[[int], Answer], size: PageSize) -> Answer:
        """What a call gives; again with fewer images where the answer is too large, and later where that helps."""
        until, pause = 0.0, FIRST_PAUSE
        while True:
            try:
                return call(size.images)
            except ResourceExhaustedError as error:
                if error.retry_after is None:
                    if size.images == 1:
                        raise
                    size.images //= 2
                    continue
                failure: ServiceError = error
            except (UnavailableError, DeadlineExceededError) as error:
                failure = error
            now = time.monotonic()
            until = until or now + self._patience
            wait = pause if failure.retry_after is None else failure.retry_after
            if now + wait > until:
                raise failure
            time.sleep(wait)
            pause = min(2 * pause, LAST_PAUSE)
