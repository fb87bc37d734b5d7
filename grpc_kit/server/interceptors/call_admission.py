"""Admits or refuses a call before its message is received."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc

from grpc_kit.errors import ServiceError
from grpc_kit.server.interceptors.context_interceptor import Context, Handler
from grpc_kit.server.interceptors.open_streams import OpenStreams
from grpc_kit.server.interceptors.tokens import Tokens
from grpc_kit.server.message_budget import overloaded

HEALTH = "/grpc.health."

_refusal: ContextVar[ServiceError] = ContextVar("refusal")


class CallAdmission(grpc.aio.ServerInterceptor):
    """Checks the token of a call, and limits the calls and streams of the process. Health calls are always admitted.

    gRPC receives the message of a call only after `intercept_service` has returned. A refused call gets a handler that
    ends it without reading anything.
    """

    def __init__(self, tokens: Tokens | None, max_calls: int, max_streams: int) -> None:
        """Create the interceptor of one server.

        Args:
            tokens: valid tokens; None admits every caller.
            max_calls: maximum number of calls in flight over all connections; another call is refused.
            max_streams: maximum number of streams among them; another stream waits for some seconds and is then
                refused.
        """
        self._tokens = tokens
        self._max_calls = max_calls
        self._calls = 0
        self._streams = OpenStreams(max_streams)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Return the method's handler, or one that refuses the call."""
        handler = await continuation(handler_call_details)
        if handler is None or str(handler_call_details.method).startswith(HEALTH):
            return handler
        try:
            if self._tokens is not None:
                self._tokens.check(handler_call_details.invocation_metadata)
            await self._admit(streams=handler.response_streaming)
        except ServiceError as error:
            _refusal.set(error)
            return _REFUSE_STREAM if handler.response_streaming else _REFUSE
        return handler

    async def _admit(self, *, streams: bool) -> None:
        if self._calls >= self._max_calls:
            raise overloaded(
                f"{self._calls} calls are in flight; the maximum is {self._max_calls}",
                max_concurrent_calls=self._max_calls,
            )
        # This task runs the whole call: it ends after the response was sent, also if the call never reaches its
        # servicer.
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - gRPC runs each call in a task
        self._calls += 1
        task.add_done_callback(self._leave)
        if streams:
            await self._streams.enter(task)

    def _leave(self, _: object) -> None:
        self._calls -= 1


async def _refuse(_: Any, __: Context) -> Any:
    raise _refusal.get()


async def _refuse_stream(_: Any, __: Context) -> AsyncIterator[Any]:
    raise _refusal.get()
    yield


# Both handlers take a stream of requests, because gRPC reads the requests of a stream only on demand.
_REFUSE: Handler = grpc.stream_unary_rpc_method_handler(_refuse)
_REFUSE_STREAM: Handler = grpc.stream_stream_rpc_method_handler(_refuse_stream)
