"""Deadline: the time left, as a value."""

import math
import time

import pytest

from grpc_kit.deadline import Deadline


def test_no_limit_is_an_infinite_deadline() -> None:
    deadline = Deadline.after(None)
    assert (deadline.remaining(), deadline.timeout(5.0)) == (math.inf, 5.0)


@pytest.mark.parametrize("seconds", [0.0, -3.0, -math.inf])
def test_a_passed_deadline_leaves_nothing_and_never_less(seconds: float) -> None:
    deadline = Deadline.after(seconds)
    assert (deadline.remaining(), deadline.timeout(5.0)) == (0.0, 0.0)


def test_time_goes_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    deadline = Deadline.after(10.0)
    monkeypatch.setattr(time, "monotonic", lambda: 104.0)
    assert (deadline.remaining(), deadline.timeout(5.0), deadline.timeout(60.0)) == (6.0, 5.0, 6.0)
