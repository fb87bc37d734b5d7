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
    InternalError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from search_service.core.checks import collection_exists, collection_not_found

# Seconds after which trying again can help: about what a Milvus server takes to come back.
RETRY_AFTER = 2.0


def unavailable(_: str = "") -> UnavailableError:
    """Milvus cannot be used now."""
    return UnavailableError("MILVUS_UNAVAILABLE", "Milvus does not answer; try again later", retry_after=RETRY_AFTER)


def timed_out(_: str = "") -> DeadlineExceededError:
    """Milvus took too long."""
    return DeadlineExceededError("MILVUS_TIMEOUT", "Milvus did not answer in time; a write may be stored all the same")


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
    # Some failures carry gRPC's code in the place of Milvus' own.
    Row(frozenset({grpc.StatusCode.UNAVAILABLE}), (), unavailable),
    Row(frozenset(), ("maxoutputsize",), answer_too_large),
    # Quotas are of memory and disk, or of rates: the text tells.
    Row(
        frozenset({3, 7, 12}),
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
    # 2: no connection. 11: its parts are out of step. 101: not loaded, as while a server recovers. 106, 503: no query
    # node has the data. 10000: it gave the call up, as when it stops.
    Row(
        frozenset({2, 11, 101, 106, 503, 10000}),
        ("service not ready", "not ready", "server unavailable", "service unavailable", "open local milvus"),
        unavailable,
    ),
)


def meaning_of(error: Exception, collection: str) -> ServiceError:
    """The meaning of what pymilvus raised about a collection."""
    if isinstance(error, grpc.RpcError):
        # A server that takes the connection and does not answer: pymilvus lets gRPC's own error through.
        late = isinstance(error, grpc.Call | grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        return timed_out() if late else unavailable()
    if not isinstance(error, MilvusException):
        return fault()
    text = str(error.message).lower()
    for row in TABLE:
        if error.code in row.codes or any(part in text for part in row.texts):
            return row.meaning(collection)
    return fault()
