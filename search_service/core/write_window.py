"""What a WriteImages stream holds: bounded for itself, and together with all other calls of the process."""

from collections.abc import Awaitable, Callable, Collection
from typing import TypeAlias

from grpc_kit.server.budget import Budget, Limit, Place

Reserve: TypeAlias = Callable[[int], Awaitable[Place]]
"""Waits for room for so many bytes in the budget that all calls share."""


class HeldImage:
    """The room of one image in both budgets."""

    def __init__(self, stream: Place, shared: Place, size: int) -> None:
        """`size` is the size of its whole message in bytes."""
        self._stream = stream
        self._shared = shared
        self._size = size

    def drop_content(self, size: int) -> None:
        """Release the bytes of the image file, which nobody needs after it was embedded."""
        self._shared.resize(max(0, self._size - size))

    def drop(self) -> None:
        """Release all bytes that are shared, when the image is stored: its caller may be slow to read the answer."""
        self._shared.leave()

    def leave(self) -> None:
        """Release everything."""
        self._shared.leave()
        self._stream.leave()


class Window:
    """Bounds what one stream has in flight, in images and in bytes. A single image always fits."""

    def __init__(self, images: int, size: int, reserve: Reserve) -> None:
        """At most `images`, of `size` bytes together; `reserve` admits each to the shared budget."""
        self._budget = Budget(Limit(images, size))
        self._reserve = reserve
        self._held: set[HeldImage] = set()

    async def enter(self, size: int) -> HeldImage:
        """Waits for room for one image of `size` bytes."""
        place = await self._budget.wait(size)
        try:
            # After the stream's own room, so that a full stream holds nothing that others wait for.
            held = HeldImage(place, await self._reserve(size), size)
        except BaseException:
            place.leave()
            raise
        self._held.add(held)
        return held

    def leave(self, images: Collection[HeldImage]) -> None:
        """Release all room of images whose answers were taken."""
        for image in images:
            image.leave()
        self._held.difference_update(images)

    def close(self) -> None:
        """Release the room of all images, when the stream has ended."""
        for image in self._held:
            image.leave()
        self._held.clear()
