"""Streams that are answered item by item."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from grpc_kit.errors import clear_cancelled
from grpc_kit.server.budget import Budget, Limit, Place

Request = TypeVar("Request")
Response = TypeVar("Response")


@dataclass(frozen=True)
class AnswerSizes(Generic[Request, Response]):
    """Bounds the answers of a stream that its caller has not read, in bytes."""

    limit: int
    """A request starts only while the unread answers, with those that are being made, have at most this many bytes."""
    expected: Callable[[Request], int]
    """The estimated bytes of the answer to a request."""
    measured: Callable[[Response], int]
    """The bytes of an answer."""


def _call(leave: Callable[[], None], _: object) -> None:
    leave()


async def answer_each(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Awaitable[Response]],
    window: int,
    admit: Callable[[Request], Awaitable[Callable[[], None]]],
    sizes: AnswerSizes[Request, Response] | None = None,
) -> AsyncGenerator[Response, None]:
    """Answers every request, at most `window` of them at a time, each as soon as its answer is there.

    Args:
        requests: are read one by one.
        answer: gives the answer to one.
        window: a request counts until its answer was taken, so that a caller that sends and does not read is held by
            flow control.
        admit: is asked before a request is answered; while it waits no further one is read. What it gives is called
            when the answer is there, or will not come.
        sizes: bounds the answers that the caller has not read; None does not.

    An exception of any of them ends the stream; answers that were under way are cancelled.
    """
    unread = Budget(Limit(window, sizes.limit if sizes else 0))
    answered: asyncio.Queue[tuple[Response, Place] | None] = asyncio.Queue()

    async def answer_one(request: Request, place: Place) -> None:
        response = await answer(request)
        if sizes is not None:
            place.resize(sizes.measured(response))
        answered.put_nowait((response, place))

    async def read_all() -> None:
        async with asyncio.TaskGroup() as tasks:
            async for request in requests:
                place = await unread.wait(sizes.expected(request) if sizes else 0)
                # After that: a caller that does not read its answers must not hold what all share.
                leave = await admit(request)
                task = tasks.create_task(answer_one(request, place))
                # Not in the task itself: one that is cancelled before it began runs nothing at all.
                task.add_done_callback(clear_cancelled)
                task.add_done_callback(partial(_call, leave))
                # It may be large, and the next one may not come for long.
                del request

    reader = asyncio.create_task(read_all())
    # The requests of a caller that has left must not stay in memory.
    reader.add_done_callback(clear_cancelled)
    # None is the end: the queue's last item, whether the reader finished or failed.
    reader.add_done_callback(lambda _: answered.put_nowait(None))
    try:
        while (taken := await answered.get()) is not None:
            yield taken[0]
            taken[1].leave()
            del taken
        try:
            await reader
        except ExceptionGroup as group:
            # The first failure; the others came of it.
            raise group.exceptions[0] from None
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
