"""The deadline of an image, and the error when it passes."""

from typing import Protocol

from grpc_kit.errors import DeadlineExceededError


class AnyDeadline(Protocol):
    """A deadline: of one caller, or of work that several callers share."""

    def remaining(self) -> float:
        """Return the seconds that are left, never negative."""
        ...


def deadline_exceeded() -> DeadlineExceededError:
    """Return the error for a caller whose deadline passed."""
    return DeadlineExceededError("DEADLINE_EXCEEDED", "the deadline passed before the image was embedded")
