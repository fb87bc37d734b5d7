"""Ends streams when the server stops: what was read is answered, nothing more is read, and the caller is told."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc

from grpc_kit.errors import UnavailableError
from grpc_kit.interceptors.around import Context, Handler

RETRY_AFTER = 1.0


class Draining(grpc.aio.ServerInterceptor):
    """Lets streams that are answered item by item end between two items."""

    def __init__(self) -> None:
        """Does nothing until `begin`."""
        self._begun = asyncio.Event()

    def begin(self) -> None:
        """From now on no stream reads a further request."""
        self._begun.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wraps the handler of one call."""
        handler = await continuation(handler_call_details)
        streams = handler is not None and handler.request_streaming and handler.response_streaming
        if handler is None or not streams or str(handler_call_details.method).startswith("/grpc."):
            return handler
        behaviour: Any = handler.stream_stream

        async def answer(requests: AsyncIterator[Any], context: Context) -> AsyncGenerator[Any, None]:
            async with aclosing(self._until_begun(requests)) as some:
                responses = behaviour(some, context)
                async with aclosing(responses):
                    async for response in responses:
                        yield response
            if self._begun.is_set():
                raise UnavailableError(
                    "STOPPING", "the server is stopping; send again what was not answered", retry_after=RETRY_AFTER
                )

        return grpc.stream_stream_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)

    async def _until_begun(self, requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        begun = asyncio.ensure_future(self._begun.wait())
        iterator = aiter(requests)
        try:
            while True:
                request = asyncio.ensure_future(anext(iterator, _END))
                await asyncio.wait({request, begun}, return_when=asyncio.FIRST_COMPLETED)
                if not request.done():
                    request.cancel()
                    return
                if request.result() is _END:
                    return
                yield request.result()
        finally:
            begun.cancel()


_END = object()
