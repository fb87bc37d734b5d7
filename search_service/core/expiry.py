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
from search_service.core.types import (
    Alias,
    Collection,
    Consistency,
    Hit,
    Index,
    SearchParameters,
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


class ExpiringStore:
    """A store whose readers do not see what has expired.

    Reads go by a collection's name, and every request describes its collection before it reads: what was described last
    tells the time to live.
    """

    def __init__(self, store: VectorStore, now: Callable[[], datetime]) -> None:
        """Reads from `store`; `now` gives the time in UTC."""
        self._store = store
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

    # All else is the store's own.

    async def create_collection(self, collection: Collection, deadline: Deadline) -> None:
        """Makes a collection."""
        await self._store.create_collection(collection, deadline)

    async def delete_collection(self, name: str, deadline: Deadline) -> None:
        """Removes a collection."""
        await self._store.delete_collection(name, deadline)

    async def set_alias(self, alias: Alias, deadline: Deadline) -> None:
        """Makes or moves an alias."""
        await self._store.set_alias(alias, deadline)

    async def list_aliases(self, deadline: Deadline) -> list[Alias]:
        """Every alias."""
        return await self._store.list_aliases(deadline)

    async def delete_alias(self, name: str, deadline: Deadline) -> None:
        """Removes an alias."""
        await self._store.delete_alias(name, deadline)

    async def upsert(self, collection: str, images: Sequence[StoredImage], deadline: Deadline) -> None:
        """Stores images."""
        await self._store.upsert(collection, images, deadline)

    async def delete(self, collection: str, ids: Sequence[str], deadline: Deadline) -> None:
        """Removes images."""
        await self._store.delete(collection, ids, deadline)

    def index_of(self, collection: Collection, parameters: SearchParameters) -> Index:
        """What answers a search."""
        return self._store.index_of(collection, parameters)

    async def check(self, deadline: Deadline) -> None:
        """Returns where the store answers."""
        await self._store.check(deadline)
