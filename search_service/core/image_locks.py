"""Keep writes of the same image apart in this process: what reads, changes and writes must not undo another write."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from grpc_kit.deadline import Deadline
from grpc_kit.errors import DeadlineExceededError

Result = TypeVar("Result")


class StillRunningError(DeadlineExceededError):
    """A write was given up while the store still works on it."""

    ended: "asyncio.Future[None]"
    """Is done when the store has ended."""


class ImageLocks:
    """Locks on images.

    No two wait for each other: a caller acquires all that it needs of a collection at once. Only a delete holds images
    of a collection while it waits for those of the collection's copy, and a copy has no copy itself.
    """

    def __init__(self) -> None:
        """Nothing is locked."""
        self._held: dict[tuple[str, str], asyncio.Future[None]] = {}

    async def run(
        self, collection: str, ids: Iterable[str], work: Callable[[], Awaitable[Result]], deadline: Deadline
    ) -> Result:
        """Run work while this caller alone holds some images of a collection.

        The images stay locked until the work has ended in the store too: also when the caller is cancelled, and when
        the work raises StillRunningError. Raises DeadlineExceededError if another caller holds them for too long.
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
