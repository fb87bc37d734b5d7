"""Budgets of items and bytes, shared by the calls of one process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from grpc_kit.server.wait_queue import WaitQueue


@dataclass(frozen=True)
class Limit:
    """The most that a budget holds at a time."""

    items: int
    size: int
    """Bytes of the items, together."""


class Reservation:
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

    def release(self) -> None:
        """Release the item and all its bytes."""
        release, self._release = self._release, None
        if release is not None:
            release(1, self._size)


class Budget:
    """Admits items in order of arrival (FIFO) while they fit. A single item always fits, whatever its size."""

    def __init__(self, limit: Limit) -> None:
        """Create an empty budget for one event loop."""
        self.limit = limit
        self.items = 0
        self.size = 0
        self._pending = WaitQueue(self._choose, partial(self._free, 1))

    def fits(self, size: int) -> bool:
        """Return whether an item of `size` bytes fits now."""
        return self.items == 0 or (self.items < self.limit.items and self.size + size <= self.limit.size)

    def take(self, size: int) -> Reservation:
        """Reserve `size` bytes now, even if they do not fit."""
        self._add(size)
        return Reservation(self._free, size)

    def try_take(self, size: int) -> Reservation | None:
        """Reserve `size` bytes if they fit now and no earlier caller waits; otherwise return None."""
        return Reservation(self._free, size) if self._pending.try_acquire(size) else None

    async def wait(self, size: int) -> Reservation:
        """Reserve `size` bytes as soon as they fit and no earlier caller waits."""
        await self._pending.acquire(size)
        return Reservation(self._free, size)

    def _add(self, size: int) -> None:
        self.items += 1
        self.size += size

    def _free(self, items: int, size: int) -> None:
        self.items -= items
        self.size -= size
        self._pending.grant()

    def _choose(self, sizes: Sequence[int]) -> int | None:
        if not self.fits(sizes[0]):
            return None
        self._add(sizes[0])
        return 0
