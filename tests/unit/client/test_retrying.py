"""Repeated calls: which errors are repeated, for how long, and with which pauses."""

import asyncio
from collections.abc import Callable

import pytest

from grpc_kit.errors import (
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from imagesearch_client.retrying import retry, retry_async


class Clock:
    """Time that passes only while the code under test sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.pauses: list[float] = []
        monkeypatch.setattr("imagesearch_client.retrying.time.monotonic", lambda: self.now)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


@pytest.fixture(params=["retry", "retry_async"])
def repeat(request: pytest.FixtureRequest, clock: Clock) -> Callable[[list[ServiceError], float], str]:
    """Runs a call that first raises each of the errors, then returns "done"."""

    def run(errors: list[ServiceError], seconds: float) -> str:
        def call() -> str:
            if errors:
                raise errors.pop(0)
            return "done"

        async def call_async() -> str:
            return call()

        if request.param == "retry":
            return retry(call, seconds, sleep=clock.sleep)
        return asyncio.run(retry_async(call_async, seconds, sleep=clock.sleep_async))

    return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


Repeat = Callable[[list[ServiceError], float], str]


def test_pauses_double_and_are_never_shorter_than_retry_after(repeat: Repeat, clock: Clock) -> None:
    errors: list[ServiceError] = [
        UnavailableError("A", ""),
        UnavailableError("A", ""),
        ResourceExhaustedError("A", "", retry_after=7.0),
        UnavailableError("A", ""),
    ]
    assert repeat(errors, 60) == "done"
    assert clock.pauses == pytest.approx([0.1, 0.2, 7.0, 0.8], rel=0.25)


def test_the_last_attempt_is_at_the_end_of_the_retry_budget(repeat: Repeat, clock: Clock) -> None:
    with pytest.raises(UnavailableError, match="still away"):
        repeat([UnavailableError("A", "still away") for _ in range(100)], 5)
    assert sum(clock.pauses) == pytest.approx(5)


def test_a_retry_after_beyond_the_budget_ends_the_attempts_at_once(repeat: Repeat, clock: Clock) -> None:
    with pytest.raises(UnavailableError):
        repeat([UnavailableError("A", "", retry_after=9)], 8)
    assert clock.pauses == []


def test_a_budget_of_0_allows_one_attempt(repeat: Repeat, clock: Clock) -> None:
    with pytest.raises(UnavailableError):
        repeat([UnavailableError("A", "")], 0)
    assert clock.pauses == []


@pytest.mark.parametrize(
    "error", [InvalidArgumentError("A", ""), InternalError("A", ""), ResourceExhaustedError("ANSWER_TOO_LARGE", "")]
)
def test_errors_that_cannot_pass_are_not_repeated(error: ServiceError, repeat: Repeat, clock: Clock) -> None:
    with pytest.raises(type(error)):
        repeat([error], 60)
    assert clock.pauses == []
