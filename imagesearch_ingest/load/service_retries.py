"""Decide which errors of a service a load retries, for how long, and which errors stop the load."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

from grpc_kit.errors import (
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ServiceError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)
from imagesearch_client.retrying import Backoff
from imagesearch_ingest.load.errors import CallBrokenError, LoadStoppedError

# Errors that a retry may fix.
TRANSIENT_ERRORS = (UnavailableError, ResourceExhaustedError, DeadlineExceededError, CancelledError)
# Errors that every other item would get as well. They stop the load.
PERMANENT_ERRORS = (
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnimplementedError,
)
# The reason of a call that was cancelled because no response came at all.
NO_ANSWER = "NO_ANSWER"
# A busy service may refuse the same item this many times before the item counts as failed.
MAX_REFUSALS = 20


class ServiceAvailability:
    """Whether one service responds. All items of a load share it: it stops the load if every call fails for a while."""

    def __init__(
        self,
        service: str,
        retry_seconds: float,
        responds: Callable[[], Awaitable[bool]],
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Watch a service.

        Args:
            service: its name, for people.
            retry_seconds: the retry budget. The load stops if every call fails for this long.
            responds: sends a simple request, and returns whether the service responds.
            notify: receives what the load waits for, and an empty string when it no longer waits.
        """
        self._service = service
        self.retry_seconds = retry_seconds
        self.responds = responds
        self._notify = notify
        self._last_success = time.monotonic()
        self._failing_since: float | None = None
        self._stopped: LoadStoppedError | None = None

    def record_success(self) -> None:
        """Note that a call succeeded."""
        self._last_success = time.monotonic()
        if self._failing_since is not None:
            self._notify("")
        self._failing_since = None

    def record_failure(self, error: ServiceError) -> None:
        """Note that a call failed. Raises LoadStoppedError for a permanent error, or if the budget is used up."""
        if isinstance(error, PERMANENT_ERRORS):
            self._stop(error.reason, error.message)
        if not isinstance(error, TRANSIENT_ERRORS):
            return
        now = time.monotonic()
        if self._failing_since is None:
            # A call without any response has already waited for the whole budget.
            since = max(self._last_success, now - self.retry_seconds) if error.reason == NO_ANSWER else now
            self._failing_since = since
        self._notify(f"{self._service}, up to {self.retry_seconds:.0f} s: {error.message}")
        if now - self._failing_since >= self.retry_seconds:
            message = (
                f"every call to {self._service} failed for {self.retry_seconds:.0f} s; last error: {error.message}"
            )
            self._stop(error.reason, message)

    def raise_if_stopped(self) -> None:
        """Raise the LoadStoppedError of an earlier call, if there was one."""
        if self._stopped is not None:
            raise LoadStoppedError(self._stopped.reason, self._stopped.message)

    def _stop(self, reason: str, message: str) -> NoReturn:
        self._stopped = LoadStoppedError(reason, message)
        raise self._stopped


class RequestRetries:
    """The retries of one request to one service."""

    def __init__(self, availability: ServiceAvailability) -> None:
        """Begin before the first attempt."""
        self._availability = availability
        self._first_failure = 0.0
        # The availability of the service limits the retries, not the backoff.
        self._backoff = Backoff(math.inf)
        self._failures = 0
        self.broken_calls = 0
        """Number of calls that ended without a response to this request."""

    async def wait(self, error: ServiceError) -> None:
        """Wait before the next attempt, for the service's Retry-After or a backoff.

        Raises the error if another attempt cannot help, and LoadStoppedError if the load cannot continue.
        """
        now = time.monotonic()
        self._first_failure = self._first_failure or now
        is_over = now - self._first_failure > self._availability.retry_seconds
        # By now the request had calls of its own. If the service responds, this request breaks its calls.
        if is_over and isinstance(error, CallBrokenError) and await self._availability.responds():
            raise error
        self._availability.record_failure(error)
        self._failures += 1
        self.broken_calls += isinstance(error, CallBrokenError)
        if not isinstance(error, TRANSIENT_ERRORS) or (is_over and self._failures > MAX_REFUSALS):
            raise error
        pause = error.retry_after if error.retry_after is not None else self._backoff.next_pause(error)
        await asyncio.sleep(pause or 0.0)
