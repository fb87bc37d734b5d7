"""What Milvus' errors mean. One table; whatever is not in it is a fault."""

import grpc
from pymilvus.exceptions import ConnectionNotExistException, MilvusException

from grpc_kit.errors import (
    DeadlineExceededError,
    InternalError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from search_service.core.checks import collection_not_found

# Seconds after which trying again can help: about what a Milvus server takes to come back.
RETRY_AFTER = 2.0

COLLECTION_NOT_FOUND_CODES = frozenset({100})
RATE_LIMITED_CODES = frozenset({8, 9})
# 1: service not ready; 2: no connection; 101: not loaded, as while it recovers; 106, 503: no query node has the data.
UNAVAILABLE_CODES = frozenset({1, 2, 101, 106, 503})
# Without a code of their own in server 2.3.
COLLECTION_NOT_FOUND_TEXTS = ("can't find collection", "collection not found", "not exist")


def meaning_of(error: Exception, collection: str) -> ServiceError:
    """The meaning of what pymilvus raised about a collection. Its own text is for the log, not for a caller."""
    if isinstance(error, grpc.RpcError):
        # A server that takes the connection and does not answer: pymilvus lets gRPC's own error through.
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return _no_answer_in_time()
        return unavailable()
    if not isinstance(error, MilvusException):
        return InternalError("INTERNAL", "internal error; the server's log has the details")
    text = str(error.message).lower()
    if error.code in COLLECTION_NOT_FOUND_CODES or any(part in text for part in COLLECTION_NOT_FOUND_TEXTS):
        return _collection_gone(collection)
    if "deadline exceeded" in text:
        return _no_answer_in_time()
    if error.code in RATE_LIMITED_CODES:
        return ResourceExhaustedError("MILVUS_RATE_LIMITED", "Milvus takes no more for now", retry_after=RETRY_AFTER)
    if error.code in UNAVAILABLE_CODES or isinstance(error, ConnectionNotExistException):
        return unavailable()
    return InternalError("INTERNAL", "internal error; the server's log has the details")


def unavailable() -> UnavailableError:
    """Milvus cannot be used now."""
    return UnavailableError(
        "MILVUS_UNAVAILABLE", "Milvus does not answer; nothing was changed", retry_after=RETRY_AFTER
    )


def _no_answer_in_time() -> DeadlineExceededError:
    return DeadlineExceededError("MILVUS_TIMEOUT", "Milvus did not answer in time; what was written may be stored")


def _collection_gone(collection: str) -> NotFoundError:
    return collection_not_found(collection)
