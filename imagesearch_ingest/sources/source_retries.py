"""Repeat reads and listings of sources that fail with a transient error."""

import errno
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

from imagesearch_client.retrying import retry
from imagesearch_ingest.sources.file_errors import as_os_errors, is_permanent

Result = TypeVar("Result")


class SourceRetries:
    """Repeats requests in the thread that reads a source. Another thread may stop the retries."""

    def __init__(
        self, seconds: float, notify: Callable[[str], None] = lambda _: None, *, is_opening: bool = False
    ) -> None:
        """Set the retry budget.

        Args:
            seconds: the retry budget of each request, from its first failure on; 0 allows one attempt.
            notify: receives what the thread waits for, and an empty string when it no longer waits.
            is_opening: fail at once if the server refuses the connection, because its name may be wrong.
        """
        self._seconds = seconds
        self._notify = notify
        self._is_opening = is_opening
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End the retries in progress, and allow each later request one attempt."""
        self._stopped.set()

    def run(self, request: Callable[[], Result]) -> Result:
        """Return the result of a request. Raises its last OSError."""
        failures: list[Exception] = []

        def before_pause(error: Exception) -> None:
            failures.append(error)
            where, problem = getattr(error, "filename", None), getattr(error, "strerror", None)
            self._notify(f"{where or 'a source'}, up to {self._seconds:.0f} s: {problem or error}")

        def sleep(seconds: float) -> None:
            if self._stopped.wait(seconds):
                raise failures[-1]

        result = retry(request, self._seconds, self._should_retry, before_pause=before_pause, sleep=sleep)
        if failures:
            self._notify("")
        return result

    def _should_retry(self, error: Exception) -> bool:
        if not isinstance(error, OSError) or is_permanent(error) or self._stopped.is_set():
            return False
        return not (self._is_opening and error.errno == errno.ECONNREFUSED)


# The retries of the current thread. By default each request has one attempt.
thread_retries: ContextVar[SourceRetries] = ContextVar("retries", default=SourceRetries(0))  # noqa: B039 - stateless


def with_retries(url: str, request: Callable[[], Result]) -> Result:
    """Return the result of a request, with the retries of the current thread. Raises OSError."""

    def attempt() -> Result:
        with as_os_errors(url):
            return request()

    return thread_retries.get().run(attempt)
