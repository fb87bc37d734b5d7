"""Errors by their meaning, independent of gRPC. `grpc_kit.status` maps them to status codes.

Every error has a `reason`, a stable name in capitals for programs, and a message for people. The message says what is
wrong and what is allowed.
"""

import asyncio
import traceback
from collections.abc import Mapping
from typing import Any, Self


def clear_frames(error: BaseException | None) -> None:
    """Clear the local variables of the functions that an error and its contexts passed through.

    A cancelled task refers to its error, the error to these functions, and often one of these to the task again, such
    as by `asyncio.timeout` or a TaskGroup. Messages and images in the variables would stay in memory until the garbage
    collector runs.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def clear_cancelled(task: "asyncio.Task[Any]") -> None:
    """Clear the frames of a cancelled task: a callback for the end of tasks that work on messages."""
    if task.cancelled():
        try:
            task.result()
        except asyncio.CancelledError as error:
            clear_frames(error)


class ServiceError(Exception):
    """Base class of all errors that a caller may receive."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        field: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Create an error.

        Args:
            reason: stable name in UPPER_SNAKE_CASE.
            message: what is wrong and what is allowed.
            field: path of the wrong field in the request, such as "image.content"; empty if no field is wrong.
            metadata: more facts for programs, such as a limit.
            retry_after: seconds after which a retry can succeed; None if it cannot.
        """
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after

    def release_frames(self) -> None:
        """Clear the frames of the traceback after the error was sent.

        Frames, futures and gRPC's record of a call often refer to each other in a cycle. They would keep large images
        in memory until the next garbage collection, which is rare in a process with a large heap.
        """
        clear_frames(self)
        self.__traceback__ = self.__context__ = self.__cause__ = None

    def within(self, parent: str) -> Self:
        """Return the error with its field as a path within the message field `parent`."""
        field = f"{parent}.{self.field}" if self.field else parent
        return type(self)(self.reason, self.message, field=field, metadata=self.metadata, retry_after=self.retry_after)


class InvalidArgumentError(ServiceError):
    """The request is wrong in every state of the server."""


class NotFoundError(ServiceError):
    """A resource in the request does not exist."""


class AlreadyExistsError(ServiceError):
    """The resource to create exists already."""


class FailedPreconditionError(ServiceError):
    """The state of a resource does not allow the request."""


class ResourceExhaustedError(ServiceError):
    """A limit is reached; the server did nothing."""


class UnavailableError(ServiceError):
    """The server, or a server that it needs, cannot answer now."""


class DeadlineExceededError(ServiceError):
    """The caller's deadline passed."""


class UnimplementedError(ServiceError):
    """The contract has this call or option, but this server does not support it."""


class CancelledError(ServiceError):
    """The caller cancelled the call."""


class UnauthenticatedError(ServiceError):
    """The caller is not authenticated."""


class PermissionDeniedError(ServiceError):
    """The caller has no permission for this call."""


class InternalError(ServiceError):
    """A fault of the server. The details are in its log."""


# Seconds after which other calls have released some of their memory.
MEMORY_SECONDS = 2.0


def out_of_memory() -> ResourceExhaustedError:
    """Return the error for a call for which the server has too little memory now."""
    return ResourceExhaustedError(
        "OUT_OF_MEMORY",
        "the server has too little memory now; try again later",
        retry_after=MEMORY_SECONDS,
    )


def error_for_fault(fault: BaseException) -> ServiceError:
    """Return the error for a caller whose call raised an exception that is not a ServiceError."""
    if isinstance(fault, MemoryError):
        return out_of_memory()
    return InternalError("INTERNAL", "internal error; the server's log has the details")
