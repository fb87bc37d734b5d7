"""Who may have images under way, and how many: the bound on the embedder's memory and on its queue."""

from embedder_service.core.types import Lane
from grpc_kit.budget import Budget, Limit, Place
from grpc_kit.errors import ResourceExhaustedError


class Admission:
    """Bounds the images under way in each lane: the interactive lane refuses when it is full, the bulk lane waits."""

    def __init__(self, interactive: Limit, bulk: Limit, seconds_per_image: float) -> None:
        """`seconds_per_image` is what an image costs: it says when a refused caller should try again."""
        self._interactive = Budget(interactive)
        self._bulk = Budget(bulk)
        self._seconds_per_image = seconds_per_image

    async def enter(self, lane: Lane, size: int) -> Place:
        """A place for one image of `size` bytes. Raises ResourceExhaustedError in the interactive lane."""
        if lane is Lane.BULK:
            return await self._bulk.wait(size)
        use = self._interactive
        if not use.fits(size):
            raise ResourceExhaustedError(
                "OVERLOADED",
                f"{use.items} images of {use.size} bytes wait already, and at most {use.limit.items} of "
                f"{use.limit.size} may; try again later, or use EmbedStream, which waits",
                metadata={"max_pending": str(use.limit.items), "max_pending_bytes": str(use.limit.size)},
                # When half of those that wait now will have been served.
                retry_after=max(0.1, 0.5 * use.items * self._seconds_per_image),
            )
        return use.take(size)

    def under_way(self, lane: Lane) -> int:
        """The number of a lane's images that have a place."""
        return (self._interactive if lane is Lane.INTERACTIVE else self._bulk).items
