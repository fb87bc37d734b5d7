"""Bounds the bytes of received messages that one process holds, over all calls, streams and connections."""

import asyncio

from grpc_kit.errors import ResourceExhaustedError
from grpc_kit.server.budget import Budget, Limit, Reservation

# A message of at most this many bytes is small. gRPC buffers as many bytes of each call before the call reads them.
SMALL_BYTES = 64 * 1024
# Small messages of streams have a budget of this fraction of the limit, so that they never wait behind large images.
SMALL_PART = 4
# Seconds after which a refused caller may try again.
RETRY_AFTER = 1.0


class MessageBudget:
    """Bounds the bytes of the messages that calls hold. Large and small messages wait in separate FIFO queues."""

    def __init__(self, size: int, setting: str = "max_bytes_in_flight", what: str = "the messages in flight") -> None:
        """Create an empty budget.

        Args:
            size: maximum bytes of large messages; small messages have a quarter of it in addition.
            setting: name of the limit in errors, for programs.
            what: name of the counted messages in errors, for people.
        """
        self._size = size
        self._setting = setting
        self._what = what
        self._large = Budget(Limit(size, size))
        self._small = Budget(Limit(size, size // SMALL_PART))

    async def wait(self, size: int) -> Reservation:
        """Reserve `size` bytes as soon as they fit."""
        return await (self._small if size <= SMALL_BYTES else self._large).wait(size)

    async def wait_up_to(self, seconds: float, size: int) -> Reservation:
        """Reserve `size` bytes. Raises ResourceExhaustedError if they do not fit within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                return await self.wait(size)
        except TimeoutError:
            raise self.overloaded() from None

    def overloaded(self) -> ResourceExhaustedError:
        """Return the error for a message that does not fit."""
        return overloaded(
            f"{self._what} have {self._large.size} bytes; the maximum is {self._size}",
            **{self._setting: self._size},
        )


def overloaded(problem: str, **limits: int) -> ResourceExhaustedError:
    """Return the error for a call that exceeds a limit of the process."""
    return ResourceExhaustedError(
        "OVERLOADED",
        f"{problem}; try again later",
        metadata={name: str(limit) for name, limit in limits.items()},
        retry_after=RETRY_AFTER,
    )
