"""The deadline of a call, and the maximum size of its response."""

from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message

from grpc_kit.deadline import Deadline
from grpc_kit.errors import ResourceExhaustedError
from grpc_kit.server.interceptors.context_interceptor import Context

Response = TypeVar("Response", bound=Message)
# The domain in google.rpc.ErrorInfo.
DOMAIN = "search.imagesearch"


@dataclass(frozen=True)
class CallLimits:
    """Limit the time of every unary call and the size of every response."""

    default_seconds: float
    """Deadline of a call whose client sets none."""
    max_response_bytes: int

    def deadline(self, context: Context) -> Deadline:
        """Return the deadline of a call."""
        remaining = context.time_remaining()
        return Deadline.after(self.default_seconds if remaining is None else remaining)

    def checked(self, response: Response) -> Response:
        """Return the response. Raises ResourceExhaustedError if it is too large; the error of gRPC names no cause."""
        size = response.ByteSize()
        if size > self.max_response_bytes:
            raise ResourceExhaustedError(
                "ANSWER_TOO_LARGE",
                f"the response has {size} bytes; it may have at most {self.max_response_bytes}: ask for fewer images "
                "(limit, page_size, ids) or for a smaller view",
                metadata={"max_bytes": str(self.max_response_bytes)},
            )
        return response
