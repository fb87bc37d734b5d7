"""What Milvus' errors mean. One table; whatever is not in it is a fault.

Codes as seen from Milvus Lite 3.2 and server 2.3, and as Milvus' own list has them (pkg/util/merr). Their text is for
the log and not for a caller.
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

# Seconds after which trying again can help: about what a Milvus server takes to come back.
RETRY_AFTER = 2.0


def unavailable(_: str = "") -> UnavailableError:
    """Milvus cannot be used now."""
    return UnavailableError("MILVUS_UNAVAILABLE", "Milvus does not answer; try again later", retry_after=RETRY_AFTER)


def timed_out(_: str = "", *, writes: bool = False) -> DeadlineExceededError:
    """Milvus took too long."""
    outcome = "; the write may be stored all the same" if writes else ""
    return DeadlineExceededError("MILVUS_TIMEOUT", f"Milvus did not answer in time{outcome}")


def access_denied(_: str = "") -> FailedPreconditionError:
    """Milvus does not let the service in, or not do this: no caller can change that."""
    return FailedPreconditionError(
        "MILVUS_ACCESS_DENIED",
        "Milvus refuses the search service; its operator should check SEARCH_MILVUS_TOKEN, the rights of that user and "
        "the certificates: the log says more",
    )


def database_missing(_: str = "") -> FailedPreconditionError:
    """The service is set to a database that Milvus does not have."""
    return FailedPreconditionError(
        "MILVUS_DATABASE_MISSING", "Milvus does not have the search service's database; its operator should make it"
    )


def unsupported(_: str = "") -> UnimplementedError:
    """This Milvus is too old, or built without something."""
    return UnimplementedError("MILVUS_UNSUPPORTED", "this Milvus does not support what the request needs")


def too_many_collections(_: str = "") -> ResourceExhaustedError:
    """Milvus has a limit on collections."""
    return ResourceExhaustedError("MILVUS_FULL", "Milvus takes no more collections; delete some, or raise its limit")


def rate_limited(_: str = "") -> ResourceExhaustedError:
    """Milvus asks for patience."""
    return ResourceExhaustedError("MILVUS_RATE_LIMITED", "Milvus takes no more for now", retry_after=RETRY_AFTER)


def full(_: str = "") -> ResourceExhaustedError:
    """Milvus has no room left."""
    return ResourceExhaustedError("MILVUS_FULL", "Milvus has no memory or no disk left for this; it needs more of it")


def answer_too_large(_: str = "") -> ResourceExhaustedError:
    """More than Milvus gives in one answer."""
    return ResourceExhaustedError(
        "ANSWER_TOO_LARGE",
        "the answer has more bytes than Milvus gives at a time; ask for less (limit, page_size, ids) or for a smaller "
        "view",
    )


def filter_too_large(rows: int, seconds: float, most: float) -> ResourceExhaustedError:
    """Milvus Lite compares image by image, and would be at it for too long."""
    return ResourceExhaustedError(
        "FILTER_TOO_LARGE",
        f"filter would keep Milvus Lite busy for about {seconds:.0f} s with {rows} images; at most {most:.0f} s are "
        "allowed: use fewer conditions or values, or a Milvus server",
        field="filter",
        metadata={"max_seconds": f"{most:g}"},
    )


def exact_too_large(size: int, most: int) -> ResourceExhaustedError:
    """A search would read too much."""
    return ResourceExhaustedError(
        "EXACT_TOO_LARGE",
        f"the search would read {size} bytes of vectors to compare every one, and at most {most} are allowed "
        "(SEARCH_MAX_EXACT_BYTES); use the index, or a filter that fewer images fit",
        metadata={"max_bytes": str(most)},
    )


def fault(_: str = "") -> InternalError:
    """Nobody's fault but the service's."""
    return InternalError("INTERNAL", "internal error; the server's log has the details")


@dataclass(frozen=True)
class Row:
    """Milvus errors of one meaning: those with one of the codes, or with one of the texts in lower case."""

    codes: frozenset[int | grpc.StatusCode]
    texts: tuple[str, ...]
    meaning: Callable[[str], ServiceError]
    """Takes the collection's name."""


# The first row that fits counts. Texts stand where a code is shared: 1 is Lite's for nearly everything, and 65535 and 2
# are the server's and pymilvus'.
TABLE = (
    Row(frozenset(), ("already exists", "duplicate collection"), collection_exists),
    Row(frozenset({100}), ("can't find collection", "collection not found"), collection_not_found),
    # What does not pass by itself comes first: never should a caller repeat in vain.
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
    # gRPC's own codes, some of them in the place of Milvus' own. A connection that breaks is any of these.
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
    # Quotas are of memory and disk, or of rates: the text tells.
    Row(
        frozenset({3, 7, 12, 250}),
        ("memory limit exceeded", "memory quota", "disk limit exceeded", "disk quota", "no space left"),
        full,
    ),
    # 4: too many requests wait. 9: a quota.
    Row(frozenset({4, 8, 9}), ("rate limit", "quota exceeded"), rate_limited),
    Row(
        frozenset({10001, grpc.StatusCode.DEADLINE_EXCEEDED}),
        ("deadline exceeded", "retry timeout", "context done", "timed out"),
        timed_out,
    ),
    # 2: no connection. 11: its parts are out of step. 101, 103, 106, 201, 202: not loaded or partly, as while a server
    # recovers. 401, 503, 601, 901, 902, 905: no node has the data now. 10000: it gave the call up, as when it stops.
    Row(
        frozenset({2, 11, 101, 103, 106, 201, 202, 401, 503, 601, 901, 902, 905, 10000}),
        ("service not ready", "not ready", "server unavailable", "service unavailable", "open local milvus"),
        unavailable,
    ),
)


def meaning_of(error: Exception, collection: str, *, writes: bool = False) -> ServiceError:
    """Return the meaning of what pymilvus raised about a collection, in a call that writes or only reads."""
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
    """Return gRPC's code of a failure or of its cause: pymilvus reports a refused connection by a code of its own."""
    if isinstance(error, grpc.RpcError):
        known = isinstance(error, grpc.Call | grpc.aio.AioRpcError)
        return error.code() if known else grpc.StatusCode.UNAVAILABLE
    # pymilvus raises errors from themselves.
    cause = None if error is None or error.__cause__ is error else error.__cause__
    return _grpc_code(cause) if cause is not None else None
