"""Every row of the table of Milvus errors."""

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata
from pymilvus.exceptions import MilvusException

from grpc_kit.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
    UnimplementedError,
)
from search_service.adapters.milvus_errors import error_for


@pytest.mark.parametrize(
    ("code", "text", "meaning", "reason"),
    [
        (1, "collection 'c' already exists", AlreadyExistsError, "COLLECTION_EXISTS"),
        (65535, "create duplicate collection with different parameters", AlreadyExistsError, "COLLECTION_EXISTS"),
        (100, "collection not found[database=default][collection=c]", NotFoundError, "COLLECTION_NOT_FOUND"),
        (100, "collection 'c' does not exist", NotFoundError, "COLLECTION_NOT_FOUND"),
        (65535, "[search] Retry timeout: 0.1s, message=context Done", DeadlineExceededError, "MILVUS_TIMEOUT"),
        (65535, "context deadline exceeded", DeadlineExceededError, "MILVUS_TIMEOUT"),
        (10001, "context deadline", DeadlineExceededError, "MILVUS_TIMEOUT"),
        (65535, "can't find collection: c", NotFoundError, "COLLECTION_NOT_FOUND"),
        (8, "rate limit exceeded", ResourceExhaustedError, "MILVUS_RATE_LIMITED"),
        (4, "request limit exceeded", ResourceExhaustedError, "MILVUS_RATE_LIMITED"),
        (9, "quota exceeded[reason=force deny]", ResourceExhaustedError, "MILVUS_RATE_LIMITED"),
        (
            9,
            "quota exceeded[reason=memory quota exceeded, please allocate more]",
            ResourceExhaustedError,
            "MILVUS_FULL",
        ),
        (9, "quota exceeded[reason=disk quota exceeded]", ResourceExhaustedError, "MILVUS_FULL"),
        (3, "memory limit exceeded[predict=9, limit=5]", ResourceExhaustedError, "MILVUS_FULL"),
        (7, "disk limit exceeded", ResourceExhaustedError, "MILVUS_FULL"),
        (12, "service resource insufficient", ResourceExhaustedError, "MILVUS_FULL"),
        (1, "OSError: No space left on device", ResourceExhaustedError, "MILVUS_FULL"),
        (65535, "query results exceed the maxOutputSize Limit 104857600", ResourceExhaustedError, "ANSWER_TOO_LARGE"),
        (2, "Fail connecting to server on 127.0.0.1:1", UnavailableError, "MILVUS_UNAVAILABLE"),
        (11, "time tick long delay", UnavailableError, "MILVUS_UNAVAILABLE"),
        (106, "collection not fully loaded", UnavailableError, "MILVUS_UNAVAILABLE"),
        (503, "channel not available", UnavailableError, "MILVUS_UNAVAILABLE"),
        (10000, "context canceled", UnavailableError, "MILVUS_UNAVAILABLE"),
        (101, "failed to search: collection not loaded", UnavailableError, "MILVUS_UNAVAILABLE"),
        (1, "service not ready", UnavailableError, "MILVUS_UNAVAILABLE"),
        (grpc.StatusCode.UNAVAILABLE, "[upsert] Retry timeout: 10s", UnavailableError, "MILVUS_UNAVAILABLE"),
        (103, "collection not fully loaded", UnavailableError, "MILVUS_UNAVAILABLE"),
        (1400, "not authenticated", FailedPreconditionError, "MILVUS_ACCESS_DENIED"),
        (1401, "privilege not permitted", FailedPreconditionError, "MILVUS_ACCESS_DENIED"),
        (65535, "auth check failure, please check api key is correct", FailedPreconditionError, "MILVUS_ACCESS_DENIED"),
        (grpc.StatusCode.PERMISSION_DENIED, "PermissionDenied", FailedPreconditionError, "MILVUS_ACCESS_DENIED"),
        (grpc.StatusCode.UNAUTHENTICATED, "who are you", FailedPreconditionError, "MILVUS_ACCESS_DENIED"),
        (grpc.StatusCode.UNIMPLEMENTED, "unknown method Upsert", UnimplementedError, "MILVUS_UNSUPPORTED"),
        (10, "service unimplemented", UnimplementedError, "MILVUS_UNSUPPORTED"),
        (701, "index type not supported", UnimplementedError, "MILVUS_UNSUPPORTED"),
        (800, "database not found[database=shop]", FailedPreconditionError, "MILVUS_DATABASE_MISSING"),
        (102, "exceeded the limit number of collections", ResourceExhaustedError, "MILVUS_FULL"),
        (grpc.StatusCode.INVALID_ARGUMENT, "bad expression", InternalError, "INTERNAL"),
        (1100, "invalid parameter", InternalError, "INTERNAL"),
        (65535, "something nobody knows", InternalError, "INTERNAL"),
    ],
)
def test_milvus_errors_are_translated(code: int, text: str, meaning: type[ServiceError], reason: str) -> None:
    found = error_for(MilvusException(code=code, message=text), "c")
    assert type(found) is meaning
    assert found.reason == reason
    # Callers do not see the texts of Milvus.
    assert text not in found.message


LASTING = (
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INVALID_ARGUMENT,
)


@pytest.mark.parametrize("code", list(grpc.StatusCode)[1:])
def test_only_transient_errors_are_retryable(code: grpc.StatusCode) -> None:
    """Errors of gRPC, raised directly or as the cause of an error of pymilvus."""
    plain = AioRpcError(code, Metadata(), Metadata(), details="details")
    wrapped = MilvusException(code=2, message="Fail connecting to server")
    wrapped.__cause__ = plain
    for error in (plain, wrapped):
        found = error_for(error, "c")
        if code in LASTING:
            assert found.retry_after is None
            assert not isinstance(found, UnavailableError)
    if code is grpc.StatusCode.UNAVAILABLE:
        assert isinstance(found, UnavailableError)


def test_timeout_message_mentions_storage_only_for_writes() -> None:
    late = MilvusException(code=10001, message="context deadline exceeded")
    assert "stored" not in error_for(late, "c").message
    assert "stored" in error_for(late, "c", writes=True).message


def test_unknown_error_is_internal() -> None:
    assert isinstance(error_for(ZeroDivisionError("secret"), "c"), InternalError)
