"""Read one image, several images or pages of images, and count images."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

from grpc_kit.deadline import Deadline
from grpc_kit.errors import InvalidArgumentError, NotFoundError
from search_service.core import checks
from search_service.core.filters import Filter, IdAfter, UpdatedWithin, both, check_filter
from search_service.core.ports import VectorStore
from search_service.core.types import Collection, Consistency, StoredImage, View

DEFAULT_PAGE, MAX_PAGE = 100, 1000
# Images that a listing by time sorts at a time.
MAX_WINDOW = 10_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)
# A listing by time first reads a span of this length, then one that is eight times as long, and so on.
FIRST_SPAN, SPAN_GROWTH = timedelta(seconds=1), 8
# Maximum time by which the clocks of other writers may be ahead.
CLOCKS_DIFFER = timedelta(days=1)


@dataclass(frozen=True)
class FoundImages:
    """Stored images, and the fingerprint of their collection."""

    images: list[StoredImage]
    fingerprint: str


class Order(Enum):
    """The order of a listing."""

    ID = "id"
    UPDATE_TIME_DESC = "update_time_desc"


@dataclass(frozen=True)
class Position:
    """The last image of a page."""

    id: str
    update_time: datetime


@dataclass(frozen=True)
class Listing:
    """A request for a page of images."""

    collection: str
    condition: Filter | None = None
    order: Order = Order.ID
    page_size: int = DEFAULT_PAGE
    after: Position | None = None
    """The end of the previous page; None for the first page."""
    view: View = View.BASIC
    consistency: Consistency | None = None
    """None for the consistency of the collection."""


@dataclass(frozen=True)
class Page:
    """A page of images."""

    images: list[StoredImage]
    fingerprint: str
    end: Position | None
    """The end of this page; None if no image follows."""


async def get_image(
    store: VectorStore, collection: str, image_id: str, view: View, consistency: Consistency, deadline: Deadline
) -> FoundImages:
    """Return one image. Raises InvalidArgumentError, NotFoundError."""
    checks.check_collection_name(collection, "collection")
    checks.check_id(image_id, "id")
    described = await store.get_collection(collection, deadline)
    found = await store.get(described, [image_id], view, consistency, deadline)
    if not found:
        raise image_not_found(collection, image_id, "id")
    return FoundImages(found, described.fingerprint)


async def get_images(
    store: VectorStore, collection: str, ids: Sequence[str], view: View, consistency: Consistency, deadline: Deadline
) -> tuple[FoundImages, list[str]]:
    """Return the images that exist, in the order of the ids, and the missing ids. Raises InvalidArgumentError."""
    checks.check_collection_name(collection, "collection")
    checks.check_ids(ids, "ids")
    described = await store.get_collection(collection, deadline)
    unique = list(dict.fromkeys(ids))
    found = {image.id: image for image in await store.get(described, unique, view, consistency, deadline)}
    images = [found[image_id] for image_id in unique if image_id in found]
    return FoundImages(images, described.fingerprint), [image_id for image_id in unique if image_id not in found]


async def count_images(store: VectorStore, collection: str, condition: Filter | None, deadline: Deadline) -> int:
    """Return the number of images that meet a condition. Raises InvalidArgumentError, NotFoundError."""
    checks.check_collection_name(collection, "collection")
    if condition is not None:
        check_filter(condition)
    described = await store.get_collection(collection, deadline)
    return await store.count(described, condition, Consistency.STRONG, deadline)


async def list_images(store: VectorStore, listing: Listing, deadline: Deadline) -> Page:
    """Return a page of images. Raises InvalidArgumentError, NotFoundError."""
    checks.check_collection_name(listing.collection, "collection")
    if not 1 <= listing.page_size <= MAX_PAGE:
        raise InvalidArgumentError(
            "PAGE_SIZE_INVALID",
            f"page_size is {listing.page_size}; it must be between 1 and {MAX_PAGE}",
            field="page_size",
        )
    if listing.condition is not None:
        check_filter(listing.condition)
    collection = await store.get_collection(listing.collection, deadline)
    reader = _Reader(store, collection, listing.condition, listing.consistency or collection.consistency, deadline)
    # One more image shows whether another page follows.
    wanted = listing.page_size + 1
    if listing.order is Order.ID:
        images = await reader.by_id(listing.after.id if listing.after else "", wanted, listing.view)
    else:
        images = await reader.latest(listing.after, wanted)
    page, more = images[: listing.page_size], len(images) > listing.page_size
    end = Position(page[-1].id, page[-1].update_time or EPOCH) if more else None
    if listing.order is not Order.ID:
        page = await reader.with_view(page, listing.view)
    return Page(page, collection.fingerprint, end)


@dataclass(frozen=True)
class _Reader:
    """Read the images of one listing."""

    store: VectorStore
    collection: Collection
    condition: Filter | None
    consistency: Consistency
    deadline: Deadline

    async def by_id(self, after: str, limit: int, view: View) -> list[StoredImage]:
        """Return the images with ids greater than `after`, sorted by id."""
        condition = both(self.condition, IdAfter(after)) if after else self.condition
        return await self.store.query(self.collection, condition, limit, view, self.consistency, self.deadline)

    async def latest(self, after: Position | None, limit: int) -> list[StoredImage]:
        """Return the latest images with View.TIMES. No store sorts by time, so read spans of time and sort them."""
        images: list[StoredImage] = []
        end = datetime.now(UTC) + CLOCKS_DIFFER
        if after is not None:
            end = after.update_time
            images = await self._at(end, after.id, limit)
            end -= TICK
        while len(images) < limit:
            begin = await self._begin(end, limit - len(images))
            if begin is None:
                break
            if begin == end:
                # Too many images with this one time to sort: read them by id.
                images += await self._at(end, "", limit - len(images))
            else:
                span = await self._query(UpdatedWithin(begin, end), MAX_WINDOW)
                images += sorted(span, key=_latest_first)
            end = begin - TICK
        return images[:limit]

    async def with_view(self, images: Sequence[StoredImage], view: View) -> list[StoredImage]:
        """Return the same images in the same order with the fields of a view, without images deleted meanwhile."""
        ids = [image.id for image in images]
        if not ids or view is View.ID:
            return [StoredImage(image_id) for image_id in ids]
        found = await self.store.get(self.collection, ids, view, self.consistency, self.deadline)
        by_id = {image.id: image for image in found}
        return [by_id[image_id] for image_id in ids if image_id in by_id]

    async def _at(self, moment: datetime, after: str, limit: int) -> list[StoredImage]:
        condition: Filter = UpdatedWithin(moment, moment)
        return await self._query(both(condition, IdAfter(after)) if after else condition, limit)

    async def _query(self, condition: Filter | None, limit: int) -> list[StoredImage]:
        both_conditions = both(self.condition, condition)
        return await self.store.query(
            self.collection, both_conditions, limit, View.TIMES, self.consistency, self.deadline
        )

    async def _begin(self, end: datetime, wanted: int) -> datetime | None:
        """Return the begin of a span up to `end` with `wanted` to MAX_WINDOW images; None if no image is left.

        The span has fewer images if no more exist. A span of one moment may have any number.
        """
        span, too_few = FIRST_SPAN, end + TICK
        # Few images or none have a time in the future.
        present = min(end, datetime.now(UTC))
        begin = max(EPOCH, present - span)
        while (count := await self._count(begin, end)) < wanted and begin > EPOCH:
            too_few = begin
            span *= SPAN_GROWTH
            begin = max(EPOCH, present - span)
        if not count:
            return None
        while count > MAX_WINDOW and begin < end:
            # Bisect: from `begin` there are too many images, from `too_few` too few.
            middle = begin + (too_few - begin) / 2
            if middle in (begin, too_few):
                # Nearly all images have the time `begin`. Return the few later ones first.
                return too_few if too_few <= end else begin
            middle_count = await self._count(middle, end)
            if middle_count < wanted:
                too_few = middle
            else:
                begin, count = middle, middle_count
        return begin

    async def _count(self, begin: datetime, end: datetime) -> int:
        condition = both(self.condition, UpdatedWithin(begin, end))
        return await self.store.count(self.collection, condition, self.consistency, self.deadline)


def _latest_first(image: StoredImage) -> tuple[float, str]:
    moment = image.update_time or EPOCH
    return -(moment - EPOCH) / TICK, image.id


def image_not_found(collection: str, image_id: str, field: str) -> NotFoundError:
    """Return the error for an id that no image has."""
    return NotFoundError(
        "IMAGE_NOT_FOUND",
        f"collection {collection} has no image {checks.shown(image_id)}",
        field=field,
        metadata={"collection": collection},
    )
