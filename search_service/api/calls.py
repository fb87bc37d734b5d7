"""The time that a call has."""

from dataclasses import dataclass

from grpc_kit.deadline import Deadline
from grpc_kit.interceptors.around import Context

# What this service's errors name as where they come from.
DOMAIN = "search.imagesearch"


@dataclass(frozen=True)
class CallDeadlines:
    """Gives every single call an end, so that none can hang."""

    default_seconds: float
    """For a caller that states no deadline."""

    def of(self, context: Context) -> Deadline:
        """The deadline of a call."""
        remaining = context.time_remaining()
        return Deadline.after(self.default_seconds if remaining is None else remaining)
