"""A short cache of collection descriptions, so that not every search asks the store for one."""

import time
from collections.abc import Callable

from grpc_kit.deadline import Deadline
from search_service.core.ports import VectorStore
from search_service.core.types import Collection

SECONDS = 1.0
MAX_ENTRIES = 1000


class CollectionCache:
    """Cache the description of each collection for a second."""

    def __init__(self, store: VectorStore, clock: Callable[[], float] = time.monotonic) -> None:
        """Read descriptions from `store`; `clock` returns seconds."""
        self._store = store
        self._clock = clock
        self._entries: dict[str, tuple[float, Collection]] = {}
        self._clears = 0

    async def get(self, name: str, deadline: Deadline) -> tuple[Collection, bool]:
        """Return the collection with a name or an alias, and whether it came from the cache. Raises NotFoundError."""
        until, collection = self._entries.get(name, (0.0, None))
        if collection is not None and self._clock() < until:
            return collection, True
        return await self.refresh(name, deadline), False

    async def refresh(self, name: str, deadline: Deadline) -> Collection:
        """Return the collection as the store describes it now. Raises NotFoundError."""
        self._entries.pop(name, None)
        clears = self._clears
        collection = await self._store.get_collection(name, deadline)
        if len(self._entries) >= MAX_ENTRIES:
            self._entries.clear()
        # A clear during the call means that a collection changed: this description may be from before the change.
        if clears == self._clears:
            self._entries[name] = (self._clock() + SECONDS, collection)
        return collection

    def clear(self) -> None:
        """Drop all entries, because a collection or an alias was created, moved or deleted."""
        self._clears += 1
        self._entries.clear()
