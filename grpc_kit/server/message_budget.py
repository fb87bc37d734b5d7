"""The bytes of received messages that one process holds at a time, over all calls, streams and connections."""

import asyncio

from grpc_kit.errors import ResourceExhaustedError
from grpc_kit.server.budget import Budget, Limit, Place

# A message of this many bytes or fewer is small. gRPC buffers as many of each call before anybody reads it.
SMALL_BYTES = 64 * 1024
# Small messages of streams have this part of the budget to themselves: they never wait behind large images.
SMALL_PART = 4
# Seconds after which a refused caller may try again.
RETRY_AFTER = 1.0


class MessageBudget:
    """Bounds the bytes of the messages that calls hold. Large and small messages wait in separate FIFO queues."""

    def __init__(self, size: int, setting: str = "max_bytes_in_flight", what: str = "the messages in flight") -> None:
        """Makes an empty budget.

        Args:
            size: the limit for large messages together; small ones have a quarter of it on top.
            setting: names the limit in refusals, for programs.
            what: names what it counts in refusals, for people.
        """
        self._size = size
        self._setting = setting
        self._what = what
        self._large = Budget(Limit(size, size))
        self._small = Budget(Limit(size, size // SMALL_PART))

    async def wait(self, size: int) -> Place:
        """Reserve `size` bytes as soon as they fit."""
        return await (self._small if size <= SMALL_BYTES else self._large).wait(size)

    async def wait_up_to(self, seconds: float, size: int) -> Place:
        """Reserve `size` bytes. Raises ResourceExhaustedError if they do not fit within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                return await self.wait(size)
        except TimeoutError:
            raise self.overloaded() from None

    def overloaded(self) -> ResourceExhaustedError:
        """Describe the refusal of a message that does not fit."""
        return overloaded(
            f"{self._what} have {self._large.size} bytes, and at most {self._size} are held at a time",
            **{self._setting: self._size},
        )


def overloaded(problem: str, **limits: int) -> ResourceExhaustedError:
    """Return the error of a process that has reached one of its limits."""
    return ResourceExhaustedError(
        "OVERLOADED",
        f"{problem}; try again later",
        metadata={name: str(limit) for name, limit in limits.items()},
        retry_after=RETRY_AFTER,
    )
