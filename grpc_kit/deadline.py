"""The time that a call may still take, as a value that can be passed along."""

import math
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock, in seconds; infinity where there is no limit."""

    at: float

    @classmethod
    def after(cls, seconds: float | None) -> "Deadline":
        """The moment `seconds` from now; None is never."""
        return cls(math.inf if seconds is None else time.monotonic() + seconds)

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())

    def timeout(self, limit: float) -> float:
        """Seconds left, at most `limit`: what to give to a call to another server."""
        return min(limit, self.remaining())
