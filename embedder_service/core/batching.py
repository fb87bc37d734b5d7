"""Gathers single images into batches for a network that runs one batch at a time.

There is no timer: whenever the network is free it takes what is waiting, up to its batch limit. So an image never waits
for others to come, and batches grow just while the network is busy. Two lanes: interactive images go first, and bulk
images are kept a share of each batch, so that neither starves the other.
"""

import asyncio
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
            bulk_share: the part of the slots that bulk images get while interactive ones wait, in 0..1.
        """
        self._run = run
        self._max_batch_size = max_batch_size
        self._executor = executor
        self._bulk_share = bulk_share
        # What bulk images are owed of the slots that interactive ones took before them; at 1 it is their turn.
        self._bulk_credit = 0.0
        self._interactive: deque[Waiting] = deque()
        self._bulk: deque[Waiting] = deque()
        self._arrived = asyncio.Event()
        self._stopping = False
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to take images."""
        self._worker = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Finishes the batch in hand; what still waits, and what comes later, is refused with UnavailableError."""
        self._stopping = True
        self._arrived.set()
        if self._worker is not None:
            await self._worker
        for waiting in (*self._interactive, *self._bulk):
            if not waiting.vector.done():
                waiting.vector.set_exception(_stopping())
        self._interactive.clear()
        self._bulk.clear()

    async def submit(self, pixels: Pixels, lane: Lane, deadline: Deadline) -> Vectors:
        """Waits for the vector of one image, uint8[S, S, 3] to float32[D].

        Raises DeadlineExceededError where the deadline passes before its turn comes. A cancelled caller's image is
        dropped when its turn comes, and costs nothing.
        """
        if self._stopping:
            raise _stopping()
        waiting = Waiting(pixels, deadline, asyncio.get_running_loop().create_future())
        (self._interactive if lane is Lane.INTERACTIVE else self._bulk).append(waiting)
        self._arrived.set()
        return await waiting.vector

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            if self._stopping:
                return
            batch = self._take()
            if batch:
                await self._answer(batch)
            else:
                self._arrived.clear()

    def _take(self) -> list[Waiting]:
        """The next batch: interactive images before bulk ones, which get their share all the same."""
        batch: list[Waiting] = []
        while len(batch) < self._max_batch_size and (self._interactive or self._bulk):
            from_bulk = not self._interactive or (bool(self._bulk) and self._bulk_credit + self._bulk_share >= 1)
            waiting = (self._bulk if from_bulk else self._interactive).popleft()
            if not _still_wanted(waiting):
                continue
            batch.append(waiting)
            owed = 0.0 if from_bulk or not self._bulk else self._bulk_credit + self._bulk_share
            self._bulk_credit = owed
        return batch

    async def _answer(self, batch: list[Waiting]) -> None:
        """Runs a batch; where that fails, its halves, until the image at fault stands alone."""
        # Callers may have left while another half ran.
        batch = [waiting for waiting in batch if not waiting.vector.done()]
        if not batch:
            return
        try:
            pixels = np.stack([waiting.pixels for waiting in batch])
            vectors = await asyncio.get_running_loop().run_in_executor(self._executor, self._run, pixels)
            if len(vectors) != len(batch):
                raise RuntimeError(f"the network gave {len(vectors)} vectors for {len(batch)} images")
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


def _still_wanted(waiting: Waiting) -> bool:
    """Whether somebody still waits for the vector; tells the caller where its time is over."""
    if waiting.vector.done():
        return False
    if waiting.deadline.remaining() > 0:
        return True
    waiting.vector.set_exception(
        DeadlineExceededError("DEADLINE_EXCEEDED", "the deadline passed while the image waited for its turn")
    )
    return False


def _stopping() -> UnavailableError:
    return UnavailableError("STOPPING", "the server is stopping", retry_after=1.0)
