"""Threads that decode images, one pool for each lane."""

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from embedder_service.core.held_image import Hold
from embedder_service.core.types import EncodedImage
from grpc_kit.errors import clear_frames
from grpc_kit.server.hang_watch import HangWatch
from grpc_kit.server.wait_queue import WaitQueue

Result = TypeVar("Result")


class DecodeThreads:
    """Reads the images of one lane in threads. A free thread goes to the model that got one longest ago.

    Each model's images are read in order of arrival. An image is submitted to the executor only when a thread is free:
    the executor's own queue would keep the images of callers that have left. All methods belong to one event loop.
    """

    def __init__(
        self, executor: Executor, threads: int, watch: HangWatch | None = None, seconds: float = math.inf
    ) -> None:
        """Start with all threads free.

        Args:
            executor: owns the threads; nothing else uses it.
            threads: the number of its threads.
            watch: detects threads that hang; None detects none.
            seconds: the time after which reading one image counts as hung.
        """
        self._executor = executor
        self._free = threads
        self._watch = watch or HangWatch()
        self._seconds = seconds
        self._granted = 0
        # The number of the last grant, by model.
        self._last_granted: dict[str, int] = {}
        self._pending: WaitQueue[str] = WaitQueue(self._choose, self._release)

    async def run(self, model: str, hold: Hold, read: Callable[[EncodedImage], Result]) -> Result:
        """Call `read` for an image in a thread, and return its result. Raises its errors, and HungError.

        If the caller leaves before a thread is free, the image is not read. A read that has begun continues to its
        end, and holds the bytes until then.
        """
        self._watch.refuse_if_hung()
        await self._pending.acquire(model, self._watch.wait_for)
        own_hold, loop = hold.copy(), asyncio.get_running_loop()

        def ended() -> None:
            own_hold.release()
            self._release(model)

        try:
            job = self._executor.submit(
                self._watch.watched, "the reading of an image", self._seconds, _read, [own_hold.image], read
            )
        except BaseException:
            ended()
            raise
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(ended))
        result = asyncio.wrap_future(job)
        result.add_done_callback(_retrieve)
        return await self._watch.wait_for(asyncio.shield(result))

    def _choose(self, models: Sequence[str]) -> int | None:
        if not self._free:
            return None
        self._free -= 1
        position = min(range(len(models)), key=lambda index: self._last_granted.get(models[index], 0))
        self._granted += 1
        self._last_granted[models[position]] = self._granted
        return position

    def _release(self, _: str) -> None:
        self._free += 1
        self._pending.grant()


def _retrieve(result: "asyncio.Future[Result]") -> None:
    # If the caller has left, nothing else retrieves the error, and asyncio would log it.
    if not result.cancelled():
        result.exception()


def _read(only_image: list[EncodedImage], read: Callable[[EncodedImage], Result]) -> Result:
    # The executor keeps a job's arguments for longer than the job. So the list is emptied.
    image = only_image.pop()
    try:
        return read(image)
    except BaseException as error:
        # The frames of the error also hold the image.
        clear_frames(error)
        raise
    finally:
        del image
