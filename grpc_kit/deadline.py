"""The time that a call may still take, as a value that can be passed along."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

Clock = Callable[[], float]


@dataclass(frozen=True)
class Deadline:
    """A moment on a clock, in seconds; infinity where there is no limit."""

    at: float
    clock: Clock = field(default=time.monotonic, compare=False)

    @classmethod
    def after(cls, seconds: float | None, clock: Clock = time.monotonic) -> "Deadline":
        """The moment `seconds` from now; None is never."""
        return cls(math.inf if seconds is None else clock() + seconds, clock)

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - self.clock())

    def timeout(self, limit: float) -> float:
        """Seconds left, at most `limit`: what to give to a call to another server."""
        return min(limit, self.remaining())
