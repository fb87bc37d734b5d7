"""Two replicas write images with regions at once, some processes crash, and reads are stale."""

import asyncio
import copy
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from grpc_kit.errors import ServiceError
from search_service.core import region_trash, regioned_store
from search_service.core.ports import Nearest
from search_service.core.region_trash import STALENESS
from search_service.core.types import Consistency, Match, StoredImage, View
from tests.memory_store import MemoryStore
from tests.unit.search.regioned_images import (
    BOUNDED,
    COLLECTION,
    DEADLINE,
    ORPHAN_AGE,
    STRONG,
    Clock,
    CrashError,
    Process,
    Stepping,
    created,
    image,
    orphans,
    version_of,
)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_trash, "CONFIRM_SECONDS", 0.0)
    monkeypatch.setattr(regioned_store, "PAUSES", (0.0,) * len(regioned_store.PAUSES))


class StaleStore(MemoryStore):
    """Reads without strong consistency see the images and the regions of two different earlier moments."""

    def __init__(self, generator: random.Random) -> None:
        super().__init__()
        self._random = generator
        self._moments: list[tuple[Any, Any]] = []

    def remember(self) -> None:
        moment = copy.copy(self._images[COLLECTION.name]), copy.copy(self.regions.rows(COLLECTION))
        self._moments = [*self._moments[-5:], moment]

    def chosen(self) -> tuple[Any, Any]:
        """Return the images of one moment and the regions of another."""
        return self._random.choice(self._moments)[0], self._random.choice(self._moments)[1]

    async def read(self, consistency: Consistency, call: Callable[[], Awaitable[Any]]) -> Any:
        if consistency is STRONG or not self._moments:
            return await call()
        now = self._images, self.regions._rows
        images, regions = self.chosen()
        self._images, self.regions._rows = {COLLECTION.name: images}, {COLLECTION.identity: regions}
        try:
            # Nothing else runs meanwhile: no call of the memory store waits.
            return await call()
        finally:
            self._images, self.regions._rows = now


def consistency_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Consistency:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Consistency):
            return value
        if isinstance(value, Nearest):
            return value.consistency
    return STRONG


class StaleCalls(Stepping):
    """`Stepping` whose reads may be stale."""

    memory: StaleStore

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if not asyncio.iscoroutinefunction(attribute):
            return attribute

        async def call(*args: Any, **kwargs: Any) -> Any:
            async def run() -> Any:
                level = consistency_in(args, kwargs)
                result = await self.memory.read(level, lambda: attribute(*args, **kwargs))
                if name in ("upsert", "delete"):
                    self.memory.remember()
                return result

            return await self._step(f"{self._prefix}.{name}", run)

        return call


class Replicas:
    """Two replicas that write, clean and read at random."""

    ids = ("a", "b", "c")

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.memory, self.clock = StaleStore(self.random), Clock()
        self.latest = 0

    async def step(self, _: str, call: Callable[[], Awaitable[Any]]) -> Any:
        """Let other tasks run, let time pass, and sometimes end the caller."""
        for _turn in range(self.random.randrange(4)):
            await asyncio.sleep(0)
        self.clock.advance(self.random.choice([0, 0, 1, 5, 200]))
        if self.random.random() < 0.03:
            raise CrashError
        result = await call()
        await asyncio.sleep(0)
        return result

    async def write(self, process: Process) -> None:
        for _ in range(25):
            self.latest += 1
            some = self.random.sample(self.ids, self.random.randrange(1, 4))
            with suppress(CrashError, ServiceError):
                if self.random.random() < 0.25:
                    await process.store.delete(COLLECTION, some, DEADLINE)
                else:
                    batch = [image(image_id, self.latest, self.random.randrange(4)) for image_id in some]
                    await process.store.upsert(COLLECTION, batch, DEADLINE)

    async def clean(self, process: Process) -> None:
        for _ in range(25):
            with suppress(CrashError):
                await process.trash.delete_due()
                await process.sweep.sweep()

    async def read(self, process: Process) -> None:
        for _ in range(40):
            with suppress(CrashError):
                found = await self.found(process, self.random.choice([STRONG, BOUNDED]))
                assert len({one.id for one in found}) == len(found)
                for one in found:
                    version_of(one)

    async def found(self, process: Process, consistency: Consistency) -> list[StoredImage]:
        match self.random.randrange(3):
            case 0:
                return await process.store.get(COLLECTION, self.ids, View.FULL, consistency, DEADLINE)
            case 1:
                return await process.store.query(COLLECTION, None, 2, View.FULL, consistency, DEADLINE)
        nearest = Nearest(2, View.FULL, consistency, match=self.random.choice(list(Match)))
        (hits,) = await process.store.search(COLLECTION, [np.ones(4, np.float32)], nearest, DEADLINE)
        return [hit.image for hit in hits]


class StaleImages(StaleStore):
    """Bounded reads see the images of one fixed moment and the regions of another."""

    def __init__(self, moments: tuple[int, int]) -> None:
        super().__init__(random.Random(1))
        self.places = moments

    def chosen(self) -> tuple[Any, Any]:
        images, regions = self.places
        return self._moments[images][0], self._moments[regions][1]


@pytest.mark.parametrize("moments", [(1, -1), (-1, 1)], ids=["stale-images", "stale-regions"])
async def test_stale_reads_are_repeated_with_strong_consistency(moments: tuple[int, int]) -> None:
    memory, clock = StaleImages(moments), Clock()
    await created(memory, clock)
    process = Process(memory, clock, calls=type("Calls", (StaleCalls,), {"memory": memory}))
    for version in (1, 2, 3):
        await process.store.upsert(COLLECTION, [image("a", version)], DEADLINE)
        clock.advance(STALENESS)
        # The writes see each other in spite of stale reads.
        await process.trash.delete_due()
        assert not await orphans(memory)
    for _ in range(5):
        (got,) = await process.store.get(COLLECTION, ["a"], View.FULL, BOUNDED, DEADLINE)
        (queried,) = await process.store.query(COLLECTION, None, 10, View.FULL, BOUNDED, DEADLINE)
        nearest = Nearest(2, View.FULL, BOUNDED)
        ((hit,),) = await process.store.search(COLLECTION, [np.ones(4, np.float32)], nearest, DEADLINE)
        assert [version_of(one) for one in (got, queried, hit.image)] == [3, 3, 3]


@pytest.mark.parametrize("seed", range(40))
async def test_readers_see_images_and_regions_of_one_write(seed: int) -> None:
    replicas = Replicas(seed)
    memory, clock = replicas.memory, replicas.clock
    await created(memory, clock)
    calls = type("Calls", (StaleCalls,), {"memory": memory})
    processes = [Process(memory, clock, replicas.step, calls) for _ in range(2)]
    await asyncio.gather(
        *(
            task(process)
            for process in processes
            for task in (replicas.write, replicas.write, replicas.clean, replicas.read, replicas.read)
        )
    )
    last = Process(memory, clock)
    clock.advance(2 * ORPHAN_AGE.total_seconds())
    await last.sweep.sweep()
    assert not await orphans(memory)
    for one in await last.store.query(COLLECTION, None, 10, View.FULL, STRONG, DEADLINE):
        version_of(one)
