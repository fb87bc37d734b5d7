"""Bidirectional streams with one response for each request."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from grpc_kit.errors import clear_cancelled
from grpc_kit.server.budget import Budget, Limit, Reservation

Request = TypeVar("Request")
Response = TypeVar("Response")


@dataclass(frozen=True)
class ResponseSizes(Generic[Request, Response]):
    """Bounds the bytes of the responses that the caller of a stream has not read."""

    limit: int
    """Maximum bytes of unread and pending responses. At the maximum, no further request starts."""
    expected: Callable[[Request], int]
    """Returns the estimated bytes of the response to a request."""
    measured: Callable[[Response], int]
    """Returns the bytes of a response."""


def _call(release: Callable[[], None], _: object) -> None:
    release()


async def answer_each(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Awaitable[Response]],
    window: int,
    admit: Callable[[Request], Awaitable[Callable[[], None]]],
    sizes: ResponseSizes[Request, Response] | None = None,
) -> AsyncGenerator[Response, None]:
    """Answer every request of a stream, up to `window` at a time. Yield each response as soon as it is ready.

    Args:
        requests: the requests; they are read one by one.
        answer: returns the response to a request.
        window: maximum number of requests in flight. A request counts until its response was read, so that flow control
            stops a caller that sends and does not read.
        admit: waits until a request may start, and returns a callback that releases its slot. While it waits, no
            further request is read. The callback is called when the request has ended, also if it failed.
        sizes: bounds the bytes of unread responses; None sets no bound.

    An exception of an argument ends the stream and cancels the requests in flight.
    """
    unread = Budget(Limit(window, sizes.limit if sizes else 0))
    answered: asyncio.Queue[tuple[Response, Reservation] | None] = asyncio.Queue()

    async def answer_one(request: Request, reservation: Reservation) -> None:
        response = await answer(request)
        if sizes is not None:
            reservation.resize(sizes.measured(response))
        answered.put_nowait((response, reservation))

    async def read_all() -> None:
        async with asyncio.TaskGroup() as tasks:
            async for request in requests:
                reservation = await unread.wait(sizes.expected(request) if sizes else 0)
                # Only now: a caller that does not read its responses must not hold a slot that all callers share.
                release = await admit(request)
                task = tasks.create_task(answer_one(request, reservation))
                # A callback and no code of the task: a task that is cancelled before it starts runs no code.
                task.add_done_callback(clear_cancelled)
                task.add_done_callback(partial(_call, release))
                # The request may be large, and the next one may arrive much later.
                del request

    reader = asyncio.create_task(read_all())
    # If the caller cancels, its requests must not stay in memory.
    reader.add_done_callback(clear_cancelled)
    # None marks the end of the queue, whether the reader finished or failed.
    reader.add_done_callback(lambda _: answered.put_nowait(None))
    try:
        while (taken := await answered.get()) is not None:
            yield taken[0]
            taken[1].release()
            del taken
        try:
            await reader
        except ExceptionGroup as group:
            # The first exception; it caused the others.
            raise group.exceptions[0] from None
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
