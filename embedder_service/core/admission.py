"""Admits images: bounds the embedder's memory and each model's queue."""

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from embedder_service.core.held_image import AdmittedImage
from embedder_service.core.types import EncodedImage, Lane
from grpc_kit.deadline import Clock
from grpc_kit.errors import ResourceExhaustedError
from grpc_kit.server.budget import Limit
from grpc_kit.server.hang_watch import HangWatch

# Seconds after its last image for which a model counts as active, and has a share of the bytes.
ACTIVE_SECONDS = 10.0
# Minimum retry delay for refused callers, in seconds.
LEAST_RETRY_AFTER = 0.1


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
            watch: notices hung threads, which keep their images forever; None notices none.
        """
        self._watch = watch or HangWatch()
        self._lanes = {
            Lane.INTERACTIVE: _LaneBudget(interactive, seconds_per_image, clock, self._watch),
            Lane.BULK: _LaneBudget(bulk, seconds_per_image, clock, self._watch),
        }
        self._seconds_per_image = seconds_per_image

    async def enter(self, lane: Lane, model: str, image: EncodedImage) -> AdmittedImage:
        """Admit an image. Raises ResourceExhaustedError in the interactive lane, and HungError; the bulk lane waits."""
        self._watch.refuse_if_hung()
        budget, size = self._lanes[lane], len(image.content)
        if lane is Lane.BULK:
            await budget.wait(model, size)
        elif not budget.try_take(model, size):
            raise self._overloaded(budget, model, size)
        return AdmittedImage(image, lambda: budget.free(model, 1, 0), lambda: budget.free(model, 0, size))

    def under_way(self, lane: Lane) -> int:
        """Return the number of a lane's admitted images whose callers wait."""
        return sum(use.items for use in self._lanes[lane].uses.values())

    def pending_bytes(self, lane: Lane) -> int:
        """Return the bytes of a lane's admitted images that are still in memory."""
        return self._lanes[lane].size

    def _overloaded(self, budget: "_LaneBudget", model: str, size: int) -> ResourceExhaustedError:
        waiting, limit = budget.uses[model].items, budget.limit
        if waiting >= limit.items:
            problem = f"{waiting} images wait for model {model!r}, and at most {limit.items} may"
        else:
            problem = (
                f"images of {budget.size} bytes wait, {budget.uses[model].size} of them for model {model!r}, and one "
                f"of {size} does not fit: at most {limit.size} bytes may wait, {budget.share(model)} for this model"
            )
        return ResourceExhaustedError(
            "OVERLOADED",
            f"{problem}; try again later, or use EmbedStream, which waits",
            metadata={"max_pending": str(limit.items), "max_pending_bytes": str(limit.size), "model": model},
            # By then about half of the images that wait for this model are embedded.
            retry_after=max(LEAST_RETRY_AFTER, 0.5 * waiting * self._seconds_per_image[model]),
        )


@dataclass
class _Use:
    """The images and bytes of one model in a lane."""

    items: int = 0
    size: int = 0
    last_asked: float = float("-inf")


@dataclass(eq=False)
class _Waiter:
    model: str
    size: int
    admitted: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class _LaneBudget:
    """The images and bytes of one lane."""

    def __init__(self, limit: Limit, models: Mapping[str, object], clock: Clock, watch: HangWatch) -> None:
        self.limit = limit
        self.size = 0
        self.uses = {model: _Use() for model in models}
        self._clock = clock
        self._watch = watch
        self._waiters: deque[_Waiter] = deque()

    def share(self, model: str) -> int:
        """Return a model's share of the bytes: an equal part for each active model."""
        since = self._clock() - ACTIVE_SECONDS
        active = sum(use.size > 0 or use.last_asked > since for name, use in self.uses.items() if name != model)
        return self.limit.size // (active + 1)

    def try_take(self, model: str, size: int) -> bool:
        """Admit an image if it fits now and no earlier image waits for the same. Return whether it was admitted."""
        waiter = self._ask(model, size)
        if not waiter.admitted.done():
            self._waiters.remove(waiter)
        return waiter.admitted.done()

    async def wait(self, model: str, size: int) -> None:
        """Admit an image as soon as it fits and all earlier images that wait for the same are admitted."""
        waiter = self._ask(model, size)
        try:
            await self._watch.wait_for(waiter.admitted)
        except BaseException:
            if waiter.admitted.cancelled():
                self._waiters.remove(waiter)
                # The next image may be smaller, and fit.
                self._admit()
            else:
                self.free(model, 1, size)
            raise

    def free(self, model: str, items: int, size: int) -> None:
        """Release images or bytes of a model."""
        use = self.uses[model]
        use.items -= items
        use.size -= size
        self.size -= size
        self._admit()

    def _ask(self, model: str, size: int) -> _Waiter:
        self.uses[model].last_asked = self._clock()
        waiter = _Waiter(model, size)
        self._waiters.append(waiter)
        self._admit()
        return waiter

    def _admit(self) -> None:
        """Admit waiting images in order of arrival (FIFO). A model at its own limit does not hold up other models."""
        full: set[str] = set()
        for waiter in tuple(self._waiters):
            if waiter.admitted.cancelled() or waiter.model in full:
                continue
            if self._model_is_full(waiter):
                full.add(waiter.model)
            elif self.size == 0 or self.size + waiter.size <= self.limit.size:
                self._waiters.remove(waiter)
                use = self.uses[waiter.model]
                use.items += 1
                use.size += waiter.size
                self.size += waiter.size
                waiter.admitted.set_result(None)
            else:
                # Smaller images that overtake it could keep it waiting forever.
                return

    def _model_is_full(self, waiter: _Waiter) -> bool:
        use = self.uses[waiter.model]
        # A model's only image may exceed the share.
        over = use.size > 0 and use.size + waiter.size > self.share(waiter.model)
        return use.items >= self.limit.items or over
