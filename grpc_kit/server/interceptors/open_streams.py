"""The streams that are open over all connections: how many, and which of them are idle."""

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial

from grpc_kit.errors import ResourceExhaustedError
from grpc_kit.server.budget import Budget, Limit
from grpc_kit.server.message_budget import RETRY_AFTER, overloaded

# Seconds for which a stream waits for one of the open streams to end.
WAIT_SECONDS = 5.0
# Seconds after which an idle stream may be ended for one that waits.
IDLE_SECONDS = 30.0


class OpenStream:
    """One stream, and whether its caller keeps it waiting."""

    def __init__(self) -> None:
        """It has no request yet."""
        self.evicted = False
        self._unanswered = 0
        self._writing = False
        self._since = time.monotonic()

    def was_read(self) -> None:
        """Note that a request was read."""
        self._unanswered += 1

    def writes(self) -> None:
        """Note that an answer is being sent."""
        self._writing, self._since = True, time.monotonic()

    def wrote(self) -> None:
        """Note that the answer was sent."""
        self._writing, self._since = False, time.monotonic()
        self._unanswered -= 1

    @property
    def idle_seconds(self) -> float:
        """Seconds for which the caller has sent nothing, or has not read the answer that is being sent."""
        return time.monotonic() - self._since if self._writing or not self._unanswered else 0.0

    def eviction(self) -> ResourceExhaustedError:
        """Describe why the stream was ended."""
        return ResourceExhaustedError(
            "STREAM_IDLE",
            f"the stream was idle for more than {IDLE_SECONDS:.0f} s while others waited; open a new one",
            retry_after=RETRY_AFTER,
        )


# The stream of the call that runs; unset in unary calls.
current: ContextVar[OpenStream] = ContextVar("current")


class OpenStreams:
    """Limits the streams that are open. One more waits, and may take the place of one that is idle."""

    def __init__(self, most: int) -> None:
        """At most `most` at a time."""
        self._places = Budget(Limit(most, 0))
        self._open: dict[asyncio.Task[object], OpenStream] = {}

    async def enter(self, task: "asyncio.Task[object]") -> None:
        """Count the stream of a call until its task ends. Raises ResourceExhaustedError."""
        if not self._places.fits(0):
            self._end_idle()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                place = await self._places.wait(0)
        except TimeoutError:
            most = self._places.limit.items
            raise overloaded(
                f"{self._places.items} streams are open, and at most {most} may be", max_streams=most
            ) from None
        stream = self._open[task] = OpenStream()
        current.set(stream)
        task.add_done_callback(partial(self._leave, place.leave))

    def _end_idle(self) -> None:
        """End the stream that has been idle longest, if that is long enough."""
        open_still = [(stream.idle_seconds, task) for task, stream in self._open.items() if not stream.evicted]
        idle, task = max(open_still, key=lambda pair: pair[0], default=(0.0, None))
        if task is not None and idle > IDLE_SECONDS:
            self._open[task].evicted = True
            task.cancel()

    def _leave(self, leave: Callable[[], None], task: "asyncio.Task[object]") -> None:
        self._open.pop(task, None)
        leave()
