"""Times to live: an image expires when its collection's time to live has passed since its last write or change.

A Milvus server removes expired images when it compacts, which may be days later. Milvus Lite removes expired images
only when its folder is opened. So this module hides expired images from every read; Milvus only frees their space.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from grpc_kit.deadline import Deadline
from search_service.core.filters import Filter, UpdatedWithin, both
from search_service.core.ports import Nearest, VectorStore
from search_service.core.store_decorator import StoreDecorator
from search_service.core.types import Collection, Consistency, Hit, StoredImage, Vector, View

LATEST = datetime.max.replace(tzinfo=UTC)


def unexpired(collection: Collection, now: datetime) -> UpdatedWithin | None:
    """Return the condition that unexpired images of a collection meet; None if its images do not expire."""
    if collection.ttl is None:
        return None
    # Drop the microseconds: searches within one second then have equal filters and can share a request.
    return UpdatedWithin((now - collection.ttl).replace(microsecond=0), LATEST)


class ExpiringStore(StoreDecorator):
    """A VectorStore decorator that hides expired images from reads."""

    def __init__(self, store: VectorStore, now: Callable[[], datetime]) -> None:
        """Read from `store`; `now` returns the time in UTC."""
        super().__init__(store)
        self._now = now
        self.upsert = store.upsert
        self.delete = store.delete
        self.delete_collection = store.delete_collection

    async def get(
        self, collection: Collection, ids: Sequence[str], view: View, consistency: Consistency, deadline: Deadline
    ) -> list[StoredImage]:
        """Return the unexpired images with these ids."""
        within = unexpired(collection, self._now())
        if within is None:
            return await self._store.get(collection, ids, view, consistency, deadline)
        timed = View.TIMES if view is View.ID else view
        images = await self._store.get(collection, ids, timed, consistency, deadline)
        found = [image for image in images if image.update_time is not None and image.update_time >= within.begin]
        return [StoredImage(image.id) for image in found] if view is View.ID else found

    async def query(
        self,
        collection: Collection,
        condition: Filter | None,
        limit: int,
        view: View,
        consistency: Consistency,
        deadline: Deadline,
    ) -> list[StoredImage]:
        """Return the unexpired images that meet a condition."""
        condition = both(condition, unexpired(collection, self._now()))
        return await self._store.query(collection, condition, limit, view, consistency, deadline)

    async def count(
        self, collection: Collection, condition: Filter | None, consistency: Consistency, deadline: Deadline
    ) -> int:
        """Return the number of unexpired images that meet a condition."""
        condition = both(condition, unexpired(collection, self._now()))
        return await self._store.count(collection, condition, consistency, deadline)

    async def search(
        self, collection: Collection, vectors: Sequence[Vector], nearest: Nearest, deadline: Deadline
    ) -> list[list[Hit]]:
        """Return the nearest unexpired images of each vector."""
        condition = both(nearest.condition, unexpired(collection, self._now()))
        return await self._store.search(collection, vectors, replace(nearest, condition=condition), deadline)
