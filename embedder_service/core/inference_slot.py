"""The slot for inference: one model runs at a time, because each run uses all processors."""

import math
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import TypeAlias, TypeVar

from embedder_service.core.lane_share import LaneShare
from embedder_service.core.types import Lane
from grpc_kit.server.hang_watch import HangWatch
from grpc_kit.server.wait_queue import WaitQueue

Result = TypeVar("Result")
# Returns whether a model has interactive images now.
HasInteractive: TypeAlias = Callable[[], bool]


class InferenceSlot:
    """The one slot that the batchers of all models share. Call all methods in one event loop.

    Models with interactive images come before models that have only bulk images. Bulk images get a share of the runs.
    """

    def __init__(self, executor: Executor, watch: HangWatch | None = None) -> None:
        """Create a free slot.

        Args:
            executor: runs the models.
            watch: detects runs that do not end. If None, such runs are not detected.
        """
        self._executor = executor
        self._watch = watch or HangWatch()
        self._lane_share = LaneShare()
        self._is_free = True
        self._pending: WaitQueue[HasInteractive] = WaitQueue(self._choose, self._release)
        self.last_interactive = -math.inf
        """Time at which the last interactive image of any model arrived, by the batchers' clock."""

    @asynccontextmanager
    async def acquire(self, has_interactive: HasInteractive) -> AsyncIterator[None]:
        """Hold the slot in this context.

        Args:
            has_interactive: returns whether the model has interactive images now; this may change during the wait.
        """
        await self._pending.acquire(has_interactive)
        try:
            yield
        finally:
            self._release(has_interactive)

    async def run(self, limit: float, function: Callable[..., Result], *arguments: object) -> Result:
        """Call a blocking function while the slot is held. Raises HungError after `limit` seconds."""
        return await self._watch.run(self._executor, "a run of a model", limit, function, *arguments)

    def _choose(self, models: Sequence[HasInteractive]) -> int | None:
        """Choose a lane, then the model of this lane that has waited longest. Return the model's index."""
        if not self._is_free:
            return None
        self._is_free = False
        lanes = [Lane.INTERACTIVE if has_interactive() else Lane.BULK for has_interactive in models]
        return lanes.index(
            self._lane_share.next_lane(interactive_waits=Lane.INTERACTIVE in lanes, bulk_waits=Lane.BULK in lanes)
        )

    def _release(self, _: HasInteractive) -> None:
        self._is_free = True
        self._pending.grant()
