"""Gathers images into batches for a model that runs one batch at a time.

There is no timer. When the inference slot is free, the batcher takes the images that are queued, up to the limit of a
batch. So no image waits for later images, and batches grow only under load. There are two lanes. Interactive images go
first, in batches of their own. Bulk images get a share, so that neither lane starves the other.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import structlog

from embedder_service.core.deadlines import AnyDeadline, deadline_exceeded
from embedder_service.core.inference_slot import InferenceSlot
from embedder_service.core.lane_share import BULK_SHARE, LaneShare
from embedder_service.core.ports import Observer
from embedder_service.core.types import ImageVectors, Lane, Pixels, RegionRequest
from grpc_kit.deadline import Clock
from grpc_kit.errors import InternalError, ServiceError, UnavailableError, out_of_memory
from grpc_kit.server import stages
from grpc_kit.server.hang_watch import HungError

log = structlog.stdlib.get_logger()


@dataclass(frozen=True)
class BatchPolicy:
    """The limits of a batch."""

    max_batch_size: int
    """Maximum number of images in a batch."""
    bulk_batch_size: int
    """Maximum number of images in a bulk batch while interactive images arrive: these wait for the whole batch."""
    bulk_share: float = BULK_SHARE
    """Bulk images for each interactive image while both lanes wait, in 0..1."""
    interactive_memory: float = 10.0
    """Seconds after the last interactive image in which interactive images still count as arriving."""
    run_seconds: float = math.inf
    """Seconds after which a run counts as hung."""


@dataclass(eq=False)
class _QueuedImage:
    pixels: Pixels
    request: RegionRequest | None
    lane: Lane
    deadline: AnyDeadline
    queued_at: float
    vectors: "asyncio.Future[ImageVectors]"
    started_at: float = field(default=math.nan)
    """When its run began."""


class Batcher:
    """Runs one model on the images of all callers. All methods belong to one event loop."""

    def __init__(
        self,
        run: Callable[[Pixels, Sequence[RegionRequest | None]], Sequence[ImageVectors]],
        policy: BatchPolicy,
        slot: InferenceSlot,
        observer: Observer,
        clock: Clock = time.monotonic,
    ) -> None:
        """Create a batcher that is not started.

        Args:
            run: computes the vectors of uint8[N, H, W, 3], with N requests for regions. It blocks, and `slot` calls it.
            policy: the limits of a batch.
            slot: the slot that all models share.
            observer: is notified of each wait and each run.
            clock: returns seconds.
        """
        self._run = run
        self._policy = policy
        self._slot = slot
        self._observer = observer
        self._clock = clock
        self._lane_share = LaneShare(policy.bulk_share)
        self._queues: dict[Lane, deque[_QueuedImage]] = {lane: deque() for lane in Lane}
        self._arrived = asyncio.Event()
        self._stopping = False
        self._worker: asyncio.Task[None] | None = None
        self.died = asyncio.Event()
        """Set when the worker ends without `stop`. From then on every image is refused."""

    def start(self) -> None:
        """Start the worker."""
        self._worker = asyncio.get_running_loop().create_task(self._work())
        self._worker.add_done_callback(self._worker_ended)

    async def stop(self) -> None:
        """Finish the current batch. Queued and later images are refused with UnavailableError."""
        self._stopping = True
        self._arrived.set()
        if self._worker is not None:
            await asyncio.wait([self._worker])
        self._refuse_queued()

    def queue_size(self, lane: Lane) -> int:
        """Return the number of a lane's queued images."""
        return len(self._queues[lane])

    async def submit(
        self, pixels: Pixels, lane: Lane, deadline: AnyDeadline, request: RegionRequest | None = None
    ) -> ImageVectors:
        """Return the vectors of one image, uint8[H, W, 3], with the requested regions.

        If the caller is cancelled, its image leaves the queue at once. Raises DeadlineExceededError if the deadline
        passes in the queue, and UnavailableError if the batcher stops or is dead.
        """
        if self._stopping or self.died.is_set():
            raise self._refusal()
        now = self._clock()
        if lane is Lane.INTERACTIVE:
            self._slot.last_interactive = now
        image = _QueuedImage(pixels, request, lane, deadline, now, asyncio.get_running_loop().create_future())
        self._queues[lane].append(image)
        self._arrived.set()
        try:
            vectors = await image.vectors
        except asyncio.CancelledError:
            if image in self._queues[lane]:
                self._queues[lane].remove(image)
            raise
        stages.record("queue", image.queued_at, image.started_at)
        stages.record("inference", image.started_at, self._clock())
        return vectors

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            async with self._slot.acquire(lambda: bool(self._queues[Lane.INTERACTIVE])):
                # While other models ran, more images may have arrived, or `stop` was called.
                if self._stopping:
                    return
                batch = self._next_batch()
                if batch:
                    await self._run_or_requeue(batch)
                else:
                    self._arrived.clear()

    def _worker_ended(self, worker: "asyncio.Task[None]") -> None:
        if self._stopping and not worker.cancelled() and worker.exception() is None:
            return
        log.critical("the batch worker died", exc_info=None if worker.cancelled() else worker.exception())
        self.died.set()
        self._refuse_queued()

    def _refuse_queued(self) -> None:
        for queue in self._queues.values():
            for image in queue:
                if not image.vectors.done():
                    image.vectors.set_exception(self._refusal())
            queue.clear()

    def _refusal(self) -> ServiceError:
        if self.died.is_set():
            return UnavailableError(
                "WORKER_DIED", "this server cannot run its model any more; call another server", retry_after=1.0
            )
        return UnavailableError("STOPPING", "the server is stopping; call another server", retry_after=1.0)

    def _next_batch(self) -> list[_QueuedImage]:
        """Take the next batch from the queues: interactive images and a share of bulk, or bulk images alone."""
        self._queues = {lane: deque(filter(_is_wanted, queue)) for lane, queue in self._queues.items()}
        interactive, bulk = self._queues[Lane.INTERACTIVE], self._queues[Lane.BULK]
        batch: list[_QueuedImage] = []
        while interactive and len(batch) < self._policy.max_batch_size:
            lane = self._lane_share.next_lane(interactive_waits=True, bulk_waits=bool(bulk))
            batch.append(self._queues[lane].popleft())
        if batch:
            # Bulk images never fill up an interactive batch: that would make its run longer.
            return batch
        self._lane_share.reset()
        return [bulk.popleft() for _ in range(min(self._bulk_limit(), len(bulk)))]

    def _bulk_limit(self) -> int:
        since_interactive = self._clock() - self._slot.last_interactive
        if since_interactive > self._policy.interactive_memory:
            return self._policy.max_batch_size
        return min(self._policy.bulk_batch_size, self._policy.max_batch_size)

    async def _run_or_requeue(self, batch: list[_QueuedImage]) -> None:
        """Run a batch. If that kills the worker, queue its images again, so that their callers are refused."""
        try:
            await self._run_batch(batch)
        except BaseException:
            self._queues[Lane.INTERACTIVE].extendleft(batch)
            raise

    async def _run_batch(self, batch: list[_QueuedImage]) -> None:
        """Run a batch. If the run fails, run its halves, until the faulty image is alone."""
        # Callers may have left while the other half ran.
        batch = [image for image in batch if not image.vectors.done()]
        if not batch:
            return
        started_at = self._clock()
        for image in batch:
            image.started_at = started_at
        try:
            pixels = np.stack([image.pixels for image in batch])
            requests = [image.request for image in batch]
            results = await self._slot.run(self._policy.run_seconds, self._run, pixels, requests)
            if len(results) != len(batch):
                raise RuntimeError(f"the model returned {len(results)} vectors for {len(batch)} images")
        except HungError:
            raise
        except Exception as error:
            log.exception("a batch failed", size=len(batch))
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._run_batch(batch[:middle])
                await self._run_batch(batch[middle:])
            elif not batch[0].vectors.done():
                batch[0].vectors.set_exception(_inference_error(error))
            return
        self._observer.batch_ran(len(batch), self._clock() - started_at)
        for image, vectors in zip(batch, results, strict=True):
            self._observer.queued(image.lane, started_at - image.queued_at)
            if not image.vectors.done():
                image.vectors.set_result(vectors)


def _inference_error(error: Exception) -> ServiceError:
    """Return the error for the caller of an image on which the model failed."""
    failure = (
        out_of_memory()
        if isinstance(error, MemoryError)
        else InternalError("INFERENCE_FAILED", "the model failed on this image; the server's log says why")
    )
    failure.__cause__ = error
    return failure


def _is_wanted(image: _QueuedImage) -> bool:
    """Return whether a caller waits for the image. If its deadline has passed, the caller gets the error."""
    if image.vectors.done():
        return False
    if image.deadline.remaining() > 0:
        return True
    image.vectors.set_exception(deadline_exceeded())
    return False
