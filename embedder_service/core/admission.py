"""Admits images: bounds the embedder's memory and each model's queue."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from embedder_service.core.held_image import AdmittedImage
from embedder_service.core.types import EncodedImage, Lane
from grpc_kit.deadline import Clock
from grpc_kit.errors import ResourceExhaustedError
from grpc_kit.server.budget import Limit
from grpc_kit.server.hang_watch import HangWatch
from grpc_kit.server.wait_queue import WaitQueue

# Seconds after its last image in which a model counts as active, and has a share of the bytes.
ACTIVE_SECONDS = 10.0
# Minimum retry delay for refused callers, in seconds.
MIN_RETRY_AFTER = 0.1


class Admission:
    """Bounds the pending images of each lane: the interactive lane refuses when it is full, the bulk lane waits.

    Each model has its own count of images, so that callers of a slow model cannot fill the queue of a fast one. All
    models share the bytes, because they share the memory. All methods belong to one event loop.
    """

    def __init__(
        self,
        interactive: Limit,
        bulk: Limit,
        seconds_per_image: Mapping[str, float],
        clock: Clock = time.monotonic,
        watch: HangWatch | None = None,
    ) -> None:
        """Admit images of these models.

        Args:
            interactive: images of each model, and bytes of all models, in the interactive lane.
            bulk: the same in the bulk lane.
            seconds_per_image: the cost of an image by the model's name; it sets the retry delay of refused callers.
            clock: returns seconds.
            watch: detects hung threads, which hold their images forever; None detects none.
        """
        self._watch = watch or HangWatch()
        self._lanes = {
            Lane.INTERACTIVE: _LaneBudget(interactive, seconds_per_image, clock),
            Lane.BULK: _LaneBudget(bulk, seconds_per_image, clock),
        }
        self._seconds_per_image = seconds_per_image

    async def admit(self, lane: Lane, model: str, image: EncodedImage) -> AdmittedImage:
        """Admit an image. In the bulk lane, wait until it fits.

        Raises ResourceExhaustedError in the interactive lane if the image does not fit, and HungError.
        """
        self._watch.refuse_if_hung()
        budget, size = self._lanes[lane], len(image.content)
        request = budget.request(model, size)
        if lane is Lane.BULK:
            await budget.pending.acquire(request, self._watch.wait_for)
        elif not budget.pending.try_acquire(request):
            raise self._overloaded(budget, model, size)
        return AdmittedImage(image, lambda: budget.free(model, 1, 0), lambda: budget.free(model, 0, size))

    def in_flight(self, lane: Lane) -> int:
        """Return the number of a lane's admitted images whose callers wait."""
        return sum(usage.items for usage in self._lanes[lane].usage.values())

    def pending_bytes(self, lane: Lane) -> int:
        """Return the bytes of a lane's admitted images that are still in memory."""
        return self._lanes[lane].size

    def _overloaded(self, budget: "_LaneBudget", model: str, size: int) -> ResourceExhaustedError:
        in_flight, limit = budget.usage[model].items, budget.limit
        if in_flight >= limit.items:
            problem = f"{in_flight} images of model {model!r} are pending, and the limit is {limit.items}"
        else:
            problem = (
                f"pending images have {budget.size} bytes, {budget.usage[model].size} of them for model {model!r}, "
                f"and this image of {size} bytes does not fit: the limit is {limit.size} bytes, and "
                f"{budget.share(model)} for this model"
            )
        return ResourceExhaustedError(
            "OVERLOADED",
            f"{problem}; try again later, or use EmbedStream, which waits",
            metadata={"max_pending": str(limit.items), "max_pending_bytes": str(limit.size), "model": model},
            # After this delay about half of the model's pending images are embedded.
            retry_after=max(MIN_RETRY_AFTER, 0.5 * in_flight * self._seconds_per_image[model]),
        )


@dataclass
class _Usage:
    """The images and bytes of one model in a lane."""

    items: int = 0
    size: int = 0
    last_requested: float = float("-inf")


@dataclass(frozen=True)
class _Request:
    """A request to admit an image of a model."""

    model: str
    size: int


class _LaneBudget:
    """The images and bytes of one lane."""

    def __init__(self, limit: Limit, models: Mapping[str, object], clock: Clock) -> None:
        self.limit = limit
        self.size = 0
        self.usage = {model: _Usage() for model in models}
        self._clock = clock
        self.pending: WaitQueue[_Request] = WaitQueue(
            self._choose, lambda request: self.free(request.model, 1, request.size)
        )

    def request(self, model: str, size: int) -> _Request:
        """Return the request for an image. The model counts as active from now on."""
        self.usage[model].last_requested = self._clock()
        return _Request(model, size)

    def share(self, model: str) -> int:
        """Return a model's share of the bytes: an equal part for each active model."""
        since = self._clock() - ACTIVE_SECONDS
        active = sum(
            usage.size > 0 or usage.last_requested > since for name, usage in self.usage.items() if name != model
        )
        return self.limit.size // (active + 1)

    def free(self, model: str, items: int, size: int) -> None:
        """Release images or bytes of a model."""
        usage = self.usage[model]
        usage.items -= items
        usage.size -= size
        self.size -= size
        self.pending.grant()

    def _choose(self, requests: Sequence[_Request]) -> int | None:
        """Choose the first image that fits. A model at its own limit does not hold up other models."""
        full: set[str] = set()
        for position, request in enumerate(requests):
            usage = self.usage[request.model]
            if request.model in full or self._model_is_full(usage, request):
                full.add(request.model)
            elif self.size == 0 or self.size + request.size <= self.limit.size:
                usage.items += 1
                usage.size += request.size
                self.size += request.size
                return position
            else:
                # Smaller images that overtake this one could keep it waiting forever.
                return None
        return None

    def _model_is_full(self, usage: _Usage, request: _Request) -> bool:
        # A model's only image may exceed the share.
        exceeds_share = usage.size > 0 and usage.size + request.size > self.share(request.model)
        return usage.items >= self.limit.items or exceeds_share
