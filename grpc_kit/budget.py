"""Budgets of items and bytes, shared by the calls of one process."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """The most that a budget holds at a time."""

    items: int
    size: int
    """Bytes of the items, together."""


class Place:
    """A reservation in a budget. It can be released in parts; what was released already is not released again."""

    def __init__(self, release: Callable[[int, int], None], size: int) -> None:
        """`release` receives the number of items and of bytes that become free."""
        self._release: Callable[[int, int], None] | None = release
        self._size = size

    def resize(self, size: int) -> None:
        """Change the bytes to `size`. More are taken whether they fit or not; fewer release the rest."""
        if self._release is not None and size != self._size:
            freed, self._size = self._size - size, size
            self._release(0, freed)

    def leave(self) -> None:
        """Release the item and all its bytes."""
        release, self._release = self._release, None
        if release is not None:
            release(1, self._size)


@dataclass(eq=False)
class _Waiter:
    size: int
    admitted: "asyncio.Future[None]"


class Budget:
    """Admits items in order of arrival (FIFO) while they fit. A single item always fits, whatever its size."""

    def __init__(self, limit: Limit) -> None:
        """Makes an empty budget, for one event loop."""
        self.limit = limit
        self.items = 0
        self.size = 0
        self._waiters: deque[_Waiter] = deque()

    def fits(self, size: int) -> bool:
        """Whether an item of `size` bytes fits now."""
        return self.items == 0 or (self.items < self.limit.items and self.size + size <= self.limit.size)

    def take(self, size: int) -> Place:
        """Reserve `size` bytes now, whether they fit or not."""
        self.items += 1
        self.size += size
        return Place(self._free, size)

    def try_take(self, size: int) -> Place | None:
        """Reserve `size` bytes if they fit now and nobody waits; None otherwise."""
        return self.take(size) if not self._waiters and self.fits(size) else None

    async def wait(self, size: int) -> Place:
        """Reserve `size` bytes as soon as they fit, after all who came earlier."""
        if place := self.try_take(size):
            return place
        waiter = _Waiter(size, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            await waiter.admitted
        except asyncio.CancelledError:
            if waiter.admitted.cancelled():
                # The next one may be smaller.
                self._admit()
            else:
                self._free(1, size)
            raise
        return Place(self._free, size)

    def _free(self, items: int, size: int) -> None:
        self.items -= items
        self.size -= size
        self._admit()

    def _admit(self) -> None:
        while self._waiters and (self._waiters[0].admitted.cancelled() or self.fits(self._waiters[0].size)):
            waiter = self._waiters.popleft()
            if waiter.admitted.cancelled():
                continue
            self.items += 1
            self.size += waiter.size
            waiter.admitted.set_result(None)
