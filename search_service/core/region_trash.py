"""Delete the regions of replaced and deleted images, some seconds after the write.

Until then, a reader that still sees the earlier image also finds its regions. The trash is in memory: what a crash
leaves is deleted by `core.region_sweep`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from grpc_kit.deadline import Deadline
from grpc_kit.errors import NotFoundError, ServiceError
from search_service.core.ports import RegionStore, VectorStore
from search_service.core.types import Collection, Consistency, View

log = structlog.stdlib.get_logger()

# Twice the time by which a read with bounded staleness may lag behind.
STALENESS = 10.0
MAX_ENTRIES = 100_000
# Images that one step checks.
BATCH = 1000
# Seconds after which the images of doubtful generations are read once more.
CONFIRM_SECONDS = 1.0
# Seconds between two steps, and for one step.
PAUSE, STEP_SECONDS = 1.0, 30.0


@dataclass(frozen=True)
class _Entry:
    due: float
    collection: Collection
    generation: int
    image_id: str


class RegionTrash:
    """Generations of regions that are about to be deleted."""

    def __init__(self, store: VectorStore, regions: RegionStore, clock: Callable[[], float] = time.monotonic) -> None:
        """`store` has the images of all generations; `clock` returns seconds."""
        self._store = store
        self._regions = regions
        self._clock = clock
        self._entries: deque[_Entry] = deque()

    def __len__(self) -> int:
        """Return the number of generations."""
        return len(self._entries)

    def add(self, collection: Collection, generations: Mapping[int, str]) -> None:
        """Add the generations of replaced images, with the ids. If there are too many, leave them to the sweep."""
        due = self._clock() + STALENESS
        for generation, image_id in generations.items():
            if len(self._entries) < MAX_ENTRIES:
                self._entries.append(_Entry(due, collection, generation, image_id))

    async def run(self) -> None:
        """Delete what is due, until the task is cancelled."""
        while True:
            await asyncio.sleep(PAUSE)
            while await self.delete_due():
                pass

    async def delete_due(self) -> int:
        """Delete some generations that are due, and return the number of entries removed; 0 if none is due."""
        entries = self._take_due()
        if not entries:
            return 0
        collection = entries[0].collection
        found = [(entry.image_id, entry.generation) for entry in entries]
        try:
            await delete_dead(self._store, self._regions, collection, found, Deadline.after(STEP_SECONDS))
        except NotFoundError:
            # The collection was deleted with its regions.
            pass
        except ServiceError as error:
            log.warning("regions of replaced images stay until the sweep", count=len(found), reason=error.reason)
        return len(entries)

    def _take_due(self) -> list[_Entry]:
        """Remove and return the first entries that are due and belong to one collection."""
        entries: list[_Entry] = []
        while self._entries and self._entries[0].due <= self._clock() and len(entries) < BATCH:
            if entries and self._entries[0].collection.identity != entries[0].collection.identity:
                break
            entries.append(self._entries.popleft())
        return entries


async def delete_dead(
    store: VectorStore,
    regions: RegionStore,
    collection: Collection,
    found: Sequence[tuple[str, int]],
    deadline: Deadline,
) -> int:
    """Delete the regions of those generations, given with their image ids, that no image has; return how many.

    The images are read first, because the store may have repeated an earlier write of an image. If an image is missing
    or has an earlier generation, it is read twice: while an image is written, Milvus 2.3 may return an earlier version.
    """
    current = await _current(store, collection, found, deadline)
    dead = [pair for pair in found if current.get(pair[0], 0) != pair[1]]
    doubtful = [pair for pair in dead if current.get(pair[0], 0) < pair[1]]
    if doubtful:
        await asyncio.sleep(CONFIRM_SECONDS)
        current |= await _current(store, collection, doubtful, deadline)
        dead = [pair for pair in dead if current.get(pair[0], 0) != pair[1]]
    if dead:
        await regions.delete(collection, [generation for _, generation in dead], deadline)
    return len(dead)


async def _current(
    store: VectorStore, collection: Collection, found: Sequence[tuple[str, int]], deadline: Deadline
) -> dict[str, int]:
    """Return the current generations of images by id."""
    ids = list({image_id for image_id, _ in found})
    images = await store.get(collection, ids, View.ID, Consistency.STRONG, deadline)
    return {image.id: image.generation for image in images}
