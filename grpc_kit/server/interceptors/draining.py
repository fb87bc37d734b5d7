"""Drains a server that stops: it answers the requests that streams have read, and reads no more."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc

from grpc_kit.errors import UnavailableError
from grpc_kit.server.interceptors import open_streams
from grpc_kit.server.interceptors.context_interceptor import Call, Context, ContextInterceptor, Handler

RETRY_AFTER = 1.0
# Seconds in which a call that gRPC has accepted reaches its servicer.
SETTLE_SECONDS = 0.1
# Seconds in which the caller of a stream receives its end and stops sending.
END_OF_STREAM_SECONDS = 0.5


class CallsInFlight(ContextInterceptor):
    """Counts the calls in flight. It is the outermost interceptor, so that a call counts until its error was sent."""

    def __init__(self) -> None:
        """Start without calls."""
        super().__init__()
        self._count = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._progress = asyncio.Event()

    async def ended(self) -> None:
        """Wait until no call is in flight and no accepted call is about to start."""
        while True:
            await self._is_idle.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            if not self._count:
                return

    def note_progress(self) -> None:
        """Note that a call began or ended, or that a stream made progress."""
        self._progress.set()

    async def wait_for_progress(self) -> None:
        """Wait until there is progress since the last return of this method. Only one caller may wait."""
        await self._progress.wait()
        self._progress.clear()

    @asynccontextmanager
    async def around(self, call: Call, context: Context) -> AsyncIterator[None]:
        """Count the call."""
        self._count += 1
        self._is_idle.clear()
        self.note_progress()
        try:
            yield
        finally:
            self._count -= 1
            self.note_progress()
            if not self._count:
                self._is_idle.set()


class StreamDraining(ContextInterceptor):
    """Ends bidirectional streams between two requests when the server stops, with an error for their callers."""

    def __init__(self, note_progress: Callable[[], None]) -> None:
        """Start in normal operation. `note_progress` is called after each response of a stream."""
        super().__init__()
        self._note_work = note_progress
        self._begun = asyncio.Event()
        self._streams: set[asyncio.Event] = set()

    def begin(self) -> None:
        """Start draining: no stream reads another request."""
        self._begun.set()

    async def wait_for_streams(self) -> None:
        """Wait until all streams have ended and their callers have received that.

        If a connection is closed while the caller still sends, the caller loses the responses that it has not read.
        """
        if streams := list(self._streams):
            for ended in streams:
                await ended.wait()
            await asyncio.sleep(END_OF_STREAM_SECONDS)

    def _single(self, handler: Handler, call: Call) -> Handler:
        return handler

    def _streaming(self, handler: Handler, call: Call) -> Handler:
        if not handler.request_streaming:
            return handler
        behaviour: Any = handler.stream_stream

        async def answer(_: AsyncIterator[Any], context: Context) -> AsyncGenerator[Any, None]:
            is_incomplete = asyncio.Event()
            async with (
                self._tracked(),
                aclosing(self._requests_until_drain(context, is_incomplete)) as some,
                aclosing(behaviour(some, context)) as responses,
            ):
                stream = open_streams.current.get(None) or open_streams.OpenStream()
                try:
                    async for response in responses:
                        stream.note_response_start()
                        yield response
                        stream.note_response_end()
                        self._note_work()
                except asyncio.CancelledError:
                    if stream.evicted and (task := asyncio.current_task()):
                        task.uncancel()
                        raise stream.eviction() from None
                    raise
            if is_incomplete.is_set():
                raise UnavailableError(
                    "STOPPING",
                    "the server is stopping; repeat the requests without a response",
                    retry_after=RETRY_AFTER,
                )

        return grpc.stream_stream_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)

    @asynccontextmanager
    async def _tracked(self) -> AsyncIterator[None]:
        ended = asyncio.Event()
        self._streams.add(ended)
        try:
            yield
        finally:
            self._streams.discard(ended)
            ended.set()

    async def _requests_until_drain(self, context: Context, is_incomplete: asyncio.Event) -> AsyncGenerator[Any, None]:
        """Yield requests until draining begins. Sets `is_incomplete` if the caller may have sent more.

        It holds no request after yielding it. gRPC's own iterator holds each request until the next one arrives.
        """
        stream = open_streams.current.get(None) or open_streams.OpenStream()
        begun = asyncio.ensure_future(self._begun.wait())
        reading: asyncio.Task[Any] | None = None
        try:
            while True:
                reading = asyncio.create_task(_read(context))
                await asyncio.wait({reading, begun}, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    is_incomplete.set()
                    return
                read, reading = [reading.result()], None
                stream.note_request()
                if read[0] is grpc.aio.EOF:
                    return
                yield read.pop()
        finally:
            # A pending read would use the call after its end.
            left = [task for task in (reading, begun) if task is not None]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)


async def _read(context: Context) -> Any:
    return await context.read()
