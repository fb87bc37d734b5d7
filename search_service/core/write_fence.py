"""Makes writes exact while an alias moves to a copy of its collection.

Milvus resolves an alias when a write begins, and has no transaction over two collections. So every write is checked
after it was stored: if the name leads elsewhere by then, the write is repeated there before it is acknowledged. While
writes are held (see `core.reindexes`), nothing is acknowledged at all, so that the copy can catch up with everything
that was, before the alias moves. A delete is applied to the copy as well, from which it could otherwise come back.
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
# Seconds between two looks at a collection whose writes are held.
POLL_SECONDS = 0.1


class WriteFence:
    """Applies writes to the collection that a name leads to."""

    def __init__(self, store: VectorStore, now: Callable[[], datetime], locks: ImageLocks) -> None:
        """`now` returns the time in UTC; `locks` are those of all writers."""
        self._store = store
        self._now = now
        self._locks = locks

    async def settled(self, name: str, deadline: Deadline) -> Collection:
        """Return the collection of a name or an alias, as soon as its writes are not held.

        Raises NotFoundError, and UnavailableError if they are held until the deadline.
        """
        while True:
            collection = await self._store.get_collection(name, deadline)
            if collection.reindex is None or not collection.reindex.holds(self._now()):
                return collection
            if deadline.remaining() <= POLL_SECONDS:
                raise UnavailableError(
                    "COLLECTION_MOVING",
                    f"{name} moves to another collection at this moment; the write may be stored or not: repeat it",
                    metadata={"collection": collection.name},
                    retry_after=1.0,
                )
            await asyncio.sleep(POLL_SECONDS)

    async def apply(self, name: str, write: Callable[[Collection], Awaitable[Result]], deadline: Deadline) -> Result:
        """Write to the collection that a name leads to; return the write's result.

        The write is repeated if the name leads to another collection by then.
        """
        collection = await self.settled(name, deadline)
        while True:
            result = await write(collection)
            after = await self.settled(name, deadline)
            if after.identity == collection.identity:
                return result
            collection = after

    async def delete_from_copy(self, collection: Collection, ids: Sequence[str], deadline: Deadline) -> None:
        """Delete images from the copy that is being built of a collection, if there is one.

        To be called after they were deleted from the collection, while they are still locked there.
        """
        if not ids:
            return
        reindex = (await self._store.get_collection(collection.name, deadline)).reindex
        if reindex is None or reindex.moving:
            return
        try:
            copy = await self._store.get_collection(reindex.target, deadline)
            # Another collection may have got the copy's name, or the name may be an alias by now.
            if copy.identity == (reindex.target, reindex.target_create_time):
                await self._locks.run(copy.name, ids, lambda: self._store.delete(copy, ids, deadline), deadline)
        except NotFoundError:
            return
