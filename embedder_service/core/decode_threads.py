"""Threads that read images, one pool for each lane."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from embedder_service.core.held_image import Hold
from embedder_service.core.types import EncodedImage
from grpc_kit.errors import clear_frames
from grpc_kit.server.hang_watch import HangWatch

Result = TypeVar("Result")


class DecodeThreads:
    """Reads the images of one lane in threads. Models take turns; each model's images are read in order of arrival.

    A job is submitted only when a thread is free. So images wait here and not in the executor, whose queue would keep
    the images of callers that have left. All methods belong to one event loop.
    """

    def __init__(
        self, executor: Executor, threads: int, watch: HangWatch | None = None, seconds: float = math.inf
    ) -> None:
        """Start with all threads free.

        Args:
            executor: has the threads; nothing else uses it.
            threads: the number of its threads.
            watch: detects threads that hang; None detects none.
            seconds: the limit after which reading one image counts as hung.
        """
        self._executor = executor
        self._free = threads
        self._watch = watch or HangWatch()
        self._seconds = seconds
        # Models in the order of their turns.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def run(self, model: str, hold: Hold, read: Callable[[EncodedImage], Result]) -> Result:
        """Return the result of `read` for an image, called in a thread. Raises its errors, and HungError.

        A caller that leaves before a thread is free costs nothing. A job that has begun runs to its end, and holds the
        bytes until then.
        """
        await self._acquire(model)
        mine, loop = hold.copy(), asyncio.get_running_loop()

        def ended(_: object = None) -> None:
            mine.release()
            self._release()

        try:
            job = self._executor.submit(
                self._watch.watched, "the reading of an image", self._seconds, _read, [mine.image], read
            )
        except BaseException:
            ended()
            raise
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(ended))
        result = asyncio.wrap_future(job)
        result.add_done_callback(_retrieve)
        return await self._watch.wait_for(asyncio.shield(result))

    async def _acquire(self, model: str) -> None:
        self._watch.refuse_if_hung()
        if self._free:
            self._free -= 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(model, deque()).append(waiter)
        try:
            await self._watch.wait_for(waiter)
        except BaseException:
            if waiter.cancelled():
                self._forget(model, waiter)
            else:
                self._release()
            raise

    def _forget(self, model: str, waiter: "asyncio.Future[None]") -> None:
        waiters = self._waiting.get(model, deque())
        if waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiting[model]

    def _release(self) -> None:
        while self._waiting:
            model = next(iter(self._waiting))
            waiters = self._waiting.pop(model)
            waiter = waiters.popleft()
            if waiters:
                # Behind the other models.
                self._waiting[model] = waiters
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1


def _retrieve(result: "asyncio.Future[Result]") -> None:
    # If the caller has left, nothing else retrieves the error.
    if not result.cancelled():
        result.exception()


def _read(image_only: list[EncodedImage], read: Callable[[EncodedImage], Result]) -> Result:
    # The executor keeps the arguments of a job for longer than the job.
    image = image_only.pop()
    try:
        return read(image)
    except BaseException as error:
        # Its frames also hold the image.
        clear_frames(error)
        raise
    finally:
        del image
