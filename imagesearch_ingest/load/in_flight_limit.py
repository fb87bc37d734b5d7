"""Bounds what a load has under way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Items that only wait, and so are not counted: their number bounds memory.
MOST_ASIDE = 2000


class InFlightLimit:
    """So many items, of so many bytes together; a single item always fits."""

    def __init__(self, items: int, size: int) -> None:
        """At most `items`, of `size` bytes."""
        self._most = items
        self._size = size
        self._items = 0
        self._bytes = 0
        self._aside = 0
        self._left = asyncio.Event()

    async def enter(self, size: int) -> None:
        """Waits for room for one item of `size` bytes."""
        while self._items and (self._items >= self._most or self._bytes + size > self._size):
            self._left.clear()
            await self._left.wait()
        self._items += 1
        self._bytes += size

    def change(self, size: int) -> None:
        """What has entered is so many bytes larger than it said, or smaller where that is below 0."""
        self._bytes += size
        self._left.set()

    def leave(self, size: int) -> None:
        """Gives the room back."""
        self._items -= 1
        self.change(-size)

    @asynccontextmanager
    async def aside(self, size: int) -> AsyncIterator[None]:
        """Give the room of one item to others while it only waits; too many that wait keep theirs."""
        if self._aside >= MOST_ASIDE:
            yield
            return
        self._aside += 1
        self.leave(size)
        try:
            yield
        except BaseException:
            # It ends: nobody waits for room any more.
            self._items += 1
            self._bytes += size
            raise
        else:
            await self.enter(size)
        finally:
            self._aside -= 1
