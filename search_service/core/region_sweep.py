"""Delete the regions that no image has: a process crashed during a write or a deletion, or Milvus expired the image.

The sweep works beside writes, and in many replicas at once: it deletes only what is older than every write in flight.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from grpc_kit.deadline import Deadline
from grpc_kit.errors import NotFoundError, ServiceError
from search_service.core.ports import RegionStore, VectorStore
from search_service.core.region_trash import BATCH, STEP_SECONDS, delete_dead
from search_service.core.regions import first_generation
from search_service.core.types import Collection

log = structlog.stdlib.get_logger()

# Regions that one step reads, and collections in one listing.
PAGE = 8192
COLLECTIONS = 100


class RegionSweep:
    """Sweep the regions of all collections."""

    def __init__(
        self,
        store: VectorStore,
        regions: RegionStore,
        now: Callable[[], datetime],
        *,
        orphan_age: timedelta,
        removed: Callable[[int], None],
    ) -> None:
        """Prepare to sweep.

        Args:
            store: has all images, including expired ones.
            regions: their regions.
            now: returns the time in UTC.
            orphan_age: age from which regions without an image are deleted.
            removed: notified of the number of generations that were deleted.
        """
        self._store = store
        self._regions = regions
        self._now = now
        self._orphan_age = orphan_age
        self._removed = removed

    async def run(self, seconds: float) -> None:
        """Sweep now, and again after each pause of `seconds`, until the task is cancelled."""
        while True:
            try:
                await self.sweep()
            except ServiceError as error:
                log.warning("the sweep of regions stopped; the next one continues", reason=error.reason)
            await asyncio.sleep(seconds)

    async def sweep(self) -> int:
        """Sweep all collections once, and return the number of generations deleted. Raises ServiceError."""
        count, last = 0, ""
        while True:
            page = await self._store.list_collections(last, COLLECTIONS, _deadline())
            for collection in page:
                if collection.max_regions:
                    count += await self._sweep_collection(collection)
            if len(page) < COLLECTIONS:
                break
            last = page[-1].name
        await self._drop_leftovers()
        return count

    async def _sweep_collection(self, collection: Collection) -> int:
        count, last = 0, 0
        before = first_generation(self._now() - self._orphan_age)
        try:
            while found := await self._regions.generations(collection, last, before, PAGE, _deadline()):
                began = time.monotonic()
                last = found[-1][1]
                for begin in range(0, len(found), BATCH):
                    some = found[begin : begin + BATCH]
                    count += await delete_dead(self._store, self._regions, collection, some, _deadline())
                # Leave at least half of the time to other calls.
                await asyncio.sleep(time.monotonic() - began)
        except NotFoundError:
            # The collection was deleted meanwhile.
            pass
        finally:
            if count:
                self._removed(count)
                log.info("deleted regions that no image has", collection=collection.name, images=count)
        return count

    async def _drop_leftovers(self) -> None:
        """Delete the regions of collections that do not exist."""
        latest = self._now() - self._orphan_age
        for collection in await self._regions.leftovers(_deadline()):
            if collection.create_time < latest:
                await self._regions.drop(collection, _deadline())
                log.info("deleted the regions of a collection that does not exist", collection=collection.name)


def _deadline() -> Deadline:
    return Deadline.after(STEP_SECONDS)
