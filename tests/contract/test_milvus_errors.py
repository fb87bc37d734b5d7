"""Every row of the table of Milvus' errors."""

import grpc
import pytest
from pymilvus.exceptions import MilvusException

from grpc_kit.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    InternalError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from search_service.adapters.milvus_errors import meaning_of


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
        (65535, "something nobody knows", InternalError, "INTERNAL"),
    ],
)
def test_each_error_has_its_meaning(code: int, text: str, meaning: type[ServiceError], reason: str) -> None:
    found = meaning_of(MilvusException(code=code, message=text), "c")
    assert type(found) is meaning
    assert found.reason == reason
    # Milvus' own words are not for callers.
    assert text not in found.message


def test_an_error_of_another_kind_is_a_fault() -> None:
    assert isinstance(meaning_of(ZeroDivisionError("secret"), "c"), InternalError)
