"""What is known of collections, for a moment: a search should not ask twice."""

import time
from collections.abc import Callable

from grpc_kit.deadline import Deadline
from search_service.core.ports import VectorStore
from search_service.core.types import Collection

SECONDS = 1.0
MOST = 1000


class KnownCollections:
    """Remembers descriptions of collections for a second."""

    def __init__(self, store: VectorStore, clock: Callable[[], float] = time.monotonic) -> None:
        """Knows nothing."""
        self._store = store
        self._clock = clock
        self._known: dict[str, tuple[float, Collection]] = {}
        self._changes = 0

    async def get(self, name: str, deadline: Deadline) -> tuple[Collection, bool]:
        """The collection of a name or an alias, and whether that is from memory. Raises NotFoundError."""
        until, collection = self._known.get(name, (0.0, None))
        if collection is not None and self._clock() < until:
            return collection, True
        return await self.look(name, deadline), False

    async def look(self, name: str, deadline: Deadline) -> Collection:
        """As `get`, and asks the store. Raises NotFoundError."""
        self._known.pop(name, None)
        changes = self._changes
        collection = await self._store.get_collection(name, deadline)
        if len(self._known) >= MOST:
            self._known.clear()
        # What was described while something changed may be what was before.
        if changes == self._changes:
            self._known[name] = (self._clock() + SECONDS, collection)
        return collection

    def forget(self) -> None:
        """Remembers nothing: something has been made, moved or removed."""
        self._changes += 1
        self._known.clear()
