"""How long a load waits for a service, and what it does not wait for."""

import asyncio
import random
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

# What another time may go well.
TRANSIENT_ERRORS = (UnavailableError, ResourceExhaustedError, DeadlineExceededError, CancelledError)
# What every further item would meet as well.
PERMANENT_ERRORS = (
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnimplementedError,
)
# The reason of a call that was given up, because no answer came at all.
NO_ANSWER = "NO_ANSWER"
# Seconds between tries where the service does not say how many: they double from the first to the last.
FIRST_PAUSE, LAST_PAUSE = 0.1, 10.0
# A service that refuses some may refuse the same one many times over: so many are not that item's fault yet.
FEW_REFUSALS = 20


class LoadStoppedError(Exception):
    """The whole load cannot go on. What is not recorded by then is done by the next run."""

    def __init__(self, reason: str, message: str) -> None:
        """As a ServiceError has them."""
        super().__init__(message)
        self.reason = reason
        self.message = message


class CallBrokenError(UnavailableError):
    """A call ended without an answer to some of its items: the service went away, or an item was too much for it."""


class ServiceRetries:
    """With one service, shared by all items: it is away when nothing at all goes well for a while."""

    def __init__(
        self,
        service: str,
        seconds: float,
        is_there: Callable[[], Awaitable[bool]],
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Waits for a service.

        Args:
            service: its name, for people.
            seconds: how long.
            is_there: asks it for something simple; whether it answers.
            tell: is told what is waited for, and the empty text when it is no longer.
        """
        self._service = service
        self.seconds = seconds
        self.is_there = is_there
        self._tell = tell
        self._heard = time.monotonic()
        # Since when nothing goes well; None where it does.
        self._failing_since: float | None = None
        self._over: LoadStoppedError | None = None

    def heard(self) -> None:
        """Something went well."""
        self._heard = time.monotonic()
        if self._failing_since is not None:
            self._tell("")
        self._failing_since = None

    def check(self, error: ServiceError) -> None:
        """Raises LoadStoppedError where an error is no item's own, or the service is away for too long."""
        if isinstance(error, PERMANENT_ERRORS):
            self._end(error.reason, error.message)
        if not isinstance(error, TRANSIENT_ERRORS):
            return
        now = time.monotonic()
        if self._failing_since is None:
            # A call that nobody answered has waited for as long as that by now.
            self._failing_since = max(self._heard, now - self.seconds) if error.reason == NO_ANSWER else now
        self._tell(f"{self._service}, up to {self.seconds:.0f} s: {error.message}")
        if now - self._failing_since >= self.seconds:
            self._end(error.reason, f"{self._service} did nothing for {self.seconds:.0f} s, and says: {error.message}")

    def ask_no_more(self) -> None:
        """Raises the LoadStoppedError that ended the patience, where one did."""
        if self._over is not None:
            raise LoadStoppedError(self._over.reason, self._over.message)

    def _end(self, reason: str, message: str) -> NoReturn:
        self._over = LoadStoppedError(reason, message)
        raise self._over


class RequestRetries:
    """Of one item with one service."""

    def __init__(self, patience: ServiceRetries) -> None:
        """Goes on as long as there is patience."""
        self._patience = patience
        self._first_failure = 0.0
        self._pause = FIRST_PAUSE
        self._failed = 0
        self.broken = 0
        """How many of its calls ended without an answer to it."""

    async def wait(self, error: ServiceError) -> None:
        """Waits until it can be tried again, as long as the service says; raises the error where it is no use.

        Raises LoadStoppedError too.
        """
        now = time.monotonic()
        self._first_failure = self._first_failure or now
        is_over = now - self._first_failure > self._patience.seconds
        # By now it had calls of its own, and a service that is there and breaks these breaks them because of it.
        if is_over and isinstance(error, CallBrokenError) and await self._patience.is_there():
            raise error
        self._patience.check(error)
        self._failed += 1
        self.broken += isinstance(error, CallBrokenError)
        if not isinstance(error, TRANSIENT_ERRORS) or (is_over and self._failed > FEW_REFUSALS):
            raise error
        if error.retry_after is not None:
            await asyncio.sleep(error.retry_after)
            return
        await asyncio.sleep(self._pause * random.uniform(0.75, 1.25))
        self._pause = min(2 * self._pause, LAST_PAUSE)
