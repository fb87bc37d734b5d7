"""Repeat calls that failed for a reason that passes: the one retry rule of the SDK and of the packages on top of it."""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import tenacity

from grpc_kit.errors import CancelledError, DeadlineExceededError, ResourceExhaustedError, UnavailableError

# Seconds between two attempts if the error names none: they double from the first to the last.
FIRST_PAUSE, LAST_PAUSE = 0.1, 10.0
JITTER = 0.25

Result = TypeVar("Result")


class Backoff:
    """The pauses between the attempts of one call, within a retry budget that begins at the first failure."""

    def __init__(self, seconds: float, first_pause: float = FIRST_PAUSE, last_pause: float = LAST_PAUSE) -> None:
        """Begin before the first attempt. `seconds` is the retry budget; 0 allows no second attempt."""
        self._seconds = seconds
        self._pause = first_pause
        self._last_pause = last_pause
        self._until: float | None = None

    def next_pause(self, error: Exception) -> float | None:
        """Return the seconds to wait before the next attempt, or None if the budget allows no further attempt.

        The pause is never shorter than the `retry_after` of the error. The last attempt is at the end of the budget.
        """
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._seconds
        left = self._until - now
        pause = self._pause * random.uniform(1 - JITTER, 1 + JITTER)
        self._pause = min(2 * self._pause, self._last_pause)
        retry_after: float = getattr(error, "retry_after", None) or 0.0
        if left <= 0 or retry_after > left:
            return None
        return min(max(pause, retry_after), left)


def is_transient(error: Exception) -> bool:
    """Return whether an error of a service can pass: unavailable, overloaded, cancelled or past its deadline."""
    if isinstance(error, ResourceExhaustedError):
        return error.retry_after is not None
    return isinstance(error, UnavailableError | DeadlineExceededError | CancelledError)


def retry(
    call: Callable[[], Result],
    seconds: float,
    should_retry: Callable[[Exception], bool] = is_transient,
    *,
    before_pause: Callable[[Exception], None] = lambda _: None,
    sleep: Callable[[float], object] | None = None,
) -> Result:
    """Return the result of a call, which is repeated while it fails with an error that can pass.

    Args:
        call: the call. It must be safe to repeat.
        seconds: the retry budget, from the first failure on.
        should_retry: whether an error can pass.
        before_pause: receives each error that is followed by another attempt.
        sleep: waits for that many seconds; `time.sleep` by default.

    Raises the last error of the call.
    """
    rules = _rules(seconds, should_retry, before_pause)
    return tenacity.Retrying(sleep=cast("Any", sleep or time.sleep), **rules)(call)


async def retry_async(
    call: Callable[[], Awaitable[Result]],
    seconds: float,
    should_retry: Callable[[Exception], bool] = is_transient,
    *,
    before_pause: Callable[[Exception], None] = lambda _: None,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> Result:
    """Return the result of a coroutine, as `retry` does."""
    rules = _rules(seconds, should_retry, before_pause)
    return await tenacity.AsyncRetrying(sleep=cast("Any", sleep), **rules)(call)


def _rules(
    seconds: float, should_retry: Callable[[Exception], bool], before_pause: Callable[[Exception], None]
) -> dict[str, Any]:
    """Return the arguments of tenacity, which asks for the wait before it asks whether to stop."""
    backoff = Backoff(seconds)

    def wait(state: tenacity.RetryCallState) -> float:
        pause = backoff.next_pause(_error_of(state))
        return math.inf if pause is None else pause

    return {
        "retry": tenacity.retry_if_exception(lambda error: isinstance(error, Exception) and should_retry(error)),
        "wait": wait,
        "stop": lambda state: math.isinf(state.upcoming_sleep),
        "before_sleep": lambda state: before_pause(_error_of(state)),
        "reraise": True,
    }


def _error_of(state: tenacity.RetryCallState) -> Exception:
    return cast("Exception", state.outcome and state.outcome.exception())
