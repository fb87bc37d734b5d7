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
        (8, "rate limit exceeded", ResourceExhaustedError, "MILVUS_RATE_LIMITED"),
        (2, "Fail connecting to server on 127.0.0.1:1", UnavailableError, "MILVUS_UNAVAILABLE"),
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
