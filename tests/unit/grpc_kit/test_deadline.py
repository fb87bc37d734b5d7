"""Remaining times and timeouts of deadlines."""

import math
import time

import pytest

from grpc_kit.deadline import Deadline


def test_no_timeout_is_an_infinite_deadline() -> None:
    deadline = Deadline.after(None)
    assert (deadline.remaining(), deadline.timeout(5.0)) == (math.inf, 5.0)


@pytest.mark.parametrize("seconds", [0.0, -3.0, -math.inf])
def test_an_expired_deadline_has_zero_seconds_left(seconds: float) -> None:
    deadline = Deadline.after(seconds)
    assert (deadline.remaining(), deadline.timeout(5.0)) == (0.0, 0.0)


def test_a_deadline_uses_its_clock() -> None:
    now = [100.0]
    deadline = Deadline.after(10.0, lambda: now[0])
    now[0] = 104.0
    assert (deadline.remaining(), deadline.timeout(5.0), deadline.timeout(60.0)) == (6.0, 5.0, 6.0)
    now[0] = 111.0
    assert (deadline.remaining(), deadline.timeout(5.0)) == (0.0, 0.0)


def test_the_default_clock_is_monotonic() -> None:
    before = time.monotonic()
    deadline = Deadline.after(10.0)
    assert before + 10.0 <= deadline.at <= time.monotonic() + 10.0
    assert deadline == Deadline(deadline.at, lambda: 0.0)
