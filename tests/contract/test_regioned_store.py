"""Images with their regions, through the decorator, with the same behaviour on every store."""

import dataclasses
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from grpc_kit.deadline import Deadline
from grpc_kit.errors import AlreadyExistsError, NotFoundError
from search_service.adapters.milvus_store import MilvusStore
from search_service.core.change_images import ChangeImages, ImageUpdate
from search_service.core.code_sets import CodeSets
from search_service.core.coded_store import CodedStore, CodeWriter
from search_service.core.codes import CodeTransform
from search_service.core.collection_cache import CollectionCache
from search_service.core.expiry import ExpiringStore
from search_service.core.filters import Equals
from search_service.core.image_locks import ImageLocks
from search_service.core.ports import Nearest
from search_service.core.region_searches import RegionSearches
from search_service.core.region_sweep import RegionSweep
from search_service.core.region_trash import STALENESS, RegionTrash
from search_service.core.regioned_store import RegionedStore
from search_service.core.regions import first_generation
from search_service.core.types import Alias, Collection, Consistency, Region, Reindex, StoredImage, StoredRegion, View
from tests.memory_codes import MemoryCodes
from tests.memory_store import MemoryStore

STRONG = Consistency.STRONG
BEGIN = datetime.now(UTC)
ORPHAN_AGE = timedelta(hours=1)


class Only:
    """A store or its regions, with the collections of one test: other tests use the same server."""

    def __init__(self, store: Any, prefix: str) -> None:
        self._store, self._prefix = store, prefix

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def list_collections(self, after: str, limit: int, deadline: Deadline) -> list[Collection]:
        found = await self._store.list_collections(after, 10_000, deadline)
        return [one for one in found if one.name.startswith(self._prefix)][:limit]

    async def leftovers(self, deadline: Deadline) -> list[Collection]:
        found = await self._store.leftovers(deadline)
        return [one for one in found if one.name.startswith(self._prefix)]


@dataclass
class Setup:
    """A store with its decorators, and clocks that a test sets."""

    inner: MilvusStore | MemoryStore
    now: datetime = BEGIN
    seconds: float = 0.0
    swept: list[int] = field(default_factory=list)
    prefix: str = field(default_factory=lambda: f"c_{uuid.uuid4().hex[:16]}")

    def __post_init__(self) -> None:
        self.trash = RegionTrash(self.inner, self.inner.regions, lambda: self.seconds)
        self.regioned = RegionedStore(
            self.inner,
            self.inner.regions,
            RegionSearches(self.inner, self.inner.regions),
            self.trash,
            lambda: self.now,
            commit_time=ORPHAN_AGE / 2,
            max_join_bytes=1024**2,
        )
        self.codes = self.inner.codes if isinstance(self.inner, MilvusStore) else MemoryCodes(self.inner)
        self.writer = CodeWriter(self.codes)
        self.coded = CodedStore(self.regioned, self.codes, self.writer)
        self.store = ExpiringStore(self.coded, lambda: self.now)
        own, regions = Only(self.inner, self.prefix), Only(self.inner.regions, self.prefix)
        self.sweeper = RegionSweep(own, regions, lambda: self.now, orphan_age=ORPHAN_AGE, removed=self.swept.append)

    @property
    def name(self) -> str:
        """Return a new name for a collection."""
        return f"{self.prefix}_{uuid.uuid4().hex[:8]}"

    async def empty_trash(self) -> None:
        self.seconds += STALENESS
        while await self.trash.delete_due():
            pass

    async def rows(self, collection: Collection, deadline: Deadline) -> list[tuple[str, int]]:
        """Return the ids and generations of all stored regions."""
        return await self.inner.regions.generations(collection, 0, 2**96 - 1, 10_000, deadline)

    async def current(self, collection: Collection, deadline: Deadline) -> list[tuple[str, int]]:
        """Return the ids and generations of all images that have regions."""
        images = await self.inner.query(collection, None, 10_000, View.ID, STRONG, deadline)
        return sorted(((one.id, one.generation) for one in images if one.region_count), key=lambda pair: pair[1])


@pytest.fixture
def setup(store: MilvusStore | MemoryStore) -> Setup:
    return Setup(store)


@pytest.fixture
async def regioned(setup: Setup, deadline: Deadline) -> AsyncIterator[Collection]:
    made = Collection(setup.name, 8, "f", BEGIN, max_regions=3)
    await setup.store.create_collection(made, deadline)
    yield made
    await setup.store.delete_collection(made, Deadline.after(30))


def image(image_id: str, version: int, count: int = 2, dimension: int = 8) -> StoredImage:
    """Return an image whose vector, attribute and regions all hold its version."""
    vector = np.full(dimension, 1.0, np.float32)
    vector[0] = version
    found = tuple(StoredRegion(Region(0, 0, 1 / (2 + n), 1), vector + n, version) for n in range(count))
    return StoredImage(
        image_id,
        attributes={"version": version},
        create_time=BEGIN,
        update_time=BEGIN,
        vector=vector,
        regions=found,
    )


def version_of(found: StoredImage) -> int:
    """Return the version of an image, and check that its parts agree."""
    version = found.attributes["version"]
    assert isinstance(version, int)
    assert found.vector is not None
    assert found.vector[0] == version
    assert len(found.regions) == found.region_count
    for number, region in enumerate(found.regions):
        assert region.saliency == version
        assert region.vector.tolist() == (found.vector + number).tolist()
        assert region.box == Region(0, 0, 1 / (2 + number), 1)
    return version


async def test_reads_return_the_regions_of_the_last_write(
    setup: Setup, regioned: Collection, deadline: Deadline
) -> None:
    await setup.store.upsert(regioned, [image("a", 1), image("b", 2, count=0), image("c", 3, count=3)], deadline)
    await setup.store.upsert(regioned, [image("a", 4, count=3)], deadline)
    images = await setup.store.get(regioned, ["a", "b", "c", "d"], View.FULL, STRONG, deadline)
    assert {one.id: (version_of(one), len(one.regions)) for one in images} == {"a": (4, 3), "b": (2, 0), "c": (3, 3)}
    images = await setup.store.query(regioned, None, 2, View.FULL, STRONG, deadline)
    assert [(one.id, version_of(one)) for one in images] == [("a", 4), ("b", 2)]
    images = await setup.store.query(regioned, Equals("version", 3), 10, View.FULL, STRONG, deadline)
    assert [(one.id, version_of(one)) for one in images] == [("c", 3)]
    vector = image("c", 3).vector
    assert vector is not None
    (hits,) = await setup.store.search(regioned, [vector], Nearest(2, View.FULL, STRONG), deadline)
    assert [version_of(hit.image) for hit in hits] == [3, 4]
    for view in (View.ID, View.TIMES, View.BASIC, View.VECTOR):
        images = await setup.store.get(regioned, ["a"], view, STRONG, deadline)
        assert images[0].regions == ()


async def test_replaced_and_deleted_regions_are_deleted_later(
    setup: Setup, regioned: Collection, deadline: Deadline
) -> None:
    for version in (1, 2, 3):
        await setup.store.upsert(regioned, [image(image_id, version) for image_id in "abc"], deadline)
    await setup.store.delete(regioned, ["b", "missing"], deadline)
    assert len(await setup.rows(regioned, deadline)) == 9
    assert len(setup.trash) == 7
    assert await setup.trash.delete_due() == 0
    await setup.empty_trash()
    rows = await setup.rows(regioned, deadline)
    assert rows == await setup.current(regioned, deadline)
    assert [image_id for image_id, _ in rows] == ["a", "c"]
    images = await setup.store.get(regioned, ["a", "b", "c"], View.FULL, STRONG, deadline)
    assert [version_of(one) for one in images] == [3, 3]


async def test_update_keeps_the_regions_with_the_new_attributes(
    setup: Setup, regioned: Collection, deadline: Deadline
) -> None:
    changes = ChangeImages(setup.store, lambda: setup.now, ImageLocks())
    await setup.store.upsert(regioned, [image("a", 1)], deadline)
    update = ImageUpdate(regioned.name, "a", ["attributes.color"], "", {"color": "red"})
    assert (await changes.update(update, deadline)).regions == ()
    (found,) = await setup.store.get(regioned, ["a"], View.FULL, STRONG, deadline)
    assert found.attributes == {"version": 1, "color": "red"}
    assert version_of(found) == 1
    await setup.empty_trash()
    red = Nearest(10, View.ID, STRONG, condition=Equals("color", "red"))
    (hits,) = await setup.inner.regions.search(regioned, [np.ones(8, np.float32)], red, deadline)
    assert len(hits) == 2
    assert await changes.delete_matching(regioned.name, Equals("color", "red"), deadline, validate_only=False) == 1
    await setup.empty_trash()
    assert await setup.rows(regioned, deadline) == []


async def test_sweep_deletes_old_regions_that_no_image_has(
    setup: Setup, regioned: Collection, deadline: Deadline
) -> None:
    setup.now = BEGIN - 2 * ORPHAN_AGE
    await setup.store.upsert(regioned, [image(f"i{number}", 1) for number in range(30)], deadline)
    # Replaced by a process that ended before it deleted the earlier regions.
    await setup.store.upsert(regioned, [image(f"i{number}", 2) for number in range(10)], deadline)
    await setup.inner.delete(regioned, ["i29"], deadline)
    setup.now = BEGIN
    # A write in flight in another process: its image is not committed yet.
    young = dataclasses.replace(image("young", 1), generation=first_generation(BEGIN))
    await setup.inner.regions.upsert(regioned, [young], deadline)
    assert await setup.sweeper.sweep() == 11
    assert sum(setup.swept) == 11
    rows = await setup.rows(regioned, deadline)
    assert rows == [*await setup.current(regioned, deadline), ("young", young.generation)]
    images = await setup.store.query(regioned, None, 100, View.FULL, STRONG, deadline)
    assert [version_of(one) for one in sorted(images, key=lambda one: int(one.id[1:]))] == [2] * 10 + [1] * 19
    setup.now += ORPHAN_AGE + timedelta(seconds=1)
    await setup.sweeper.sweep()
    assert await setup.rows(regioned, deadline) == await setup.current(regioned, deadline)


async def test_sweep_drops_the_regions_of_deleted_collections(setup: Setup, deadline: Deadline) -> None:
    old = Collection(setup.name, 8, "f", BEGIN - 2 * ORPHAN_AGE, max_regions=2)
    young = Collection(setup.name, 8, "f", BEGIN, max_regions=2)
    for collection in (old, young):
        await setup.inner.regions.create(collection, deadline)
    await setup.sweeper.sweep()
    left = {collection.identity for collection in await setup.inner.regions.leftovers(deadline)}
    assert old.identity not in left
    assert young.identity in left
    await setup.inner.regions.drop(young, deadline)


async def test_recreated_collection_starts_without_regions(setup: Setup, deadline: Deadline) -> None:
    first = Collection(setup.name, 8, "f", BEGIN, max_regions=2)
    second = dataclasses.replace(first, create_time=BEGIN + timedelta(seconds=1))
    await setup.store.create_collection(first, deadline)
    with pytest.raises(AlreadyExistsError):
        await setup.store.create_collection(second, deadline)
    # The refused creation left no place for regions.
    assert second.identity not in {left.identity for left in await setup.inner.regions.leftovers(deadline)}
    await setup.store.upsert(first, [image("a", 1)], deadline)
    await setup.store.delete_collection(first, deadline)
    await setup.store.create_collection(second, deadline)
    assert await setup.rows(second, deadline) == []
    with pytest.raises(NotFoundError):
        # A write that began before the deletion.
        await setup.store.upsert(first, [image("a", 2)], deadline)
    await setup.store.upsert(second, [image("a", 3)], deadline)
    (found,) = await setup.store.get(second, ["a"], View.FULL, STRONG, deadline)
    assert version_of(found) == 3
    await setup.empty_trash()
    await setup.store.delete_collection(second, deadline)
    names = {first.identity, second.identity}
    assert not names & {left.identity for left in await setup.inner.regions.leftovers(deadline)}


async def test_alias_leads_to_the_regions_of_its_collection(
    setup: Setup, regioned: Collection, deadline: Deadline
) -> None:
    alias = f"a_{uuid.uuid4().hex}"
    await setup.store.set_alias(Alias(alias, regioned.name), deadline)
    described = await setup.store.get_collection(alias, deadline)
    await setup.store.upsert(described, [image("a", 1)], deadline)
    (found,) = await setup.store.get(described, ["a"], View.FULL, STRONG, deadline)
    assert version_of(found) == 1
    await setup.store.delete_alias(alias, deadline)


async def test_deletions_reach_the_regions_of_a_copy(setup: Setup, regioned: Collection, deadline: Deadline) -> None:
    copy = Collection(setup.name, 8, "f", BEGIN, max_regions=2)
    await setup.store.create_collection(copy, deadline)
    for collection in (regioned, copy):
        await setup.store.upsert(collection, [image("a", 1), image("b", 1)], deadline)
    await setup.store.set_reindex(regioned, Reindex(copy.name, copy.create_time, BEGIN), deadline)
    changes = ChangeImages(setup.store, lambda: setup.now, ImageLocks())
    assert await changes.delete_ids(regioned.name, ["a"], deadline, validate_only=False) == 1
    await setup.empty_trash()
    for collection in (regioned, copy):
        assert [image_id for image_id, _ in await setup.rows(collection, deadline)] == ["b"]
    await setup.store.delete_collection(copy, deadline)


async def test_regions_are_hidden_with_their_expired_image(setup: Setup, deadline: Deadline) -> None:
    made = Collection(setup.name, 8, "f", BEGIN, ttl=timedelta(hours=3), max_regions=2)
    await setup.store.create_collection(made, deadline)
    await setup.store.upsert(made, [image("a", 1)], deadline)
    (found,) = await setup.store.query(made, None, 10, View.FULL, STRONG, deadline)
    assert version_of(found) == 1
    setup.now = BEGIN + timedelta(hours=3, seconds=2)
    assert await setup.store.query(made, None, 10, View.FULL, STRONG, deadline) == []
    assert await setup.store.get(made, ["a"], View.FULL, STRONG, deadline) == []
    # The image still exists in the store, so the sweep keeps its regions until the store deletes the image.
    await setup.sweeper.sweep()
    assert len(await setup.rows(made, deadline)) == 1
    await setup.inner.delete(made, ["a"], deadline)
    await setup.sweeper.sweep()
    assert await setup.rows(made, deadline) == []
    await setup.store.delete_collection(made, deadline)


async def test_codes_and_regions_of_one_image(setup: Setup, deadline: Deadline) -> None:
    if not setup.codes.supported:
        # Milvus Lite has no codes; the other two stores have.
        return
    made = Collection(setup.name, 64, "f", BEGIN, max_regions=3)
    await setup.store.create_collection(made, deadline)
    await setup.store.upsert(made, [image(image_id, 1, dimension=64) for image_id in "ab"], deadline)
    sets = CodeSets(
        setup.coded, setup.codes, setup.writer, CollectionCache(setup.store), ImageLocks(), lambda: setup.now
    )
    planes = np.random.default_rng(1).normal(size=(64, 65)).astype(np.float32)
    await sets.create(made, CodeTransform(planes), deadline)
    steps = [step async for step in sets.encode(made.name, lambda: Deadline.after(30))]
    assert steps[-1].encoded == 2
    coded = await setup.store.get_collection(made.name, deadline)
    assert coded.max_regions == 3
    await setup.store.upsert(coded, [image(image_id, 2, dimension=64) for image_id in "bc"], deadline)
    await setup.store.delete(coded, ["a"], deadline)
    await setup.empty_trash()
    assert await setup.codes.count(coded, coded.codes[0], deadline) == 2
    images = await setup.store.query(coded, None, 10, View.FULL, STRONG, deadline)
    assert [(one.id, version_of(one)) for one in images] == [("b", 2), ("c", 2)]
    assert await setup.rows(coded, deadline) == await setup.current(coded, deadline)
    await setup.store.delete_collection(coded, deadline)
