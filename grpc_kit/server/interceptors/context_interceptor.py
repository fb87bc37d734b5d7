"""An interceptor that wraps each call of a server in a context manager; unary calls and streams alike."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, closing
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

# Interceptors handle messages of any type.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@dataclass(frozen=True)
class Call:
    """The method of a call."""

    method: str
    """Full name, "/package.Service/Method"."""
    streams: bool
    """Whether the responses are a stream."""

    @property
    def service(self) -> str:
        """Return the service's full name."""
        return self.method.split("/")[1]

    @property
    def name(self) -> str:
        """Return the method's name."""
        return self.method.split("/")[-1]


class ContextInterceptor(grpc.aio.ServerInterceptor):
    """Base class of interceptors that need one context manager around each call."""

    untouched: str = "/grpc."
    """Prefix of the methods that are not wrapped: gRPC's own services (health, reflection)."""

    def __init__(self) -> None:
        """Create the interceptor of one server."""
        self._wrapped: dict[tuple[str, int], tuple[Handler, Handler]] = {}

    def around(self, call: Call, context: Context) -> AbstractAsyncContextManager[None]:
        """Return the context manager for a call."""
        raise NotImplementedError

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Return the wrapped handler of a method. Each handler is wrapped once, also one that refuses calls."""
        method = str(handler_call_details.method)
        handler = await continuation(handler_call_details)
        if handler is None or method.startswith(self.untouched):
            return handler
        if kept := self._wrapped.get((method, id(handler))):
            return kept[1]
        call = Call(method, handler.response_streaming)
        wrapped = self._streaming(handler, call) if handler.response_streaming else self._single(handler, call)
        # The handler is kept too, so that its id is not reused.
        self._wrapped[method, id(handler)] = handler, wrapped
        return wrapped

    def _single(self, handler: Handler, call: Call) -> Handler:
        behaviour: Any = handler.stream_unary if handler.request_streaming else handler.unary_unary

        async def answer(request: Any, context: Context) -> Any:
            with closing(behaviour(request, context)) as handling:
                # gRPC keeps the frames of a refused call until the next garbage collection.
                del request
                async with self.around(call, context):
                    return await handling

        make = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
        return make(answer, handler.request_deserializer, handler.response_serializer)

    def _streaming(self, handler: Handler, call: Call) -> Handler:
        behaviour: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def answer(request: Any, context: Context) -> AsyncGenerator[Any, None]:
            async with self.around(call, context), aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response

        make = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        return make(answer, handler.request_deserializer, handler.response_serializer)
