"""Streams that are answered item by item."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

Request = TypeVar("Request")
Response = TypeVar("Response")


async def answer_each(
    requests: AsyncIterator[Request], answer: Callable[[Request], Awaitable[Response]], window: int
) -> AsyncGenerator[Response, None]:
    """Answers every request, at most `window` of them at a time, each as soon as its answer is there.

    A request counts until its answer was taken, so a caller that sends and does not read is held by flow control.
    An exception of `answer` or of `requests` ends the stream; answers that were under way are cancelled.
    """
    free = asyncio.Semaphore(window)
    answered: asyncio.Queue[Response | None] = asyncio.Queue()

    async def answer_one(request: Request) -> None:
        answered.put_nowait(await answer(request))

    async def read_all() -> None:
        async with asyncio.TaskGroup() as tasks:
            async for request in requests:
                await free.acquire()
                tasks.create_task(answer_one(request))

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
