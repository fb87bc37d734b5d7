"""Limit the items that a load has in flight."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Items that only wait are not counted. Their number bounds memory.
MAX_WAITING = 2000


class InFlightLimit:
    """A limit on the items in flight, and on the sum of their bytes. A single item always fits."""

    def __init__(self, max_items: int, max_bytes: int) -> None:
        """Allow `max_items` items of `max_bytes` bytes together."""
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._items = 0
        self._bytes = 0
        self._waiting = 0
        self._released = asyncio.Event()

    async def acquire(self, size: int) -> None:
        """Wait until an item of `size` bytes fits."""
        while self._items and (self._items >= self._max_items or self._bytes + size > self._max_bytes):
            self._released.clear()
            await self._released.wait()
        self._items += 1
        self._bytes += size

    def resize(self, difference: int) -> None:
        """Add the difference between the actual and the acquired bytes of an item. It may be negative."""
        self._bytes += difference
        self._released.set()

    def release(self, size: int) -> None:
        """Release an item of `size` bytes."""
        self._items -= 1
        self.resize(-size)

    @asynccontextmanager
    async def released_while_waiting(self, size: int) -> AsyncIterator[None]:
        """Release an item while it only waits, and acquire it again. Beyond MAX_WAITING items it stays acquired."""
        if self._waiting >= MAX_WAITING:
            yield
            return
        self._waiting += 1
        self.release(size)
        try:
            yield
        except BaseException:
            # The item ends. Its owner releases it, so count it again without waiting.
            self._items += 1
            self._bytes += size
            raise
        else:
            await self.acquire(size)
        finally:
            self._waiting -= 1
