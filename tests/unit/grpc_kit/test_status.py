"""Errors are converted to google.rpc.Status and back."""

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc.aio import AioRpcError, Metadata

from grpc_kit import errors
from grpc_kit.errors import ServiceError
from grpc_kit.status import CODES, DETAILS_KEY, JITTER, code_of, from_rpc_error, from_status, to_status

MEANINGS = ServiceError.__subclasses__()


def facts(error: ServiceError) -> tuple[object, ...]:
    return type(error), error.reason, error.message, error.field, error.metadata


def test_every_error_class_has_its_own_status_code() -> None:
    assert set(CODES) == set(MEANINGS)
    assert len(set(CODES.values())) == len(MEANINGS)


@pytest.mark.parametrize("meaning", MEANINGS)
@pytest.mark.parametrize(
    ("field", "metadata", "retry_after"),
    [("", {}, None), ("image.region", {"limit": "7", "ünit": "ß"}, 1.5), ("", {}, 0.0)],
)
def test_an_error_survives_the_round_trip(
    meaning: type[ServiceError], field: str, metadata: dict[str, str], retry_after: float | None
) -> None:
    error = meaning("A_REASON", "what is wrong, für Menschen", field=field, metadata=metadata, retry_after=retry_after)
    sent = status_pb2.Status.FromString(to_status(error, "a.domain").SerializeToString())
    received = from_status(sent)
    assert facts(received) == facts(error)
    if retry_after is None:
        assert received.retry_after is None
    else:
        assert received.retry_after is not None
        assert retry_after <= received.retry_after <= retry_after * (1 + JITTER)


def test_retry_delays_of_callers_that_were_refused_together_differ() -> None:
    error = errors.UnavailableError("A_REASON", "message", retry_after=2)
    assert len({from_status(to_status(error, "a.domain")).retry_after for _ in range(20)}) > 10


def test_a_status_carries_error_info_bad_request_and_retry_info() -> None:
    error = errors.InvalidArgumentError("A_REASON", "message", field="a.field", metadata={"a": "b"}, retry_after=2.25)
    status = to_status(error, "a.domain")
    info, bad_request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    assert [detail.Unpack(into) for detail, into in zip(status.details, (info, bad_request, retry), strict=True)]
    assert (status.code, status.message) == (3, "message")
    assert (info.reason, info.domain, dict(info.metadata)) == ("A_REASON", "a.domain", {"a": "b"})
    (violation,) = bad_request.field_violations
    assert (violation.field, violation.description, violation.reason) == ("a.field", "message", "A_REASON")
    assert 2250 <= retry.retry_delay.ToMilliseconds() <= 2250 * (1 + JITTER)


def test_the_path_of_a_field_includes_its_parent_message() -> None:
    error = errors.InvalidArgumentError("A_REASON", "message", field="content", metadata={"a": "b"}, retry_after=1.0)
    assert facts(error.within("image")) == (type(error), "A_REASON", "message", "image.content", {"a": "b"})
    assert error.within("image").retry_after == 1.0
    assert errors.NotFoundError("A_REASON", "message").within("image").field == "image"


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_a_status_without_details_maps_to_its_error_class(code: grpc.StatusCode) -> None:
    error = from_status(status_pb2.Status(code=code.value[0], message="message"))
    assert (error.reason, error.message) == (code.name, "message")
    assert type(error) is errors.InternalError or code_of(error) is code


@pytest.mark.parametrize("number", [-1, 17, 4000])
def test_an_unknown_status_code_is_an_internal_error(number: int) -> None:
    assert type(from_status(status_pb2.Status(code=number))) is errors.InternalError


def rpc_error(code: grpc.StatusCode, details: bytes | None) -> AioRpcError:
    trailing = Metadata((DETAILS_KEY, details)) if details is not None else Metadata()
    return AioRpcError(code, Metadata(), trailing, "what gRPC says")


def test_details_take_precedence_over_the_status_code() -> None:
    error = errors.NotFoundError("A_REASON", "message", field="name")
    failed = rpc_error(grpc.StatusCode.UNKNOWN, to_status(error, "a.domain").SerializeToString())
    assert facts(from_rpc_error(failed)) == facts(error)


@pytest.mark.parametrize("details", [None, b"no status at all"])
def test_unreadable_details_fall_back_to_the_status_code(details: bytes | None) -> None:
    error = from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE, details))
    assert (type(error), error.message) == (errors.UnavailableError, "what gRPC says")


def test_an_error_without_a_call_is_an_internal_error() -> None:
    assert type(from_rpc_error(grpc.RpcError("closed"))) is errors.InternalError
