"""The budgets of a WriteImages stream: its own, and the byte budget that all calls of the process share."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeAlias

from grpc_kit.server.budget import Budget, Limit, Reservation

Reserve: TypeAlias = Callable[[int], Awaitable[Reservation]]
"""Waits for room for this many bytes in the budget that all calls share."""


# Bytes of the vectors that the embedder returned for the images of one stream, until their results are read.
EMBEDDED_BYTES = 8 * 1024 * 1024


class HeldImage:
    """The reservations of one image: in the budgets of the stream, and in the one that all calls share."""

    def __init__(self, stream: Sequence[Reservation], shared: Reservation, size: int) -> None:
        """`size` is the number of bytes of the whole message."""
        self._stream = stream
        self._shared = shared
        self._size = size

    def drop_content(self, size: int) -> None:
        """Release the bytes of the image file, once the image is embedded."""
        self._shared.resize(max(0, self._size - size))

    def drop(self) -> None:
        """Release all shared bytes, once the image is stored: the caller may read its result late."""
        self._shared.release()

    def release(self) -> None:
        """Release all reservations."""
        self._shared.release()
        for reservation in self._stream:
            reservation.release()


class Window:
    """Limit the images and the bytes that one stream has in flight. A single image always fits."""

    def __init__(self, images: int, size: int, reserve: Reserve) -> None:
        """Admit `images` images with `size` bytes together; `reserve` also admits each to the shared budget."""
        self._budget = Budget(Limit(images, size))
        self._embedded = Budget(Limit(images, EMBEDDED_BYTES))
        self._reserve = reserve
        self._held: set[HeldImage] = set()

    async def enter(self, size: int, embedded: int = 0) -> HeldImage:
        """Wait for room for a message of `size` bytes, to which the embedder adds vectors of `embedded` bytes."""
        own: list[Reservation] = []
        try:
            # The stream's own budgets come first: a stream that is full must not hold shared bytes.
            own.append(await self._budget.wait(size))
            own.append(await self._embedded.wait(embedded))
            held = HeldImage(own, await self._reserve(size), size)
        except BaseException:
            for reservation in own:
                reservation.release()
            raise
        self._held.add(held)
        return held

    def release(self, images: Collection[HeldImage]) -> None:
        """Release all room of images whose results the caller has read."""
        for image in images:
            image.release()
        self._held.difference_update(images)

    def close(self) -> None:
        """Release the room of all images, at the end of the stream."""
        for image in self._held:
            image.release()
        self._held.clear()
