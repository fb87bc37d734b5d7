"""Who may have images under way, and how many: the bound on the embedder's memory and on its queue."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from embedder_service.core.types import Lane
from grpc_kit.errors import ResourceExhaustedError


@dataclass(frozen=True)
class LaneLimit:
    """The most that a lane may have under way."""

    images: int
    size: int
    """Bytes of the images' files, together."""


class Place:
    """One image's place. It is given back once, however often that is said."""

    def __init__(self, leave: Callable[[], None]) -> None:
        """`leave` is called at the first `leave`."""
        self._leave: Callable[[], None] | None = leave

    def leave(self) -> None:
        """Gives the place back."""
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()


@dataclass(eq=False)
class _Turn:
    size: int
    come: "asyncio.Future[None]"


class _LaneUse:
    """What a lane has under way, and who waits for a place, in order."""

    def __init__(self, limit: LaneLimit) -> None:
        self.limit = limit
        self.images = 0
        self.size = 0
        self._turns: deque[_Turn] = deque()

    def fits(self, size: int) -> bool:
        # One image fits whatever its size is, so that none waits for ever.
        return self.images == 0 or (self.images < self.limit.images and self.size + size <= self.limit.size)

    def take(self, size: int) -> Place:
        self.images += 1
        self.size += size
        return Place(lambda: self._give_back(size))

    async def wait(self, size: int) -> Place:
        if not self._turns and self.fits(size):
            return self.take(size)
        turn = _Turn(size, asyncio.get_running_loop().create_future())
        self._turns.append(turn)
        try:
            await turn.come
        except asyncio.CancelledError:
            if turn.come.cancelled():
                # The next one may be smaller.
                self._next_turns()
            else:
                self._give_back(size)
            raise
        return Place(lambda: self._give_back(size))

    def _give_back(self, size: int) -> None:
        self.images -= 1
        self.size -= size
        self._next_turns()

    def _next_turns(self) -> None:
        while self._turns and (self._turns[0].come.cancelled() or self.fits(self._turns[0].size)):
            turn = self._turns.popleft()
            if turn.come.cancelled():
                continue
            self.images += 1
            self.size += turn.size
            turn.come.set_result(None)


class Admission:
    """Bounds the images under way in each lane: the interactive lane refuses when it is full, the bulk lane waits."""

    def __init__(self, interactive: LaneLimit, bulk: LaneLimit, seconds_per_image: float) -> None:
        """`seconds_per_image` is what an image costs: it says when a refused caller should try again."""
        self._interactive = _LaneUse(interactive)
        self._bulk = _LaneUse(bulk)
        self._seconds_per_image = seconds_per_image

    async def enter(self, lane: Lane, size: int) -> Place:
        """A place for one image of `size` bytes. Raises ResourceExhaustedError in the interactive lane."""
        if lane is Lane.BULK:
            return await self._bulk.wait(size)
        use = self._interactive
        if not use.fits(size):
            raise ResourceExhaustedError(
                "OVERLOADED",
                f"{use.images} images of {use.size} bytes wait already, and at most {use.limit.images} of "
                f"{use.limit.size} may; try again later, or use EmbedStream, which waits",
                metadata={"max_pending": str(use.limit.images), "max_pending_bytes": str(use.limit.size)},
                # When half of those that wait now will have been served.
                retry_after=max(0.1, 0.5 * use.images * self._seconds_per_image),
            )
        return use.take(size)

    def under_way(self, lane: Lane) -> int:
        """The number of a lane's images that have a place."""
        return (self._interactive if lane is Lane.INTERACTIVE else self._bulk).images
