# Generated from aio/connection.py by python -m codegen.blocking_client; change that file.
"""A connection to one service, and the rules of its calls: time limits, errors and retries."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import ClassVar, Self, TypeVar

import grpc
from google.protobuf.message import Message

from grpc_kit.channel import open_blocking_channel
from grpc_kit.credentials import ClientTls
from grpc_kit.errors import ResourceExhaustedError, ServiceError
from grpc_kit.health import is_serving
from grpc_kit.status import from_rpc_error
from imagesearch_client.defaults import MAX_MESSAGE_BYTES
from imagesearch_client.environment import tls_from_environment, tls_problems
from imagesearch_client.retrying import FIRST_PAUSE, retry

Response = TypeVar("Response", bound=Message)


class Connection:
    """A channel to one service. It connects when it is first used, and reconnects by itself."""

    default_target: ClassVar[str]
    target_variable: ClassVar[str]
    token_variable: ClassVar[str]
    repeatable: ClassVar[Sequence[str]]
    """The methods that gRPC repeats by itself if a server is unavailable."""

    def __init__(
        self,
        target: str = "",
        *,
        timeout: float = 30.0,
        retry_seconds: float = 5.0,
        tls: ClientTls | None = None,
        token: str = "",
    ) -> None:
        """Open a channel.

        Args:
            target: HOST:PORT, or a gRPC name such as "dns:///search:50052"; calls go to its addresses in turn. By
                default the service that `make up` starts.
            timeout: seconds for a call, with all its attempts. Streams have no time limit.
            retry_seconds: how long a call is repeated while the service asks to try again later; 0 never repeats.
            tls: the files for TLS; None connects in plain text.
            token: sent with each call; it requires TLS.

        Raises CredentialsError if a file of `tls` cannot be used.
        """
        self.target = target or self.default_target
        self._timeout = timeout
        self._retry_seconds = retry_seconds
        self._channel: grpc.Channel = open_blocking_channel(
            self.target, MAX_MESSAGE_BYTES, self.repeatable, tls=tls, token=token
        )

    @classmethod
    def from_env(cls, *, timeout: float = 30.0, retry_seconds: float = 5.0) -> Self:
        """Return a client with the settings of the environment variables, which the `imagesearch` command reads too.

        IMAGESEARCH_TARGET or, for the embedder, IMAGESEARCH_EMBEDDER is the target. IMAGESEARCH_TOKEN or
        IMAGESEARCH_EMBEDDER_TOKEN is the token. IMAGESEARCH_TLS=true turns on TLS; so do the files IMAGESEARCH_CA,
        IMAGESEARCH_CERTIFICATE and IMAGESEARCH_KEY.

        Raises ValueError for variables that contradict each other, and CredentialsError.
        """
        if problems := tls_problems(os.environ):
            raise ValueError("; ".join(problems))
        return cls(
            os.environ.get(cls.target_variable, ""),
            timeout=timeout,
            retry_seconds=retry_seconds,
            tls=tls_from_environment(),
            token=os.environ.get(cls.token_variable, ""),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def is_serving(self) -> bool:
        """Return whether the service reports that it can answer calls. Raises ServiceError if it does not answer."""
        with service_errors():
            return is_serving(self._channel, self._timeout)

    def _call(
        self,
        method: Callable[..., Response],
        request: Message,
        should_retry: Callable[[Exception], bool] | None = None,
    ) -> Response:
        """Return the response of a method, repeated within the retry budget. Raises ServiceError.

        Args:
            method: a method of a stub that takes one request and returns one response.
            request: its request.
            should_retry: whether an error allows another attempt; by default `is_refusal`.
        """
        until = time.monotonic() + self._timeout

        def attempt() -> Response:
            with service_errors():
                return method(request, timeout=until - time.monotonic())

        def may_repeat(error: Exception) -> bool:
            pause = getattr(error, "retry_after", None) or FIRST_PAUSE
            # The next attempt needs time too, or its error would only say that the time is over.
            return (should_retry or is_refusal)(error) and time.monotonic() + 2 * pause < until

        return retry(attempt, self._retry_seconds, may_repeat)


def is_refusal(error: Exception) -> bool:
    """Return whether the service refused a call before it did anything, and named the time of the next attempt."""
    return isinstance(error, ResourceExhaustedError) and error.retry_after is not None


def asks_to_wait(error: Exception) -> bool:
    """Return whether an error names the time of the next attempt: for calls that are safe to repeat."""
    return isinstance(error, ServiceError) and error.retry_after is not None


@contextmanager
def service_errors() -> Iterator[None]:
    """Raise a ServiceError instead of gRPC's error."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from None
