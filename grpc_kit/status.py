"""Converts errors to google.rpc.Status with ErrorInfo, BadRequest and RetryInfo, and back."""

import random
from contextlib import suppress

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from grpc_kit import errors
from grpc_kit.errors import ServiceError

DETAILS_KEY = "grpc-status-details-bin"
# Maximum number of characters of a message or of a field's path.
MAX_TEXT = 1024
# Each retry delay is longer by a random fraction, at most this one. Callers that were refused together then retry
# at different times.
JITTER = 0.25

# grpc.aio reports an internal error with this text if a call ends while grpc.aio sends a message.
SENDING_FAILED = "SendMessageOperation"

# The only table that maps errors to status codes.
CODES: dict[type[ServiceError], grpc.StatusCode] = {
    errors.InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ResourceExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.UnimplementedError: grpc.StatusCode.UNIMPLEMENTED,
    errors.CancelledError: grpc.StatusCode.CANCELLED,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.InternalError: grpc.StatusCode.INTERNAL,
}
_ERRORS = {code: meaning for meaning, code in CODES.items()}
_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def code_of(error: ServiceError) -> grpc.StatusCode:
    """Return the status code of an error: the code of its class, or of the nearest base class in CODES."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), grpc.StatusCode.INTERNAL)


def to_status(error: ServiceError, domain: str) -> status_pb2.Status:
    """Return the error as google.rpc.Status. `domain` is ErrorInfo.domain."""
    # Cut the texts: a message may quote the request, and would then be too large for a response.
    message, field = error.message[:MAX_TEXT], error.field[:MAX_TEXT]
    status = status_pb2.Status(code=code_of(error).value[0], message=message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=domain, metadata=error.metadata)
    status.details.add().Pack(info)
    if field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=message, reason=error.reason)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after is not None:
        delay = Duration()
        spread = 1 + JITTER * random.random()
        delay.FromNanoseconds(int(error.retry_after * spread * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def from_status(status: status_pb2.Status) -> ServiceError:
    """Return the error that a google.rpc.Status describes."""
    code = _BY_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN)
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        for message in (info, bad_request, retry):
            detail.Unpack(message)
    violations = bad_request.field_violations
    return _ERRORS.get(code, errors.InternalError)(
        info.reason or code.name,
        status.message,
        field=violations[0].field if violations else "",
        metadata=info.metadata,
        retry_after=retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None,
    )


def from_rpc_error(error: grpc.RpcError) -> ServiceError:
    """Return the error of a failed call, from the server or from gRPC."""
    if not isinstance(error, grpc.aio.AioRpcError | grpc.Call):
        return errors.InternalError("UNKNOWN", str(error))
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            # A proxy may have replaced the details.
            with suppress(DecodeError):
                return from_status(status_pb2.Status.FromString(value))
    if isinstance(error, grpc.aio.AioRpcError) and SENDING_FAILED in (error.debug_error_string() or ""):
        return errors.UnavailableError("UNAVAILABLE", "the call ended while the client sent a message")
    return from_status(status_pb2.Status(code=error.code().value[0], message=error.details() or ""))
