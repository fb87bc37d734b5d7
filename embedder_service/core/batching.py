"""Gathers single images into batches for a network that runs one batch at a time.

There is no timer: whenever the network is free it takes what is waiting, up to its batch limit. So an image never waits
for others to come, and batches grow just while the network is busy. Two lanes: interactive images go first, and bulk
images are kept a share of each batch, so that neither starves the other.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import structlog

from embedder_service.core.types import Lane, Pixels, Vectors
from grpc_kit.deadline import Deadline
from grpc_kit.errors import DeadlineExceededError, InternalError, UnavailableError

log = structlog.stdlib.get_logger()


@dataclass
class Waiting:
    """One image that waits for its turn."""

    pixels: Pixels
    deadline: Deadline
    vector: "asyncio.Future[Vectors]"


class Batcher:
    """Runs a network on what callers submit. All methods belong to one event loop."""

    def __init__(
        self, run: Callable[[Pixels], Vectors], max_batch_size: int, executor: Executor, bulk_share: float = 0.25
    ) -> None:
        """Makes the batcher; `start` sets it to work.

        Args:
            run: uint8[N, S, S, 3] to float32[N, D]; it blocks, and is called in `executor`, one call at a time.
            max_batch_size: the largest N.
            executor: what `run` is called in.
            bulk_share: the part of a batch that bulk images get while interactive ones wait, in 0..1.
        """
        self._run = run
        self._max_batch_size = max_batch_size
        self._executor = executor
        self._bulk_slots = max(1, math.ceil(max_batch_size * bulk_share))
        self._lanes: dict[Lane, deque[Waiting]] = {lane: deque() for lane in Lane}
        self._arrived = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to take images."""
        self._worker = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Stops; what still waits is refused with UnavailableError."""
        if self._worker:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for lane in self._lanes.values():
            while lane:
                waiting = lane.popleft()
                if not waiting.vector.done():
                    waiting.vector.set_exception(
                        UnavailableError("STOPPING", "the server is stopping", retry_after=1.0)
                    )

    async def submit(self, pixels: Pixels, lane: Lane, deadline: Deadline) -> Vectors:
        """Waits for the vector of one image, uint8[S, S, 3] to float32[D].

        Raises DeadlineExceededError where the deadline passes before its turn comes. A cancelled caller's image is
        dropped when its turn comes, and costs nothing.
        """
        waiting = Waiting(pixels, deadline, asyncio.get_running_loop().create_future())
        self._lanes[lane].append(waiting)
        self._arrived.set()
        return await waiting.vector

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            batch = self._take()
            if batch:
                await self._answer(batch)
            else:
                self._arrived.clear()

    def _take(self) -> list[Waiting]:
        """The next batch: interactive first, some slots kept for bulk, and what is left over for either."""
        interactive, bulk = self._lanes[Lane.INTERACTIVE], self._lanes[Lane.BULK]
        reserved = min(self._bulk_slots, len(bulk)) if self._max_batch_size > 1 else 0
        batch = self._take_from(interactive, self._max_batch_size - reserved)
        batch += self._take_from(bulk, self._max_batch_size - len(batch))
        return batch + self._take_from(interactive, self._max_batch_size - len(batch))

    @staticmethod
    def _take_from(lane: deque[Waiting], most: int) -> list[Waiting]:
        taken: list[Waiting] = []
        while lane and len(taken) < most:
            waiting = lane.popleft()
            if waiting.vector.done():
                continue
            if waiting.deadline.remaining() <= 0:
                waiting.vector.set_exception(
                    DeadlineExceededError(
                        "DEADLINE_EXCEEDED", "the deadline passed while the image waited for its turn"
                    )
                )
                continue
            taken.append(waiting)
        return taken

    async def _answer(self, batch: list[Waiting]) -> None:
        """Runs a batch; where that fails, its halves, until the image at fault stands alone."""
        loop = asyncio.get_running_loop()
        pixels = np.stack([waiting.pixels for waiting in batch])
        try:
            vectors = await loop.run_in_executor(self._executor, self._run, pixels)
        except Exception as error:
            log.exception("a batch failed", size=len(batch))
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._answer(batch[:middle])
                await self._answer(batch[middle:])
            elif not batch[0].vector.done():
                failure = InternalError(
                    "INFERENCE_FAILED", "the network failed on this image; the server's log says why"
                )
                failure.__cause__ = error
                batch[0].vector.set_exception(failure)
            return
        for waiting, vector in zip(batch, vectors, strict=True):
            if not waiting.vector.done():
                waiting.vector.set_result(vector)
