"""Images with regions for tests: every part holds the version of its write, so that a mix of two writes is visible."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from grpc_kit.deadline import Deadline
from search_service.core.region_searches import RegionSearches
from search_service.core.region_sweep import RegionSweep
from search_service.core.region_trash import RegionTrash
from search_service.core.regioned_store import RegionedStore
from search_service.core.types import Collection, Consistency, Region, StoredImage, StoredRegion, View
from tests.memory_store import MemoryStore

BEGIN = datetime(2026, 5, 4, tzinfo=UTC)


def image(image_id: str, version: int, count: int = 2) -> StoredImage:
    """Return an image with a version."""
    vector = np.full(4, 1.0, np.float32)
    vector[0] = version
    regions = tuple(StoredRegion(Region(0, 0, 1 / (2 + n), 1), vector + n, version) for n in range(count))
    return StoredImage(
        image_id,
        attributes={"version": version},
        create_time=BEGIN,
        update_time=BEGIN,
        vector=vector,
        regions=regions,
    )


def version_of(found: StoredImage) -> int:
    """Return the version of an image. Fails if its parts have different versions, or a region is missing."""
    version = found.attributes["version"]
    assert isinstance(version, int)
    assert found.vector is not None
    assert found.vector[0] == version
    assert len(found.regions) == found.region_count
    for number, region in enumerate(found.regions):
        assert region.saliency == version
        assert region.vector.tolist() == (found.vector + number).tolist()
    return version


DEADLINE = Deadline.after(3600)
STRONG, BOUNDED = Consistency.STRONG, Consistency.BOUNDED
ORPHAN_AGE = timedelta(hours=1)
COLLECTION = Collection("c", 4, "f", BEGIN, max_regions=3)
EVERYTHING = 2**96

Step = Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]]


class CrashError(Exception):
    """The process ends here."""


class Clock:
    """The time that all processes agree on."""

    def __init__(self) -> None:
        self.now = BEGIN + timedelta(days=1)

    def __call__(self) -> datetime:
        return self.now

    def seconds(self) -> float:
        return self.now.timestamp()

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Stepping:
    """The calls of a store, each of which goes through a function that may fail or wait."""

    def __init__(self, target: Any, prefix: str, step: Step) -> None:
        self._target, self._prefix, self._step = target, prefix, step

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if not asyncio.iscoroutinefunction(attribute):
            return attribute
        return lambda *args, **kwargs: self._step(f"{self._prefix}.{name}", lambda: attribute(*args, **kwargs))


async def plain(_: str, call: Callable[[], Awaitable[Any]]) -> Any:
    return await call()


class Process:
    """One replica of the service: a decorator of its own round the shared store."""

    def __init__(self, memory: MemoryStore, clock: Clock, step: Step = plain, calls: type[Stepping] = Stepping) -> None:
        images, regions = calls(memory, "images", step), calls(memory.regions, "regions", step)
        self.trash = RegionTrash(images, regions, clock.seconds)
        self.store = RegionedStore(
            images,
            regions,
            RegionSearches(images, regions),
            self.trash,
            clock,
            commit_time=ORPHAN_AGE / 2,
            max_join_bytes=4096,
        )
        self.swept: list[int] = []
        self.sweep = RegionSweep(images, regions, clock, orphan_age=ORPHAN_AGE, removed=self.swept.append)

    async def read(self, ids: Sequence[str], consistency: Consistency = STRONG) -> dict[str, int]:
        """Return the versions of images; each has the regions of its own write."""
        found = await self.store.get(COLLECTION, ids, View.FULL, consistency, DEADLINE)
        return {one.id: version_of(one) for one in found}


async def created(memory: MemoryStore, clock: Clock) -> Process:
    process = Process(memory, clock)
    await process.store.create_collection(COLLECTION, DEADLINE)
    return process


async def orphans(memory: MemoryStore) -> list[int]:
    """Return the generations of regions that no image has."""
    rows = await memory.regions.generations(COLLECTION, 0, EVERYTHING, 100_000, DEADLINE)
    images = await memory.query(COLLECTION, None, 10_000, View.ID, STRONG, DEADLINE)
    current = {one.generation for one in images}
    return [generation for _, generation in rows if generation not in current]
