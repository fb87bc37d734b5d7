"""What can go wrong, named by meaning. No gRPC here: `grpc_kit.status` maps these to status codes.

Every error carries a `reason`, a stable name in capitals that a program can act on, and a message for people that
names what is wrong and what would be right.
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
    """The base of every error that a caller may see."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        field: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Describes one error.

        Args:
            reason: stable name, UPPER_SNAKE_CASE.
            message: what is wrong and what would be right.
            field: path of the request's field at fault, such as "image.content"; empty where there is none.
            metadata: further facts for programs, such as a limit.
            retry_after: seconds after which trying again can help; None where it cannot.
        """
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after

    def let_go(self) -> None:
        """Clears the frames that it came through, when it has been answered.

        Through a future, or gRPC's own record of the call, they often lead back to the error. They would keep what they
        worked on, such as a large image, until the garbage collector comes by, which beside a large heap it hardly ever
        does.
        """
        clear_frames(self)
        self.__traceback__ = self.__context__ = self.__cause__ = None

    def within(self, parent: str) -> Self:
        """The same error, its field seen from a message that holds the one it was found in."""
        field = f"{parent}.{self.field}" if self.field else parent
        return type(self)(self.reason, self.message, field=field, metadata=self.metadata, retry_after=self.retry_after)


class InvalidArgumentError(ServiceError):
    """The request is wrong whatever the state of the server is."""


class NotFoundError(ServiceError):
    """What the request names does not exist."""


class AlreadyExistsError(ServiceError):
    """What the request would make exists."""


class FailedPreconditionError(ServiceError):
    """The request does not fit the state of what it names."""


class ResourceExhaustedError(ServiceError):
    """A limit is reached; nothing was done."""


class UnavailableError(ServiceError):
    """The server or one that it needs cannot answer now."""


class DeadlineExceededError(ServiceError):
    """The caller's time ran out."""


class UnimplementedError(ServiceError):
    """The contract has it and this server does not serve it."""


class CancelledError(ServiceError):
    """The caller went away."""


class UnauthenticatedError(ServiceError):
    """The caller did not prove who it is."""


class PermissionDeniedError(ServiceError):
    """The caller may not do this."""


class InternalError(ServiceError):
    """A fault of the server. Its details are logged and not told."""


# Seconds after which other calls have released some of their memory.
MEMORY_SECONDS = 2.0


def out_of_memory() -> ResourceExhaustedError:
    """Return the error for a call that the server has no memory for now."""
    return ResourceExhaustedError(
        "OUT_OF_MEMORY", "the server has no memory left for this call; try again later", retry_after=MEMORY_SECONDS
    )


def meaning_of_fault(fault: BaseException) -> ServiceError:
    """Return the error to send to the caller for an exception that is no ServiceError."""
    if isinstance(fault, MemoryError):
        return out_of_memory()
    return InternalError("INTERNAL", "internal error; the server's log has the details")
