"""A store around another one, which does by itself what is not done otherwise."""

from collections.abc import Sequence

from grpc_kit.deadline import Deadline
from search_service.core.filters import Filter
from search_service.core.ports import Nearest, VectorStore
from search_service.core.types import (
    Alias,
    Collection,
    Consistency,
    Hit,
    Index,
    Reindex,
    SearchParameters,
    StoredImage,
    Vector,
    View,
)


class StoreAround:
    """Passes every call on."""

    def __init__(self, store: VectorStore) -> None:
        """Passes calls on to `store`."""
        self._store = store

    async def create_collection(self, collection: Collection, deadline: Deadline) -> None:
        """Makes a collection."""
        await self._store.create_collection(collection, deadline)

    async def get_collection(self, name: str, deadline: Deadline) -> Collection:
        """Describes a collection."""
        return await self._store.get_collection(name, deadline)

    async def list_collections(self, after: str, limit: int, deadline: Deadline) -> list[Collection]:
        """Some collections."""
        return await self._store.list_collections(after, limit, deadline)

    async def delete_collection(self, name: str, deadline: Deadline) -> None:
        """Removes a collection."""
        await self._store.delete_collection(name, deadline)

    async def set_reindex(self, collection: str, reindex: Reindex | None, deadline: Deadline) -> None:
        """Write what is copied into a collection's description."""
        await self._store.set_reindex(collection, reindex, deadline)

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

    async def get(
        self, collection: str, ids: Sequence[str], view: View, consistency: Consistency, deadline: Deadline
    ) -> list[StoredImage]:
        """The images that exist of these ids."""
        return await self._store.get(collection, ids, view, consistency, deadline)

    async def delete(self, collection: str, ids: Sequence[str], deadline: Deadline) -> None:
        """Removes images."""
        await self._store.delete(collection, ids, deadline)

    async def query(
        self,
        collection: str,
        condition: Filter | None,
        limit: int,
        view: View,
        consistency: Consistency,
        deadline: Deadline,
    ) -> list[StoredImage]:
        """The images that fit."""
        return await self._store.query(collection, condition, limit, view, consistency, deadline)

    async def count(
        self, collection: str, condition: Filter | None, consistency: Consistency, deadline: Deadline
    ) -> int:
        """The number of images that fit."""
        return await self._store.count(collection, condition, consistency, deadline)

    async def search(
        self, collection: Collection, vectors: Sequence[Vector], nearest: Nearest, deadline: Deadline
    ) -> list[list[Hit]]:
        """The images nearest to each vector."""
        return await self._store.search(collection, vectors, nearest, deadline)

    def index_of(self, collection: Collection, parameters: SearchParameters) -> Index:
        """What answers a search."""
        return self._store.index_of(collection, parameters)

    async def check(self, deadline: Deadline) -> None:
        """Returns where the store answers."""
        await self._store.check(deadline)
