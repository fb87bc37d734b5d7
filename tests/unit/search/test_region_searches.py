"""Searches of regions against an oracle that compares every region of every image."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from grpc_kit.deadline import Deadline
from grpc_kit.errors import ResourceExhaustedError
from search_service.adapters.milvus_errors import exact_too_large
from search_service.core import region_searches
from search_service.core.filters import Equals
from search_service.core.ports import After, Nearest, RegionTally
from search_service.core.region_searches import RegionSearches
from search_service.core.types import (
    WHOLE_IMAGE,
    Collection,
    Consistency,
    Hit,
    Match,
    Metric,
    Region,
    RegionHit,
    SearchParameters,
    StoredImage,
    StoredRegion,
    Vector,
    View,
)
from tests.memory_regions import MemoryRegions
from tests.memory_store import MemoryStore, score_and_distance

NOW = datetime(2026, 1, 1, tzinfo=UTC)
IMAGES, MAX_REGIONS, DIMENSION = 40, 6, 4
DEADLINE = Deadline.after(600)
KINDS = (Match.REGIONS, Match.ALL)


def box(number: int) -> Region:
    return Region(number / 10, 0.0, (number + 1) / 10, 1.0)


def random_image(number: int, dice: np.random.Generator, generation: int) -> StoredImage:
    """Return an image whose vectors have few different values, so that scores are often equal."""
    count = int(dice.integers(0, MAX_REGIONS + 1))
    vectors = dice.integers(0, 3, (count + 1, DIMENSION)).astype(np.float32)
    vectors[:, 0] += 1
    regions = tuple(StoredRegion(box(each), vector) for each, vector in enumerate(vectors[1:]))
    return StoredImage(
        f"image-{number:02}",
        attributes={"color": "red" if number % 3 else "blue"},
        create_time=NOW,
        update_time=NOW,
        vector=vectors[0],
        regions=regions,
        generation=generation,
        region_count=count,
    )


async def stored(images: Sequence[StoredImage], metric: Metric = Metric.COSINE) -> tuple[MemoryStore, Collection]:
    store = MemoryStore()
    collection = Collection("photos", DIMENSION, "f", NOW, metric=metric, max_regions=MAX_REGIONS)
    await store.regions.create(collection, DEADLINE)
    await store.create_collection(collection, DEADLINE)
    await store.regions.upsert(collection, images, DEADLINE)
    await store.upsert(collection, images, DEADLINE)
    return store, collection


def expected(
    images: Sequence[StoredImage], vector: Vector, match: Match, metric: Metric = Metric.COSINE
) -> list[tuple[str, float, float, Region]]:
    """Return the best region of each image, best first, computed without any shortcut."""
    rows = []
    for image in images:
        parts = [(region.box, region.vector) for region in image.regions]
        if match is Match.ALL and image.vector is not None:
            parts.append((WHOLE_IMAGE, image.vector))
        scored = [(*score_and_distance(vector, values, metric), where) for where, values in parts]
        if scored:
            score, distance, _ = min(scored, key=lambda each: (-each[0], each[1]))
            boxes = [where for each, other, where in scored if (each, other) == (score, distance)]
            rows.append((image.id, score, distance, boxes))
    rows.sort(key=lambda row: (-row[1], row[2], row[0]))
    return rows  # type: ignore[return-value]


def check(hits: Sequence[Hit], rows: Sequence[tuple[str, float, float, Region]]) -> None:
    assert [(hit.image.id, hit.score, hit.distance) for hit in hits] == [row[:3] for row in rows]
    for hit, row in zip(hits, rows, strict=True):
        assert hit.region in row[3]  # type: ignore[operator] # regions with equal scores are all right


@pytest.fixture(params=range(6))
def dice(request: pytest.FixtureRequest) -> np.random.Generator:
    return np.random.default_rng(request.param)


@pytest.mark.parametrize("match", KINDS)
@pytest.mark.parametrize("metric", Metric)
async def test_hits_are_those_of_the_oracle(dice: np.random.Generator, match: Match, metric: Metric) -> None:
    images = [random_image(number, dice, number + 1) for number in range(IMAGES)]
    store, collection = await stored(images, metric)
    searches = RegionSearches(store, store.regions)
    vector = dice.integers(1, 4, DIMENSION).astype(np.float32)
    for limit in (1, 3, 10, IMAGES + 1):
        for exact in (False, True):
            nearest = Nearest(
                limit, View.BASIC, Consistency.STRONG, match=match, parameters=SearchParameters(exact=exact)
            )
            (hits,) = await searches.search(collection, [vector], nearest, DEADLINE)
            check(hits, expected(images, vector, match, metric)[:limit])


@pytest.mark.parametrize("match", KINDS)
@pytest.mark.parametrize("size", [1, 2, 7])
async def test_pages_together_are_one_large_search(dice: np.random.Generator, match: Match, size: int) -> None:
    images = [random_image(number, dice, number + 1) for number in range(IMAGES)]
    store, collection = await stored(images)
    searches = RegionSearches(store, store.regions)
    vector = dice.integers(1, 4, DIMENSION).astype(np.float32)
    pages: list[Hit] = []
    after: After | None = None
    while True:
        nearest = Nearest(size, View.BASIC, Consistency.STRONG, match=match, after=after)
        (hits,) = await searches.search(collection, [vector], nearest, DEADLINE)
        if not hits:
            break
        pages += hits
        last = hits[-1]
        after = After(last.score, last.distance, last.image.id, len(pages))
    check(pages, expected(images, vector, match))


@pytest.mark.parametrize("match", KINDS)
async def test_a_filter_holds_for_regions(dice: np.random.Generator, match: Match) -> None:
    images = [random_image(number, dice, number + 1) for number in range(IMAGES)]
    store, collection = await stored(images)
    vector = dice.integers(1, 4, DIMENSION).astype(np.float32)
    nearest = Nearest(9, View.BASIC, Consistency.STRONG, match=match, condition=Equals("color", "blue"))
    (hits,) = await RegionSearches(store, store.regions).search(collection, [vector], nearest, DEADLINE)
    blue = [image for image in images if image.attributes["color"] == "blue"]
    check(hits, expected(blue, vector, match)[:9])


@pytest.mark.parametrize("match", KINDS)
async def test_regions_of_other_generations_are_no_hits(dice: np.random.Generator, match: Match) -> None:
    old = [random_image(number, dice, number + 1) for number in range(IMAGES)]
    store, collection = await stored(old)
    # Half of the images change; some are deleted; some writes store their regions and never commit.
    changed = [random_image(number, dice, 1000 + number) for number in range(IMAGES // 2)]
    await store.regions.upsert(collection, changed, DEADLINE)
    await store.upsert(collection, changed, DEADLINE)
    deleted = [f"image-{number:02}" for number in range(5, 9)]
    await store.delete(collection, deleted, DEADLINE)
    lost = [random_image(number, dice, 2000 + number) for number in range(10, 30)]
    await store.regions.upsert(collection, lost, DEADLINE)
    current = [image for image in [*changed, *old[IMAGES // 2 :]] if image.id not in deleted]
    vector = dice.integers(1, 4, DIMENSION).astype(np.float32)
    for limit in (1, 4, IMAGES):
        nearest = Nearest(limit, View.BASIC, Consistency.STRONG, match=match)
        (hits,) = await RegionSearches(store, store.regions).search(collection, [vector], nearest, DEADLINE)
        check(hits, expected(current, vector, match)[:limit])


async def test_beyond_the_window_all_regions_are_compared(
    dice: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(region_searches, "WINDOW", 8)
    images = [random_image(number, dice, number + 1) for number in range(IMAGES)]
    store, collection = await stored(images)
    vector = dice.integers(1, 4, DIMENSION).astype(np.float32)
    tally = RegionTally()
    nearest = Nearest(20, View.BASIC, Consistency.STRONG, match=Match.REGIONS, tally=tally)
    (hits,) = await RegionSearches(store, store.regions).search(collection, [vector], nearest, DEADLINE)
    check(hits, expected(images, vector, Match.REGIONS)[:20])
    assert tally.searches == 2
    assert tally.regions >= len(hits)


@pytest.mark.parametrize("match", KINDS)
@pytest.mark.parametrize("whole", [True, False], ids=["whole images are nearest", "regions are nearest"])
async def test_one_search_is_enough_if_each_image_has_few_near_regions(match: Match, *, whole: bool) -> None:
    def turned(angle: float) -> Vector:
        return np.array([np.cos(angle), np.sin(angle), 0, 0], dtype=np.float32)

    def image(number: int) -> StoredImage:
        near, far = turned(number / 100), turned(1 + number / 100)
        own, region = (near, far) if whole else (far, near)
        made = random_image(number, np.random.default_rng(number), number + 1)
        return replace(made, vector=own, regions=(StoredRegion(box(0), region),), region_count=1)

    images = [image(number) for number in range(IMAGES)]
    store, collection = await stored(images)
    tally = RegionTally()
    nearest = Nearest(10, View.BASIC, Consistency.STRONG, match=match, tally=tally)
    (hits,) = await RegionSearches(store, store.regions).search(collection, [turned(0)], nearest, DEADLINE)
    check(hits, expected(images, turned(0), match)[:10])
    assert tally.searches == 1


async def test_an_image_that_changes_between_the_two_reads_has_its_latest_region(dice: np.random.Generator) -> None:
    images = [random_image(number, dice, number + 1) for number in range(5)]
    store, collection = await stored(images)
    with_regions = next(image for image in images if image.regions)
    latest = replace(
        with_regions, generation=77, regions=(StoredRegion(box(9), np.ones(DIMENSION, np.float32)),), region_count=1
    )

    class ChangesMeanwhile(MemoryStore):
        """Writes another generation before the first read of an image."""

        async def get(self, *arguments: object, **named: object) -> list[StoredImage]:
            await store.regions.upsert(collection, [latest], DEADLINE)
            await store.upsert(collection, [latest], DEADLINE)
            return await store.get(*arguments, **named)  # type: ignore[arg-type]

    nearest = Nearest(10, View.BASIC, Consistency.BOUNDED, match=Match.REGIONS)
    searches = RegionSearches(ChangesMeanwhile(), store.regions)
    vector = np.ones(DIMENSION, np.float32)
    (hits,) = await searches.search(collection, [vector], nearest, DEADLINE)
    (hit,) = [hit for hit in hits if hit.image.id == latest.id]
    assert (hit.region, hit.image.generation) == (box(9), 77)
    assert hit.score == pytest.approx(1)


async def test_searches_beside_writes_see_one_generation(dice: np.random.Generator) -> None:
    images = [random_image(number, dice, number + 1) for number in range(IMAGES)]
    store, collection = await stored(images)
    done = False

    async def write() -> None:
        nonlocal done
        for turn in range(200):
            image = random_image(turn % IMAGES, dice, 10_000 + turn)
            await store.regions.upsert(collection, [image], DEADLINE)
            await asyncio.sleep(0)
            await store.upsert(collection, [image], DEADLINE)
            await asyncio.sleep(0)
        done = True

    writing = asyncio.create_task(write())
    vector = np.ones(DIMENSION, np.float32)
    while not done:
        nearest = Nearest(10, View.BASIC, Consistency.STRONG, match=Match.REGIONS)
        (hits,) = await RegionSearches(store, store.regions).search(collection, [vector], nearest, DEADLINE)
        rows = store.regions.rows(collection)
        for hit in hits:
            assert hit.region in [region.box for region in rows[hit.image.generation].regions]
        await asyncio.sleep(0)
    await writing


class Recording:
    """A store that records its calls."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*arguments: Any) -> Any:
            self.calls.append((name, arguments))
            return await method(*arguments)

        return call


async def test_exact_search_stays_exact_if_it_reads_more_images() -> None:
    # All images have the same score, so the first images alone are never certain.
    vector = np.ones(DIMENSION, np.float32)
    images = [StoredImage(f"image-{number:02}", vector=vector, generation=1 + number) for number in range(IMAGES)]
    store, collection = await stored(images)
    recording = Recording(store)
    nearest = Nearest(3, View.BASIC, Consistency.STRONG, match=Match.ALL, parameters=SearchParameters(exact=True))
    searches = RegionSearches(recording, store.regions)
    (hits,) = await searches.search(collection, [vector], nearest, DEADLINE)
    assert [hit.image.id for hit in hits] == ["image-00", "image-01", "image-02"]
    exact = [arguments[2].parameters.exact for name, arguments in recording.calls if name == "search"]
    assert len(exact) > 1
    assert all(exact)


async def test_deleted_images_cost_no_read_that_waits(dice: np.random.Generator) -> None:
    images = [random_image(number, dice, number + 1) for number in range(IMAGES)]
    store, collection = await stored(images)
    # Their regions are deleted later.
    await store.delete(collection, [image.id for image in images[::2]], DEADLINE)
    recording = Recording(store)
    nearest = Nearest(10, View.BASIC, Consistency.BOUNDED, match=Match.REGIONS)
    searches = RegionSearches(recording, store.regions)
    vector = dice.integers(1, 4, DIMENSION).astype(np.float32)
    (hits,) = await searches.search(collection, [vector], nearest, DEADLINE)
    check(hits, expected(images[1::2], vector, Match.REGIONS)[:10])
    assert {arguments[3] for name, arguments in recording.calls if name == "get"} == {Consistency.BOUNDED}


async def test_image_that_the_first_read_misses_is_read_again(dice: np.random.Generator) -> None:
    """Milvus 2.3 may miss an image while it is written."""
    images = [random_image(number, dice, number + 1) for number in range(IMAGES)]
    store, collection = await stored(images)

    class Misses(MemoryStore):
        missed = False

        async def get(self, *arguments: Any) -> list[StoredImage]:
            found = await store.get(*arguments)
            if self.missed:
                return found
            self.missed = True
            return found[1:]

    vector = dice.integers(1, 4, DIMENSION).astype(np.float32)
    nearest = Nearest(10, View.BASIC, Consistency.BOUNDED, match=Match.REGIONS)
    (hits,) = await RegionSearches(Misses(), store.regions).search(collection, [vector], nearest, DEADLINE)
    check(hits, expected(images, vector, Match.REGIONS)[:10])


@pytest.mark.parametrize("match", KINDS)
async def test_vectors_are_read_for_hits_only(dice: np.random.Generator, match: Match) -> None:
    images = [random_image(number, dice, number + 1) for number in range(IMAGES)]
    store, collection = await stored(images)
    recording = Recording(store)
    vector = dice.integers(1, 4, DIMENSION).astype(np.float32)
    rows = expected(images, vector, match)
    after = After(*rows[19][1:3], rows[19][0], 20)
    nearest = Nearest(5, View.FULL, Consistency.STRONG, match=match, after=after)
    searches = RegionSearches(recording, store.regions)
    (hits,) = await searches.search(collection, [vector], nearest, DEADLINE)
    check(hits, rows[20:25])
    read = [arguments for name, arguments in recording.calls if name == "get" and arguments[2] is View.VECTOR]
    assert all(len(arguments[1]) <= 5 for arguments in read)
    assert all(arguments[2].view is View.ID for name, arguments in recording.calls if name == "search")


async def test_too_many_regions_to_compare_say_what_to_do(
    dice: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [random_image(number, dice, number + 1) for number in range(IMAGES)]
    store, collection = await stored(images)

    async def refuse(*_: Any) -> Any:
        raise exact_too_large(2, 1)

    monkeypatch.setattr(region_searches, "WINDOW", 8)
    monkeypatch.setattr(store.regions, "best_of_all", refuse)
    vector = np.ones(DIMENSION, np.float32)
    for exact, message in ((False, "the 8 regions nearest to the query .* ask for fewer images"), (True, "the exact")):
        parameters = SearchParameters(exact=exact)
        nearest = Nearest(20, View.BASIC, Consistency.STRONG, match=Match.REGIONS, parameters=parameters)
        with pytest.raises(ResourceExhaustedError, match=message) as refused:
            await RegionSearches(store, store.regions).search(collection, [vector], nearest, DEADLINE)
        assert refused.value.reason == "EXACT_TOO_LARGE"
        assert refused.value.metadata == {"max_bytes": "1"}


@pytest.mark.parametrize("match", KINDS)
async def test_a_graph_that_leads_to_few_regions_hides_no_image(dice: np.random.Generator, match: Match) -> None:
    images = [random_image(number, dice, number + 1) for number in range(IMAGES)]
    store, collection = await stored(images)

    class FewOfThem(MemoryRegions):
        """Returns at most three regions, as a graph of very similar vectors may."""

        async def search(
            self, collection: Collection, vectors: Sequence[Vector], nearest: Nearest, deadline: Deadline
        ) -> list[list[RegionHit]]:
            return [hits[:3] for hits in await store.regions.search(collection, vectors, nearest, deadline)]

        def rows(self, collection: Collection) -> dict[int, StoredImage]:
            return store.regions.rows(collection)

    vector = dice.integers(1, 4, DIMENSION).astype(np.float32)
    nearest = Nearest(IMAGES, View.BASIC, Consistency.STRONG, match=match)
    (hits,) = await RegionSearches(store, FewOfThem(store)).search(collection, [vector], nearest, DEADLINE)
    check(hits, expected(images, vector, match)[:IMAGES])
