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
            cut_short = asyncio.Event()
            async with (
                aclosing(self._until_begun(requests, cut_short)) as some,
                aclosing(behaviour(some, context)) as responses,
            ):
                async for response in responses:
                    yield response
            if cut_short.is_set():
                raise UnavailableError(
                    "STOPPING", "the server is stopping; send again what was not answered", retry_after=RETRY_AFTER
                )

        return grpc.stream_stream_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)

    async def _until_begun(self, requests: AsyncIterator[Any], cut_short: asyncio.Event) -> AsyncGenerator[Any, None]:
        """The requests until draining begins; `cut_short` is set where there may have been more."""
        begun = asyncio.ensure_future(self._begun.wait())
        request: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        iterator = aiter(requests)
        try:
            while True:
                request = asyncio.ensure_future(anext(iterator, _END))
                await asyncio.wait({request, begun}, return_when=asyncio.FIRST_COMPLETED)
                if not request.done():
                    cut_short.set()
                    return
                if request.result() is _END:
                    return
                yield request.result()
        finally:
            # A read that is left behind would go on to use the call after its end.
            request.cancel()
            begun.cancel()
            await asyncio.gather(request, begun, return_exceptions=True)


_END = object()
