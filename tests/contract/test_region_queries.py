"""Searches of regions with every option, on every store, against a comparison of every region."""

import dataclasses
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from grpc_kit.deadline import Deadline
from search_service.adapters.milvus_store import MilvusStore
from search_service.core.collection_cache import CollectionCache
from search_service.core.expiry import ExpiringStore
from search_service.core.filters import Equals
from search_service.core.region_searches import RegionSearches
from search_service.core.region_trash import RegionTrash
from search_service.core.regioned_store import RegionedStore
from search_service.core.search_images import SearchImages
from search_service.core.searches import Examples, GroupBy, PageEnd, Search, SearchResult, StoredImageQuery
from search_service.core.types import (
    WHOLE_IMAGE,
    Collection,
    Consistency,
    Embedding,
    Hit,
    Match,
    Metric,
    Region,
    SearchParameters,
    StoredImage,
    StoredRegion,
    Vector,
    View,
)
from tests.memory_store import MemoryStore, score_and_distance

NOW = datetime.now(UTC)
IMAGES, MAX_REGIONS, DIMENSION = 60, 4, 8
KINDS = ("red", "green", "blue")
# Relative difference of two computations of one score.
CLOSE = 1e-4


def new_image(number: int, dice: np.random.Generator) -> StoredImage:
    """Return an image with up to `MAX_REGIONS` regions. Some images have equal vectors."""
    vectors = dice.normal(size=(1 + int(dice.integers(0, MAX_REGIONS + 1)), DIMENSION)).astype(np.float32)
    if number % 6 == 0:
        vectors[:] = 0.5
    regions = tuple(StoredRegion(Region(n / 10, 0, (n + 1) / 10, 1), vector, n) for n, vector in enumerate(vectors[1:]))
    return StoredImage(
        f"i{number * 7919 % 997:03d}",
        attributes={"kind": KINDS[number % 3]},
        create_time=NOW,
        update_time=NOW,
        vector=vectors[0],
        regions=regions,
    )


def soon() -> Deadline:
    """Return the deadline of one call. A test makes hundreds of calls, so they share none."""
    return Deadline.after(30)


@dataclass(frozen=True)
class Best:
    """The best match of an image, and the boxes that have its score."""

    image: StoredImage
    score: float
    boxes: list[Region]


@dataclass
class Library:
    """A collection on one store, and its images in memory."""

    inner: MilvusStore | MemoryStore
    collection: Collection
    images: dict[str, StoredImage] = field(default_factory=dict)
    consistency: Consistency = Consistency.STRONG

    def __post_init__(self) -> None:
        inner: Any = self.inner
        regioned = RegionedStore(
            inner,
            inner.regions,
            RegionSearches(inner, inner.regions),
            RegionTrash(inner, inner.regions),
            lambda: datetime.now(UTC),
            commit_time=timedelta(minutes=30),
            max_join_bytes=1024**2,
        )
        self.store = ExpiringStore(regioned, lambda: datetime.now(UTC))
        # Queries are vectors and ids.
        self._searches = SearchImages(self.store, None, CollectionCache(self.store))  # type: ignore[arg-type]

    async def write(self, images: Sequence[StoredImage]) -> None:
        await self.store.upsert(self.collection, images, soon())
        self.images.update({image.id: image for image in images})

    async def delete(self, ids: Sequence[str]) -> None:
        await self.store.delete(self.collection, ids, soon())
        for image_id in ids:
            del self.images[image_id]

    async def search(self, query: Any, **options: Any) -> SearchResult:
        given = Embedding(query, "f") if isinstance(query, np.ndarray) else query
        search = Search(self.collection.name, given, consistency=self.consistency, **options)
        return await self._searches.search(search, soon())

    async def pages(self, vector: Vector, match: Match, limit: int) -> AsyncIterator[list[Hit]]:
        page: PageEnd | None = None
        while True:
            result = await self.search(vector, match=match, limit=limit, page=page, paged=True)
            yield result.hits
            page = result.end
            if page is None:
                return

    def best(self, vector: Vector, match: Match) -> list[Best]:
        """Return the best match of every image, best first."""
        found = []
        for image in self.images.values():
            parts = [(region.box, region.vector) for region in image.regions]
            if match is Match.ALL and image.vector is not None:
                parts.append((WHOLE_IMAGE, image.vector))
            scores = [(score_and_distance(vector, values, self.collection.metric)[0], box) for box, values in parts]
            if scores:
                top = max(score for score, _ in scores)
                boxes = [box for score, box in scores if score == pytest.approx(top, rel=CLOSE, abs=CLOSE)]
                found.append(Best(image, top, boxes))
        return sorted(found, key=lambda best: (-best.score, best.image.id))


def check(hits: Sequence[Hit], wanted: Sequence[Best]) -> None:
    """Check that hits are the wanted ones. Images with nearly equal scores may be in another order."""
    assert [hit.score for hit in hits] == pytest.approx([best.score for best in wanted], rel=CLOSE, abs=CLOSE)
    assert len({hit.image.id for hit in hits}) == len(hits)


def check_each(hits: Sequence[Hit], every: Sequence[Best]) -> None:
    """Check the score and the box of each hit, and the order of hits with equal scores."""
    by_id = {best.image.id: best for best in every}
    for hit in hits:
        best = by_id[hit.image.id]
        assert hit.score == pytest.approx(best.score, rel=CLOSE, abs=CLOSE)
        assert hit.region in best.boxes
    order = [(-hit.score, hit.image.id) for hit in hits]
    assert order == sorted(order)


@pytest.fixture
async def library(request: pytest.FixtureRequest, store: MilvusStore | MemoryStore) -> AsyncIterator[Library]:
    """Store random images, of which a third was written twice; `indirect` sets another metric than cosine.

    Some were deleted, and their regions are still there.
    """
    dice = np.random.default_rng(len(request.node.name))
    metric = getattr(request, "param", Metric.COSINE)
    made = Collection(f"c_{uuid.uuid4().hex}", DIMENSION, "f", NOW, metric=metric, max_regions=MAX_REGIONS)
    library = Library(store, made)
    await library.store.create_collection(made, soon())
    await library.write([new_image(number, dice) for number in range(IMAGES)])
    await library.write([new_image(number, dice) for number in range(0, IMAGES, 3)])
    await library.delete(sorted(library.images)[:7])
    for kind in (Match.REGIONS, Match.ALL):
        await library.search(random_vector(), match=kind, view=View.FULL)
    # What a search with strong consistency has seen, later searches see too, and on a server they do not wait.
    library.consistency = Consistency.BOUNDED
    yield library
    await library.store.delete_collection(made, soon())


@pytest.fixture(params=[Match.REGIONS, Match.ALL], ids=lambda match: match.value)
def match(request: pytest.FixtureRequest) -> Match:
    kind: Match = request.param
    return kind


def random_vector(seed: int = 3) -> Vector:
    return np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)


@pytest.mark.parametrize("library", list(Metric), ids=lambda metric: metric.value, indirect=True)
async def test_options_of_a_search(library: Library, match: Match) -> None:
    # The second query is equal to the vectors of several images.
    for vector in (random_vector(), np.full(DIMENSION, 0.5, np.float32)):
        every = library.best(vector, match)
        for limit in (1, 10, 1000):
            for exact in (False, True):
                parameters = SearchParameters(exact=exact)
                hits = (await library.search(vector, match=match, limit=limit, parameters=parameters)).hits
                check(hits, every[:limit])
                check_each(hits, every)
        middle = (every[20].score + every[21].score) / 2
        hits = (await library.search(vector, match=match, limit=100, min_score=middle)).hits
        check(hits, [best for best in every if best.score > middle])
        red = [best for best in every if best.image.attributes["kind"] == "red"]
        hits = (await library.search(vector, match=match, limit=5, condition=Equals("kind", "red"))).hits
        check(hits, red[:5])
        check_each(hits, red)


async def test_groups_have_their_best_images(library: Library, match: Match) -> None:
    vector = random_vector()
    every = library.best(vector, match)
    for size, limit in ((1, 3), (4, 12), (2, 4)):
        sizes: Counter[Any] = Counter()
        wanted: list[Best] = []
        for best in every:
            if len(wanted) < limit and sizes[best.image.attributes["kind"]] < size:
                sizes[best.image.attributes["kind"]] += 1
                wanted.append(best)
        group_by = GroupBy("kind", size)
        hits = (await library.search(vector, match=match, limit=limit, group_by=group_by)).hits
        check(hits, wanted)
        check_each(hits, every)


async def test_views_have_the_same_hits(library: Library, match: Match) -> None:
    vector = random_vector()
    every = library.best(vector, match)
    for view in (View.ID, View.BASIC, View.FULL):
        hits = (await library.search(vector, match=match, view=view, limit=12)).hits
        check(hits, every[:12])
        for hit in hits:
            image = library.images[hit.image.id]
            assert hit.image.attributes == ({} if view is View.ID else image.attributes)
            assert (hit.image.vector is not None) is (view is View.FULL)
            boxes = [region.box for region in image.regions] if view is View.FULL else []
            assert [region.box for region in hit.image.regions] == boxes


async def test_stored_images_are_queries(library: Library, match: Match) -> None:
    query = sorted(library.images)[3]
    vector = library.images[query].vector
    assert vector is not None
    every = library.best(vector, match)
    others = [best for best in every if best.image.id != query]
    hits = (await library.search(StoredImageQuery(query), match=match, limit=9)).hits
    check(hits, others[:9])
    assert query not in [hit.image.id for hit in hits]
    hits = (await library.search(StoredImageQuery(query), match=match, limit=9, include_query=True)).hits
    check(hits, every[:9])
    examples = Examples([StoredImageQuery(query)])
    hits = (await library.search(examples, match=match, limit=100)).hits
    assert sorted(hit.image.id for hit in hits) == sorted(best.image.id for best in others)


async def test_pages_together_are_one_large_search(library: Library, match: Match) -> None:
    for size in (1, 7, 50):
        for vector in (random_vector(5), np.full(DIMENSION, 0.5, np.float32)):
            every = library.best(vector, match)
            hits: list[Hit] = []
            async for page in library.pages(vector, match, size):
                assert len(page) == min(size, len(every) - len(hits))
                hits += page
            check(hits, every)
            check_each(hits, every)
            large = (await library.search(vector, match=match, limit=1000)).hits
            assert sorted(hit.image.id for hit in hits) == sorted(hit.image.id for hit in large)


@pytest.mark.parametrize("change", ["write", "delete"])
async def test_images_that_do_not_change_are_on_one_page(library: Library, match: Match, change: str) -> None:
    """Other images are written or deleted between the pages."""
    library.consistency = Consistency.STRONG
    dice = np.random.default_rng(11)
    vector = random_vector(6)
    changed: set[str] = set()
    seen: Counter[str] = Counter()
    ids: Callable[[], list[str]] = lambda: sorted(set(library.images) - changed)  # noqa: E731
    async for page in library.pages(vector, match, 6):
        seen.update(hit.image.id for hit in page)
        check_each(page, library.best(vector, match))
        some = [ids()[position] for position in dice.choice(len(ids()), 3, replace=False)]
        changed.update(some)
        if change == "delete":
            await library.delete(some)
        else:
            new = new_image(1, dice)
            await library.write([dataclasses.replace(new, id=image_id) for image_id in some])
    stayed = [best.image.id for best in library.best(vector, match) if best.image.id not in changed]
    assert len(stayed) > 10
    assert [seen[image_id] for image_id in stayed] == [1] * len(stayed)
    if change == "delete":
        assert max(seen.values()) == 1
