"""Translate the errors of Milvus. One table lists them; every other error is internal.

The codes come from Milvus Lite 3.2, from server 2.3, and from the list of Milvus (pkg/util/merr). The texts of Milvus
go to the log, and not to callers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import grpc
from pymilvus.exceptions import MilvusException

from grpc_kit.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
    UnimplementedError,
    error_for_fault,
)
from search_service.core.checks import collection_exists, collection_not_found

# A Milvus server takes about this many seconds to restart.
RETRY_AFTER = 2.0


def unavailable(_: str = "") -> UnavailableError:
    """Return the error for a Milvus that cannot answer now."""
    return UnavailableError("MILVUS_UNAVAILABLE", "Milvus does not answer; try again later", retry_after=RETRY_AFTER)


def timed_out(_: str = "", *, writes: bool = False) -> DeadlineExceededError:
    """Return the error for a call that took too long."""
    outcome = "; the write may still be stored: write again" if writes else "; try again later"
    return DeadlineExceededError("MILVUS_TIMEOUT", f"Milvus did not answer in time{outcome}")


def access_denied(_: str = "") -> FailedPreconditionError:
    """Return the error for missing privileges of the service, which no caller can change."""
    return FailedPreconditionError(
        "MILVUS_ACCESS_DENIED",
        "Milvus refuses the search service; its operator must check SEARCH_MILVUS_TOKEN, the privileges of that user "
        "and the certificates: the log has the details",
    )


def database_missing(_: str = "") -> FailedPreconditionError:
    """Return the error for a database that Milvus does not have."""
    return FailedPreconditionError(
        "MILVUS_DATABASE_MISSING", "Milvus does not have the search service's database; its operator must create it"
    )


def unsupported(_: str = "") -> UnimplementedError:
    """Return the error for a feature that this Milvus does not have."""
    return UnimplementedError(
        "MILVUS_UNSUPPORTED", "this Milvus is too old for the request, or was built without a feature that it needs"
    )


def too_many_collections(_: str = "") -> ResourceExhaustedError:
    """Return the error for the limit on collections."""
    return ResourceExhaustedError(
        "MILVUS_FULL", "Milvus has reached its limit on collections; delete some, or raise the limit"
    )


def rate_limited(_: str = "") -> ResourceExhaustedError:
    """Return the error for a rate limit."""
    return ResourceExhaustedError(
        "MILVUS_RATE_LIMITED", "Milvus has reached a rate limit; try again later", retry_after=RETRY_AFTER
    )


def full(_: str = "") -> ResourceExhaustedError:
    """Return the error for a Milvus without memory or disk space."""
    return ResourceExhaustedError(
        "MILVUS_FULL", "Milvus has no memory or no disk space left; its operator must add some"
    )


def answer_too_large(_: str = "") -> ResourceExhaustedError:
    """Return the error for an answer that is too large for Milvus."""
    return ResourceExhaustedError(
        "ANSWER_TOO_LARGE",
        "the answer has more bytes than Milvus can return; ask for fewer images (limit, page_size, ids) or for a "
        "smaller view",
    )


def filter_too_large(rows: int, seconds: float, most: float) -> ResourceExhaustedError:
    """Return the error for a filter that would take Milvus Lite too long."""
    return ResourceExhaustedError(
        "FILTER_TOO_LARGE",
        f"filter would take Milvus Lite about {seconds:.0f} s with {rows} images; at most {most:.0f} s are allowed: "
        "use fewer conditions or values, or a Milvus server",
        field="filter",
        metadata={"max_seconds": f"{most:g}"},
    )


def exact_too_large(size: int, most: int) -> ResourceExhaustedError:
    """Return the error for an exact search that would read too many bytes."""
    return ResourceExhaustedError(
        "EXACT_TOO_LARGE",
        f"the exact search would read {size} bytes of vectors; at most {most} are allowed (SEARCH_MAX_EXACT_BYTES): "
        "use the index, or a filter that fewer images match",
        metadata={"max_bytes": str(most)},
    )


def fault(_: str = "") -> InternalError:
    """Return the error for an unexpected failure."""
    return InternalError("INTERNAL", "internal error; the server's log has the details")


@dataclass(frozen=True)
class Row:
    """Errors of Milvus with one meaning: any of these codes, or any of these texts in lower case."""

    codes: frozenset[int | grpc.StatusCode]
    texts: tuple[str, ...]
    meaning: Callable[[str], ServiceError]
    """Return the error; the argument is the name of the collection."""


# The first row that matches counts. Texts distinguish errors that share a code: Milvus Lite uses 1 for nearly all
# errors, and servers and pymilvus use 65535 and 2 for many.
TABLE = (
    Row(frozenset(), ("already exists", "duplicate collection"), collection_exists),
    Row(frozenset({100}), ("can't find collection", "collection not found"), collection_not_found),
    # Permanent errors come first, so that no caller repeats in vain.
    Row(
        frozenset({1400, 1401, 1800, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}),
        ("auth check failure", "privilege not permitted", "not authenticated"),
        access_denied,
    ),
    Row(frozenset({800}), ("database not found",), database_missing),
    Row(frozenset({10, 701, 2001, 3000, grpc.StatusCode.UNIMPLEMENTED}), (), unsupported),
    Row(frozenset({102}), (), too_many_collections),
    Row(frozenset(), ("maxoutputsize", "message larger than max"), answer_too_large),
    Row(frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED}), (), rate_limited),
    Row(
        frozenset(
            {
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.OUT_OF_RANGE,
                grpc.StatusCode.FAILED_PRECONDITION,
                grpc.StatusCode.NOT_FOUND,
                grpc.StatusCode.ALREADY_EXISTS,
                grpc.StatusCode.DATA_LOSS,
            }
        ),
        (),
        fault,
    ),
    # Codes of gRPC. A broken connection has any of these.
    Row(
        frozenset(
            {
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.CANCELLED,
                grpc.StatusCode.ABORTED,
                grpc.StatusCode.UNKNOWN,
                grpc.StatusCode.INTERNAL,
            }
        ),
        (),
        unavailable,
    ),
    # A quota may limit memory, disk space or rates. The text distinguishes them.
    Row(
        frozenset({3, 7, 12, 250}),
        ("memory limit exceeded", "memory quota", "disk limit exceeded", "disk quota", "no space left"),
        full,
    ),
    # 4: too many requests are queued. 9: a quota.
    Row(frozenset({4, 8, 9}), ("rate limit", "quota exceeded"), rate_limited),
    Row(
        frozenset({10001, grpc.StatusCode.DEADLINE_EXCEEDED}),
        ("deadline exceeded", "retry timeout", "context done", "timed out"),
        timed_out,
    ),
    # 2: no connection. 11: the components disagree. 101, 103, 106, 201, 202: not loaded, or in part, while a server
    # recovers. 401, 503, 601, 901, 902, 905: no node has the data now. 10000: the server cancelled the call, or stops.
    Row(
        frozenset({2, 11, 101, 103, 106, 201, 202, 401, 503, 601, 901, 902, 905, 10000}),
        ("service not ready", "not ready", "server unavailable", "service unavailable", "open local milvus"),
        unavailable,
    ),
)


def error_for(error: Exception, collection: str, *, writes: bool = False) -> ServiceError:
    """Return the ServiceError for an error of pymilvus in a call about a collection."""
    grpc_code = _grpc_code(error)
    if grpc_code is None and not isinstance(error, MilvusException):
        return error_for_fault(error)
    codes = {grpc_code, getattr(error, "code", None) if isinstance(error, MilvusException) else None}
    text = str(error.message if isinstance(error, MilvusException) else error).lower()
    for row in TABLE:
        if row.codes & codes or any(part in text for part in row.texts):
            return timed_out(writes=writes) if row.meaning is timed_out else row.meaning(collection)
    return fault()


def _grpc_code(error: BaseException | None) -> grpc.StatusCode | None:
    """Return the gRPC code of a failure or of its cause: pymilvus replaces the code of a refused connection."""
    if isinstance(error, grpc.RpcError):
        known = isinstance(error, grpc.Call | grpc.aio.AioRpcError)
        return error.code() if known else grpc.StatusCode.UNAVAILABLE
    # In pymilvus, the cause of an error may be the error itself.
    cause = None if error is None or error.__cause__ is error else error.__cause__
    return _grpc_code(cause) if cause is not None else None
