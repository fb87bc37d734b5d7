"""Gathers single images into batches for a network that runs one batch at a time.

There is no timer: whenever the network's turn comes it takes what is waiting, up to its batch limit. So an image never
waits for others to come, and batches grow just while the processors are busy. Two lanes: interactive images go first
and in batches of their own, and bulk images are kept a share of the slots, so that neither starves the other.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import structlog

from embedder_service.core.ports import Observer
from embedder_service.core.turns import Turns
from embedder_service.core.types import Lane, Pixels, Vectors
from grpc_kit.deadline import Clock
from grpc_kit.errors import DeadlineExceededError, InternalError, ServiceError, UnavailableError, out_of_memory
from grpc_kit.server import stages
from grpc_kit.server.hang_watch import HungError

log = structlog.stdlib.get_logger()


class TimeLeft(Protocol):
    """Somebody's patience, such as a Deadline."""

    def remaining(self) -> float:
        """Seconds left, never negative."""
        ...


@dataclass(frozen=True)
class BatchPolicy:
    """How much goes into one run of the network."""

    max_batch_size: int
    """The most images, of any lane."""
    bulk_batch_size: int
    """The most images of a batch of bulk ones alone, while interactive images come: one that comes meanwhile has to
    wait for the whole of it."""
    bulk_share: float = 0.25
    """Bulk images for each interactive one while both wait, in 0..1."""
    interactive_memory: float = 10.0
    """Seconds for which interactive images count as coming after the last one."""
    run_seconds: float = math.inf
    """Seconds after which a run counts as hung."""


@dataclass(eq=False)
class Waiting:
    """One image that waits for its turn."""

    pixels: Pixels
    lane: Lane
    patience: TimeLeft
    since: float
    vector: "asyncio.Future[Vectors]"
    began: float = field(default=math.nan)
    """When its run began."""


class Batcher:
    """Runs a network on what callers submit. All methods belong to one event loop."""

    def __init__(
        self,
        run: Callable[[Pixels], Vectors],
        policy: BatchPolicy,
        turns: Turns,
        observer: Observer,
        clock: Clock = time.monotonic,
    ) -> None:
        """Makes the batcher; `start` sets it to work.

        Args:
            run: uint8[N, H, W, 3] to float32[N, D]; it blocks, and is called by `turns`, one call at a time.
            policy: the sizes of batches.
            turns: shared with the batchers of other networks.
            observer: is told of each wait and each run.
            clock: seconds.
        """
        self._run = run
        self._policy = policy
        self._turns = turns
        self._observer = observer
        self._clock = clock
        # What bulk images are owed of the slots that interactive ones took before them; at 1 it is their turn.
        self._bulk_credit = 0.0
        self._lanes: dict[Lane, deque[Waiting]] = {lane: deque() for lane in Lane}
        self._arrived = asyncio.Event()
        self._stopping = False
        self._worker: asyncio.Task[None] | None = None
        self.died = asyncio.Event()
        """Set when the worker ended otherwise than by `stop`; from then on every image is refused."""

    def start(self) -> None:
        """Begins to take images."""
        self._worker = asyncio.get_running_loop().create_task(self._work())
        self._worker.add_done_callback(self._worker_ended)

    async def stop(self) -> None:
        """Finishes the batch in hand; what still waits, and what comes later, is refused with UnavailableError."""
        self._stopping = True
        self._arrived.set()
        if self._worker is not None:
            await asyncio.wait([self._worker])
        self._refuse_all()

    def waiting(self, lane: Lane) -> int:
        """The number of a lane's images whose run has not begun."""
        return len(self._lanes[lane])

    async def submit(self, pixels: Pixels, lane: Lane, patience: TimeLeft) -> Vectors:
        """Waits for the vector of one image, uint8[H, W, 3] to float32[D].

        Raises DeadlineExceededError where patience ends before its turn comes, UnavailableError when the batcher stops
        or is dead. If the caller is cancelled, its image leaves the queue at once.
        """
        if self._stopping or self.died.is_set():
            raise self._refusal()
        now = self._clock()
        if lane is Lane.INTERACTIVE:
            self._turns.last_interactive = now
        waiting = Waiting(pixels, lane, patience, now, asyncio.get_running_loop().create_future())
        self._lanes[lane].append(waiting)
        self._arrived.set()
        try:
            vector = await waiting.vector
        except asyncio.CancelledError:
            if waiting in self._lanes[lane]:
                self._lanes[lane].remove(waiting)
            raise
        stages.record("queue", waiting.since, waiting.began)
        stages.record("inference", waiting.began, self._clock())
        return vector

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            async with self._turns.take(lambda: bool(self._lanes[Lane.INTERACTIVE])):
                # The end may have come, and so may more images, while others had their turns.
                if self._stopping:
                    return
                batch = self._take()
                if batch:
                    await self._answer_or_keep(batch)
                else:
                    self._arrived.clear()

    def _worker_ended(self, worker: "asyncio.Task[None]") -> None:
        if self._stopping and not worker.cancelled() and worker.exception() is None:
            return
        log.critical("the batch worker died", exc_info=None if worker.cancelled() else worker.exception())
        self.died.set()
        self._refuse_all()

    def _refuse_all(self) -> None:
        for lane in self._lanes.values():
            for waiting in lane:
                if not waiting.vector.done():
                    waiting.vector.set_exception(self._refusal())
            lane.clear()

    def _refusal(self) -> ServiceError:
        if self.died.is_set():
            return UnavailableError("WORKER_DIED", "this server cannot run its network any more", retry_after=1.0)
        return UnavailableError("STOPPING", "the server is stopping", retry_after=1.0)

    def _take(self) -> list[Waiting]:
        """The next batch: interactive images with bulk's share among them, or else bulk images."""
        interactive, bulk = self._lanes[Lane.INTERACTIVE], self._lanes[Lane.BULK]
        batch: list[Waiting] = []
        while len(batch) < self._policy.max_batch_size and interactive:
            bulks_turn = bool(bulk) and self._bulk_credit >= 1
            waiting = (bulk if bulks_turn else interactive).popleft()
            if not _still_wanted(waiting):
                continue
            batch.append(waiting)
            self._bulk_credit = 0.0 if bulks_turn or not bulk else self._bulk_credit + self._policy.bulk_share
        if batch:
            return batch
        # Bulk images never fill up a batch of interactive ones: they would make it longer.
        self._bulk_credit = 0.0
        while len(batch) < self._bulk_limit() and bulk:
            waiting = bulk.popleft()
            if _still_wanted(waiting):
                batch.append(waiting)
        return batch

    def _bulk_limit(self) -> int:
        interactive_come = self._clock() - self._turns.last_interactive <= self._policy.interactive_memory
        return (
            min(self._policy.bulk_batch_size, self._policy.max_batch_size)
            if interactive_come
            else (self._policy.max_batch_size)
        )

    async def _answer_or_keep(self, batch: list[Waiting]) -> None:
        """Answers a batch; where that kills the worker, keeps it with those who wait, who will be told of it."""
        try:
            await self._answer(batch)
        except BaseException:
            self._lanes[Lane.INTERACTIVE].extendleft(batch)
            raise

    async def _answer(self, batch: list[Waiting]) -> None:
        """Runs a batch; where that fails, its halves, until the image at fault stands alone."""
        # Callers may have left while another half ran.
        batch = [waiting for waiting in batch if not waiting.vector.done()]
        if not batch:
            return
        began = self._clock()
        for waiting in batch:
            waiting.began = began
        try:
            pixels = np.stack([waiting.pixels for waiting in batch])
            vectors = await self._turns.run(self._policy.run_seconds, self._run, pixels)
            if len(vectors) != len(batch):
                raise RuntimeError(f"the network gave {len(vectors)} vectors for {len(batch)} images")
        except HungError:
            raise
        except Exception as error:
            log.exception("a batch failed", size=len(batch))
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._answer(batch[:middle])
                await self._answer(batch[middle:])
            elif not batch[0].vector.done():
                batch[0].vector.set_exception(_failure_of(error))
            return
        self._observer.ran(len(batch), self._clock() - began)
        for waiting, vector in zip(batch, vectors, strict=True):
            self._observer.waited(waiting.lane, began - waiting.since)
            if not waiting.vector.done():
                waiting.vector.set_result(vector)


def _failure_of(error: Exception) -> ServiceError:
    """Return the error for an image's caller when the network failed."""
    failure = (
        out_of_memory()
        if isinstance(error, MemoryError)
        else InternalError("INFERENCE_FAILED", "the network failed on this image; the server's log says why")
    )
    failure.__cause__ = error
    return failure


def _still_wanted(waiting: Waiting) -> bool:
    """Whether somebody still waits for the vector; tells the caller where its time is over."""
    if waiting.vector.done():
        return False
    if waiting.patience.remaining() > 0:
        return True
    waiting.vector.set_exception(out_of_time())
    return False


def out_of_time() -> DeadlineExceededError:
    """What a caller is told whose deadline passed before its image's turn came."""
    return DeadlineExceededError("DEADLINE_EXCEEDED", "the deadline passed while the image waited for its turn")
