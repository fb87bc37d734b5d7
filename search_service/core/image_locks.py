"""Locks on images, so that an update of an image does not undo a concurrent write in this process."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from grpc_kit.deadline import Deadline
from grpc_kit.errors import DeadlineExceededError

Result = TypeVar("Result")


class StillRunningError(DeadlineExceededError):
    """A write timed out, and the store still runs it."""

    ended: "asyncio.Future[None]"
    """Done when the store has finished the write."""


class ImageLocks:
    """Locks on images.

    Deadlocks are impossible: a caller acquires all locks in a collection at once. Only a deletion waits for locks in
    another collection, the copy, and a copy has no copy.
    """

    def __init__(self) -> None:
        """Start without locks."""
        self._held: dict[tuple[str, str], asyncio.Future[None]] = {}

    async def run(
        self, collection: str, ids: Iterable[str], work: Callable[[], Awaitable[Result]], deadline: Deadline
    ) -> Result:
        """Run work while the images are locked, and return its result.

        The images stay locked until the store has finished the work, even if the caller is cancelled or the work raises
        StillRunningError. Raises DeadlineExceededError if other callers hold a lock until the deadline.
        """
        release = await self._acquire(collection, ids, deadline)
        task = asyncio.ensure_future(work())
        task.add_done_callback(lambda ended: _when_ended(ended, release))
        return await asyncio.shield(task)

    async def _acquire(self, collection: str, ids: Iterable[str], deadline: Deadline) -> Callable[[], None]:
        keys = {(collection, image_id) for image_id in ids}
        while busy := [self._held[key] for key in keys if key in self._held]:
            remaining = deadline.remaining()
            await asyncio.wait(busy, timeout=None if math.isinf(remaining) else remaining)
            if not deadline.remaining():
                raise DeadlineExceededError(
                    "DEADLINE_EXCEEDED", "the deadline passed while another write of the image was in flight"
                )
        released = asyncio.get_running_loop().create_future()
        self._held.update(dict.fromkeys(keys, released))

        def release() -> None:
            for key in keys:
                del self._held[key]
            released.set_result(None)

        return release


def _when_ended(task: "asyncio.Future[Result]", release: Callable[[], None]) -> None:
    error = None if task.cancelled() else task.exception()
    if isinstance(error, StillRunningError):
        error.ended.add_done_callback(lambda _: release())
    else:
        release()
