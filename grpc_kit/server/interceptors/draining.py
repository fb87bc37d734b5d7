"""Ends streams when the server stops: what was read is answered, nothing more is read, and the caller is told."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc

from grpc_kit.errors import UnavailableError
from grpc_kit.server.interceptors import open_streams
from grpc_kit.server.interceptors.around import AroundCalls, Call, Context, Handler

RETRY_AFTER = 1.0
# Seconds in which a call that gRPC has accepted reaches its servicer.
SETTLE_SECONDS = 0.1
# Seconds in which the caller of a stream that was cut short reads that, and sends no more.
HEAR_SECONDS = 0.5


class UnderWay(AroundCalls):
    """Counts calls in flight. The outermost interceptor, so that it also waits until an error has ended its call."""

    def __init__(self) -> None:
        """Counts from now on."""
        super().__init__()
        self._under_way = 0
        self._none_under_way = asyncio.Event()
        self._none_under_way.set()
        self._worked = asyncio.Event()

    async def ended(self) -> None:
        """Waits until no call is under way, and none has begun that was on its way in."""
        while True:
            await self._none_under_way.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            if not self._under_way:
                return

    def note_work(self) -> None:
        """Let `worked` return: a call began or ended, or a stream made progress."""
        self._worked.set()

    async def worked(self) -> None:
        """Wait until there was work since the last return of this method. Only one caller may wait."""
        await self._worked.wait()
        self._worked.clear()

    @asynccontextmanager
    async def around(self, call: Call, context: Context) -> AsyncIterator[None]:
        """Counts the call."""
        self._under_way += 1
        self._none_under_way.clear()
        self.note_work()
        try:
            yield
        finally:
            self._under_way -= 1
            self.note_work()
            if not self._under_way:
                self._none_under_way.set()


class Draining(AroundCalls):
    """Lets streams that are answered item by item end between two items, and tells their callers."""

    def __init__(self, note_work: Callable[[], None]) -> None:
        """Do nothing until `begin`; `note_work` is called after each response of a stream."""
        super().__init__()
        self._note_work = note_work
        self._begun = asyncio.Event()
        self._streams: set[asyncio.Event] = set()

    def begin(self) -> None:
        """From now on no stream reads a further request."""
        self._begun.set()

    async def heard(self) -> None:
        """Waits until the streams that are under way have ended, and their callers have heard of it.

        A connection that is closed while its caller still sends takes with it what the caller has not read yet.
        """
        if streams := list(self._streams):
            for ended in streams:
                await ended.wait()
            await asyncio.sleep(HEAR_SECONDS)

    def _single(self, handler: Handler, call: Call) -> Handler:
        return handler

    def _streaming(self, handler: Handler, call: Call) -> Handler:
        if not handler.request_streaming:
            return handler
        behaviour: Any = handler.stream_stream

        async def answer(_: AsyncIterator[Any], context: Context) -> AsyncGenerator[Any, None]:
            cut_short = asyncio.Event()
            async with (
                self._noted(),
                aclosing(self._until_begun(context, cut_short)) as some,
                aclosing(behaviour(some, context)) as responses,
            ):
                stream = open_streams.current.get(None) or open_streams.OpenStream()
                try:
                    async for response in responses:
                        stream.writes()
                        yield response
                        stream.wrote()
                        self._note_work()
                except asyncio.CancelledError:
                    if stream.evicted and (task := asyncio.current_task()):
                        task.uncancel()
                        raise stream.eviction() from None
                    raise
            if cut_short.is_set():
                raise UnavailableError(
                    "STOPPING", "the server is stopping; send again what was not answered", retry_after=RETRY_AFTER
                )

        return grpc.stream_stream_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)

    @asynccontextmanager
    async def _noted(self) -> AsyncIterator[None]:
        ended = asyncio.Event()
        self._streams.add(ended)
        try:
            yield
        finally:
            self._streams.discard(ended)
            ended.set()

    async def _until_begun(self, context: Context, cut_short: asyncio.Event) -> AsyncGenerator[Any, None]:
        """The requests until draining begins; `cut_short` is set where there may have been more.

        It keeps no request that it has given: gRPC's own iterator would keep each until the next one is there.
        """
        stream = open_streams.current.get(None) or open_streams.OpenStream()
        begun = asyncio.ensure_future(self._begun.wait())
        reading: asyncio.Task[Any] | None = None
        try:
            while True:
                reading = asyncio.create_task(_read(context))
                await asyncio.wait({reading, begun}, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    cut_short.set()
                    return
                read, reading = [reading.result()], None
                stream.was_read()
                if read[0] is grpc.aio.EOF:
                    return
                yield read.pop()
        finally:
            # A read that is left behind would go on to use the call after its end.
            left = [task for task in (reading, begun) if task is not None]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)


async def _read(context: Context) -> Any:
    return await context.read()
