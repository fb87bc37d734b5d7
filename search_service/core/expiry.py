"""Times to live: an image that was not written or changed for so long is seen by nobody.

Stores differ in this. A Milvus server removes such images when it compacts, which may be days later, and Milvus Lite
never does. So every read leaves them out by itself, and the store only has to give back the space.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from grpc_kit.deadline import Deadline
from search_service.core.filters import Filter, UpdatedWithin, both
from search_service.core.ports import Nearest, VectorStore
from search_service.core.store_around import StoreAround
from search_service.core.types import (
    Collection,
    Consistency,
    Hit,
    StoredImage,
    Vector,
    View,
)

LATEST = datetime.max.replace(tzinfo=UTC)


def unexpired(collection: Collection, now: datetime) -> UpdatedWithin | None:
    """What images of a collection are still to be seen; None is all."""
    if collection.ttl is None:
        return None
    # By whole seconds, so that searches of one second ask for the same and can be one request.
    return UpdatedWithin((now - collection.ttl).replace(microsecond=0), LATEST)


class ExpiringStore(StoreAround):
    """A store whose readers do not see what has expired.

    Reads go by a collection's name, and every request describes its collection before it reads: what was described last
    tells the time to live.
    """

    def __init__(self, store: VectorStore, now: Callable[[], datetime]) -> None:
        """Reads from `store`; `now` gives the time in UTC."""
        super().__init__(store)
        self._now = now
        self._expiring: dict[str, Collection] = {}

    async def get_collection(self, name: str, deadline: Deadline) -> Collection:
        """Describes a collection."""
        return self._described(await self._store.get_collection(name, deadline))

    async def list_collections(self, after: str, limit: int, deadline: Deadline) -> list[Collection]:
        """Some collections."""
        found = await self._store.list_collections(after, limit, deadline)
        return [self._described(collection) for collection in found]

    def _described(self, collection: Collection) -> Collection:
        if collection.ttl is None:
            self._expiring.pop(collection.name, None)
        else:
            self._expiring[collection.name] = collection
        return collection

    def _unexpired(self, name: str) -> UpdatedWithin | None:
        collection = self._expiring.get(name)
        return None if collection is None else unexpired(collection, self._now())

    async def get(
        self, collection: str, ids: Sequence[str], view: View, consistency: Consistency, deadline: Deadline
    ) -> list[StoredImage]:
        """The images of these ids that have not expired."""
        seen = self._unexpired(collection)
        if seen is None:
            return await self._store.get(collection, ids, view, consistency, deadline)
        timed = View.TIMES if view is View.ID else view
        images = await self._store.get(collection, ids, timed, consistency, deadline)
        found = [image for image in images if image.update_time is not None and image.update_time >= seen.begin]
        return [StoredImage(image.id) for image in found] if view is View.ID else found

    async def query(
        self,
        collection: str,
        condition: Filter | None,
        limit: int,
        view: View,
        consistency: Consistency,
        deadline: Deadline,
    ) -> list[StoredImage]:
        """The images that fit and have not expired."""
        condition = both(condition, self._unexpired(collection))
        return await self._store.query(collection, condition, limit, view, consistency, deadline)

    async def count(
        self, collection: str, condition: Filter | None, consistency: Consistency, deadline: Deadline
    ) -> int:
        """How many they are."""
        return await self._store.count(collection, both(condition, self._unexpired(collection)), consistency, deadline)

    async def search(
        self, collection: Collection, vectors: Sequence[Vector], nearest: Nearest, deadline: Deadline
    ) -> list[list[Hit]]:
        """The nearest that have not expired."""
        seen = unexpired(collection, self._now())
        if seen is not None:
            nearest = replace(nearest, condition=both(nearest.condition, seen))
        return await self._store.search(collection, vectors, nearest, deadline)
