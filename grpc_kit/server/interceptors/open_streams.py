"""Limits the open streams of all connections, and ends idle ones for new ones."""

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial

from grpc_kit.errors import ResourceExhaustedError
from grpc_kit.server.budget import Budget, Limit
from grpc_kit.server.message_budget import RETRY_AFTER, overloaded

# Seconds that a new stream waits until another stream ends.
WAIT_SECONDS = 5.0
# Seconds after which an idle stream may be ended for a new one.
IDLE_SECONDS = 30.0


class OpenStream:
    """An open stream, and how long it has been idle."""

    def __init__(self) -> None:
        """Start without requests."""
        self.evicted = False
        self._unanswered = 0
        self._writing = False
        self._since = time.monotonic()

    def note_request(self) -> None:
        """Note that a request was read."""
        self._unanswered += 1

    def note_response_start(self) -> None:
        """Note that a response is being sent."""
        self._writing, self._since = True, time.monotonic()

    def note_response_end(self) -> None:
        """Note that the response was sent."""
        self._writing, self._since = False, time.monotonic()
        self._unanswered -= 1

    @property
    def idle_seconds(self) -> float:
        """Return the seconds in which the caller has sent no request, or has not read the response."""
        return time.monotonic() - self._since if self._writing or not self._unanswered else 0.0

    def eviction(self) -> ResourceExhaustedError:
        """Return the error for a stream that was ended because it was idle."""
        return ResourceExhaustedError(
            "STREAM_IDLE",
            f"the stream was idle for more than {IDLE_SECONDS:.0f} s while other streams waited; open a new stream",
            retry_after=RETRY_AFTER,
        )


# The stream of the current call; unset in unary calls.
current: ContextVar[OpenStream] = ContextVar("current")


class OpenStreams:
    """Limits the number of open streams. A new stream waits for a free slot, or replaces an idle stream."""

    def __init__(self, most: int) -> None:
        """Start without streams; `most` is the maximum number of open streams."""
        self._slots = Budget(Limit(most, 0))
        self._open: dict[asyncio.Task[object], OpenStream] = {}

    async def enter(self, task: "asyncio.Task[object]") -> None:
        """Count the stream of a call until its task ends. Raises ResourceExhaustedError."""
        if not self._slots.fits(0):
            self._end_idle()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                reservation = await self._slots.wait(0)
        except TimeoutError:
            most = self._slots.limit.items
            raise overloaded(f"{self._slots.items} streams are open; the maximum is {most}", max_streams=most) from None
        stream = self._open[task] = OpenStream()
        current.set(stream)
        task.add_done_callback(partial(self._leave, reservation.release))

    def _end_idle(self) -> None:
        """End the stream that has been idle longest, if it has been idle long enough."""
        candidates = [(stream.idle_seconds, task) for task, stream in self._open.items() if not stream.evicted]
        idle, task = max(candidates, key=lambda pair: pair[0], default=(0.0, None))
        if task is not None and idle > IDLE_SECONDS:
            self._open[task].evicted = True
            task.cancel()

    def _leave(self, leave: Callable[[], None], task: "asyncio.Task[object]") -> None:
        self._open.pop(task, None)
        leave()
