"""Streams that are answered item by item."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeVar

Request = TypeVar("Request")
Response = TypeVar("Response")


def _call(leave: Callable[[], None], _: object) -> None:
    leave()


async def answer_each(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Awaitable[Response]],
    window: int,
    admit: Callable[[Request], Awaitable[Callable[[], None]]],
) -> AsyncGenerator[Response, None]:
    """Answers every request, at most `window` of them at a time, each as soon as its answer is there.

    Args:
        requests: are read one by one.
        answer: gives the answer to one.
        window: a request counts until its answer was taken, so that a caller that sends and does not read is held by
            flow control.
        admit: is asked before a request is answered; while it waits no further one is read. What it gives is called
            when the answer is there, or will not come.

    An exception of any of them ends the stream; answers that were under way are cancelled.
    """
    free = asyncio.Semaphore(window)
    answered: asyncio.Queue[Response | None] = asyncio.Queue()

    async def answer_one(request: Request) -> None:
        answered.put_nowait(await answer(request))

    async def read_all() -> None:
        async with asyncio.TaskGroup() as tasks:
            async for request in requests:
                await free.acquire()
                leave = await admit(request)
                task = tasks.create_task(answer_one(request))
                # Not in the task itself: one that is cancelled before it began runs nothing at all.
                task.add_done_callback(partial(_call, leave))

    reader = asyncio.create_task(read_all())
    # None is the end: the queue's last item, whether the reader finished or failed.
    reader.add_done_callback(lambda _: answered.put_nowait(None))
    try:
        while (response := await answered.get()) is not None:
            yield response
            free.release()
        try:
            await reader
        except ExceptionGroup as group:
            # The first failure; the others came of it.
            raise group.exceptions[0] from None
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
