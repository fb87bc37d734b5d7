"""The deadline of a call, as a value."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

Clock = Callable[[], float]


@dataclass(frozen=True)
class Deadline:
    """A moment on a clock, in seconds; infinity means no deadline."""

    at: float
    clock: Clock = field(default=time.monotonic, compare=False)

    @classmethod
    def after(cls, seconds: float | None, clock: Clock = time.monotonic) -> "Deadline":
        """Return the deadline in `seconds` from now; None means no deadline."""
        return cls(math.inf if seconds is None else clock() + seconds, clock)

    def remaining(self) -> float:
        """Return the seconds until the deadline; never negative."""
        return max(0.0, self.at - self.clock())

    def timeout(self, limit: float) -> float:
        """Return the timeout of a call to another server: the seconds until the deadline, at most `limit`."""
        return min(limit, self.remaining())
