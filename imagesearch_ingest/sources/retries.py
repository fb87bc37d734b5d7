"""Tries again what fails for a reason that passes: one rule for files, listings, manifests and archives."""

import errno
import random
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

from imagesearch_ingest.sources.file_errors import as_os_errors, is_permanent

# Seconds between two tries if the server names none: they double from the first to the last.
FIRST_PAUSE, LAST_PAUSE = 0.25, 10.0

Result = TypeVar("Result")


class Backoff:
    """The pauses between the tries of one request, for a number of seconds from its first failure on."""

    def __init__(self, seconds: float) -> None:
        """Begin with the first failure."""
        self._seconds = seconds
        self._until: float | None = None
        self._pause = FIRST_PAUSE

    def next_pause(self, retry_after: float | None) -> float | None:
        """Return the seconds to wait before the next try, at least `retry_after`; None if there is no further try."""
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._seconds
        left = self._until - now
        pause = self._pause * random.uniform(0.75, 1.25)
        self._pause = min(2 * self._pause, LAST_PAUSE)
        if retry_after is not None and retry_after > left:
            return None
        # The last try is at the end of the time.
        return min(max(pause, retry_after or 0.0), left) if left > 0 else None


class Retries:
    """Waits, in the thread that reads, until a source answers; another thread may stop it."""

    def __init__(
        self, seconds: float, tell: Callable[[str], None] = lambda _: None, *, is_opening: bool = False
    ) -> None:
        """Try each request for this long.

        Args:
            seconds: from the first failure of a request on; 0 tries it once.
            tell: receives what is waited for, and the empty text when that is over.
            is_opening: whether a server that cannot be reached at all fails at once: its name may be wrong.
        """
        self._seconds = seconds
        self._tell = tell
        self._is_opening = is_opening
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End the waiting, now and in future: each request is tried once."""
        self._stopped.set()

    def run(self, request: Callable[[], Result]) -> Result:
        """Return what the request returns. Raises its OSError if it lasts, or does not pass in time."""
        backoff = Backoff(self._seconds)
        is_waiting = False
        while True:
            try:
                result = request()
            except OSError as error:
                if is_permanent(error) or (self._is_opening and error.errno == errno.ECONNREFUSED):
                    raise
                pause = backoff.next_pause(getattr(error, "retry_after", None))
                if pause is None or self._stopped.is_set():
                    raise
                is_waiting = True
                self._tell(f"{error.filename or 'a source'}, up to {self._seconds:.0f} s: {error.strerror or error}")
                if self._stopped.wait(pause):
                    raise
            else:
                if is_waiting:
                    self._tell("")
                return result


# Of the thread that lists or reads; without one each request is tried once.
current: ContextVar[Retries] = ContextVar("retries", default=Retries(0))  # noqa: B039 - it has no state of its own


def patiently(url: str, request: Callable[[], Result]) -> Result:
    """Return what the request returns, tried as the thread's `current` says. Raises OSError."""

    def attempt() -> Result:
        with as_os_errors(url):
            return request()

    return current.get().run(attempt)
