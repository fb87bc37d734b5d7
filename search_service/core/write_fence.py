"""Apply each write to the right collection while an alias moves to a copy of its collection.

Milvus resolves an alias when a write starts, and has no transaction over two collections. So the service looks the name
up again after each write. If the name leads to another collection, the service repeats the write there before it
acknowledges the write. While writes are held (see `core.reindexes`), it acknowledges none: the copy receives every
acknowledged write before the alias moves. Deletions are also applied to the copy, so that no deleted image comes back.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TypeVar

from grpc_kit.deadline import Deadline
from grpc_kit.errors import NotFoundError, UnavailableError
from search_service.core.image_locks import ImageLocks
from search_service.core.ports import VectorStore
from search_service.core.types import Collection

Result = TypeVar("Result")
# Pause between two checks of a collection whose writes are held.
POLL_SECONDS = 0.1


class WriteFence:
    """Apply writes to the collection that a name leads to."""

    def __init__(self, store: VectorStore, now: Callable[[], datetime], locks: ImageLocks) -> None:
        """`now` returns the time in UTC; `locks` are the image locks that all writers share."""
        self._store = store
        self._now = now
        self._locks = locks

    async def writable(self, name: str, deadline: Deadline) -> Collection:
        """Wait until writes to a collection are not held, and return the collection.

        Raises NotFoundError, and UnavailableError if writes are held until the deadline.
        """
        while True:
            collection = await self._store.get_collection(name, deadline)
            if collection.reindex is None or not collection.reindex.holds(self._now()):
                return collection
            if deadline.remaining() <= POLL_SECONDS:
                raise UnavailableError(
                    "COLLECTION_MOVING",
                    f"{name} is moving to another collection, and the write may or may not be stored; write again",
                    metadata={"collection": collection.name},
                    retry_after=1.0,
                )
            await asyncio.sleep(POLL_SECONDS)

    async def apply(self, name: str, write: Callable[[Collection], Awaitable[Result]], deadline: Deadline) -> Result:
        """Write to the collection that a name leads to, and return the result of the write.

        Repeat the write if the name leads to another collection afterwards.
        """
        collection = await self.writable(name, deadline)
        while True:
            result = await write(collection)
            after = await self.writable(name, deadline)
            if after.identity == collection.identity:
                return result
            collection = after

    async def delete_from_copy(self, collection: Collection, ids: Sequence[str], deadline: Deadline) -> None:
        """Delete images from the copy of a collection, if a reindex runs.

        Call this after the deletion from the collection, while the images are still locked there.
        """
        if not ids:
            return
        reindex = (await self._store.get_collection(collection.name, deadline)).reindex
        if reindex is None or reindex.moving:
            return
        try:
            copy = await self._store.get_collection(reindex.target, deadline)
            # The name may be an alias now, or the name of another collection.
            if copy.identity == (reindex.target, reindex.target_create_time):
                await self._locks.run(copy.name, ids, lambda: self._store.delete(copy, ids, deadline), deadline)
        except NotFoundError:
            return
