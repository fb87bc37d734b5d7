"""Puts a context manager round each call of a server, whatever the kind of the call is."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, TypeAlias

import grpc

# Requests and responses are of any message type here.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class AroundCalls(grpc.aio.ServerInterceptor):
    """An interceptor that is written as one context manager.

    Calls to gRPC's own services (health, reflection) pass untouched.
    """

    def around(self, method: str, context: Context) -> AbstractAsyncContextManager[None]:
        """What is round the call of `method`, a full name such as "/package.Service/Method"."""
        raise NotImplementedError

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wraps the handler of one call."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or method.startswith("/grpc."):
            return handler
        return self._streaming(handler, method) if handler.response_streaming else self._single(handler, method)

    def _single(self, handler: Handler, method: str) -> Handler:
        behaviour: Any = handler.stream_unary if handler.request_streaming else handler.unary_unary

        async def answer(request: Any, context: Context) -> Any:
            async with self.around(method, context):
                return await behaviour(request, context)

        make = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
        return make(answer, handler.request_deserializer, handler.response_serializer)

    def _streaming(self, handler: Handler, method: str) -> Handler:
        behaviour: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def answer(request: Any, context: Context) -> AsyncGenerator[Any, None]:
            async with self.around(method, context), aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response

        make = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        return make(answer, handler.request_deserializer, handler.response_serializer)
