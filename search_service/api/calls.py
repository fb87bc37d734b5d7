"""The time that a call has, and the size that its answer may have."""

from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message

from grpc_kit.deadline import Deadline
from grpc_kit.errors import ResourceExhaustedError
from grpc_kit.server.interceptors.context_interceptor import Context

Answer = TypeVar("Answer", bound=Message)
# What this service's errors name as where they come from.
DOMAIN = "search.imagesearch"


@dataclass(frozen=True)
class CallLimits:
    """Gives every single call an end, so that none can hang, and every answer a size that can be sent."""

    default_seconds: float
    """For a caller that states no deadline."""
    max_answer_bytes: int

    def deadline(self, context: Context) -> Deadline:
        """The deadline of a call."""
        remaining = context.time_remaining()
        return Deadline.after(self.default_seconds if remaining is None else remaining)

    def sendable(self, answer: Answer) -> Answer:
        """The answer, where it can be sent. Raises ResourceExhaustedError; gRPC would not say what is too large."""
        size = answer.ByteSize()
        if size > self.max_answer_bytes:
            raise ResourceExhaustedError(
                "ANSWER_TOO_LARGE",
                f"the answer has {size} bytes, and at most {self.max_answer_bytes} can be sent; ask for less at a time "
                "(limit, page_size, ids) or for a smaller view",
                metadata={"max_bytes": str(self.max_answer_bytes)},
            )
        return answer
