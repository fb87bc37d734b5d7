"""Searches of regions: each image is at most one hit, with the best of its regions.

A search reads the nearest regions from the top, of any generation. The first region of an image is its best one. The
images are read then: only regions of an image's current generation count. The search reads more regions until it has
enough images. So an image never comes back on a later page through a weaker region.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from grpc_kit.deadline import Deadline
from grpc_kit.errors import ResourceExhaustedError
from search_service.core.ports import After, Nearest, RegionStore, VectorStore
from search_service.core.types import (
    WHOLE_IMAGE,
    Collection,
    Consistency,
    Hit,
    Match,
    RegionHit,
    SearchParameters,
    StoredImage,
    Vector,
    View,
)

# Regions that the first search reads for each image, and the growth for each further search.
REGIONS_PER_IMAGE, GROWTH = 6, 4
# Maximum number of regions of one search in the store.
WINDOW = 16_384
# Two computations of one score may differ by this much, and those of one distance by much less.
ROUNDING, NOISE = 1e-5, 1e-6

# The place of a hit in the order of hits: best first.
Order: TypeAlias = tuple[float, float, str]


@dataclass
class _Found:
    """The best hit of each generation of each image, from the nearest regions and images."""

    floor: Order | None = None
    """No hit before this place is missing; None if no hit at all is missing."""
    best: dict[str, dict[int, RegionHit]] = field(default_factory=dict)
    """By image and generation; images in the order of their best hits."""
    images: dict[str, StoredImage] = field(default_factory=dict)
    """The images that were read already."""
    is_short: bool = False
    """Whether the index returned fewer regions than there are."""

    def add(self, hits: Iterable[RegionHit], *, limit: int | None) -> None:
        """Add hits, best first. If there are as many as `limit`, further ones are missing."""
        count, last = 0, None
        for hit in hits:
            count, last = count + 1, hit
            generations = self.best.setdefault(hit.image_id, {})
            known = generations.get(hit.generation)
            if known is None or _order_of(hit) < _order_of(known):
                generations[hit.generation] = hit
        if last is not None and limit is not None and count >= limit:
            self.floor = _order_of(last) if self.floor is None else min(self.floor, _order_of(last))

    def sort(self) -> None:
        """Sort the images by their best hits."""
        self.best = dict(sorted(self.best.items(), key=lambda item: min(map(_order_of, item[1].values()))))

    def is_certain(self, order: Order) -> bool:
        """Return whether no hit before this place is missing."""
        if self.floor is None:
            return True
        # Regions with the score of the last one may be missing. The score of a hit that was read again may differ from
        # that of the search in the last bits.
        last = self.floor[1]
        return order[1] < last - NOISE * max(1.0, abs(last))


@dataclass(frozen=True)
class RegionSearches:
    """Find images by their regions, or by their regions and their own vectors."""

    store: VectorStore
    """Keeps the images."""
    regions: RegionStore

    async def search(
        self, collection: Collection, vectors: Sequence[Vector], nearest: Nearest, deadline: Deadline
    ) -> list[list[Hit]]:
        """Return the hits of each vector, best first. Their images have no regions.

        Raises ResourceExhaustedError if all regions must be compared, and their vectors are too many.
        """
        return [await self._search(collection, vector, nearest, deadline) for vector in vectors]

    async def _search(self, collection: Collection, vector: Vector, nearest: Nearest, deadline: Deadline) -> list[Hit]:
        seen = nearest.after.seen if nearest.after else 0
        count = nearest.limit + seen
        exact = nearest.parameters.exact
        while True:
            found = await self._nearest(collection, vector, nearest, count, deadline, exact=exact)
            end = _end_of(nearest.after, found)
            hits = await self._joined(collection, vector, found, end, nearest, deadline)
            if len(hits) >= nearest.limit or (found.floor is None and not found.is_short):
                return hits[: nearest.limit]
            # In the window there may be too few images, and a graph does not lead to all of very similar regions. Then
            # all regions are compared.
            exact = exact or found.is_short or count * REGIONS_PER_IMAGE >= WINDOW
            count *= GROWTH

    async def _nearest(
        self, collection: Collection, vector: Vector, nearest: Nearest, count: int, deadline: Deadline, *, exact: bool
    ) -> _Found:
        """Return the nearest regions and images for about `count` images."""
        found = _Found()
        limit = min(WINDOW, count * REGIONS_PER_IMAGE)
        # One more: an image is certain only if a worse one is known, and regions may add none.
        most = count + 1 if exact else min(count + 1, WINDOW)
        regions = (
            self._all_regions(collection, vector, nearest, deadline)
            if exact
            else self._regions(collection, vector, replace(nearest, limit=limit), deadline)
        )
        if nearest.match is not Match.ALL:
            hits = await regions
            await self._add_regions(found, hits, None if exact else limit, collection, nearest, deadline)
            return found
        if exact:
            # The images last: it takes a while to compare all regions, and those of later writes are compared last.
            hits = await regions
            images = await self._images(collection, vector, nearest, most, deadline, exact=True)
        else:
            whole = self._images(collection, vector, nearest, most, deadline, exact=False)
            hits, images = await asyncio.gather(regions, whole)
        await self._add_regions(found, hits, None if exact else limit, collection, nearest, deadline)
        found.add(map(_as_region, images), limit=most)
        found.sort()
        if _view_of_images(nearest) is nearest.view:
            found.images = {hit.image.id: hit.image for hit in images}
        return found

    async def _add_regions(
        self,
        found: _Found,
        hits: Sequence[RegionHit],
        limit: int | None,
        collection: Collection,
        nearest: Nearest,
        deadline: Deadline,
    ) -> None:
        """Add regions. Fewer than `limit` are all regions only if there are no others."""
        if limit is not None and len(hits) < limit:
            found.is_short = len(hits) < await self.regions.count(collection, nearest, deadline)
            limit = len(hits) if found.is_short else limit
        found.add(hits, limit=limit)

    async def _regions(
        self, collection: Collection, vector: Vector, nearest: Nearest, deadline: Deadline
    ) -> list[RegionHit]:
        (hits,) = await self.regions.search(collection, [vector], nearest, deadline)
        _count(nearest, len(hits))
        return hits

    async def _all_regions(
        self, collection: Collection, vector: Vector, nearest: Nearest, deadline: Deadline
    ) -> list[RegionHit]:
        try:
            hits = await self.regions.best_of_all(collection, vector, nearest, deadline)
        except ResourceExhaustedError as error:
            if nearest.parameters.exact or error.reason != "EXACT_TOO_LARGE":
                raise
            raise ResourceExhaustedError(
                error.reason,
                f"the {WINDOW} regions nearest to the query belong to too few images, and all regions together have "
                "too many bytes to be compared (SEARCH_MAX_EXACT_BYTES): ask for fewer images or pages, or use a "
                "filter that fewer images match",
                metadata=error.metadata,
            ) from None
        _count(nearest, len(hits))
        return hits

    async def _images(
        self, collection: Collection, vector: Vector, nearest: Nearest, limit: int, deadline: Deadline, *, exact: bool
    ) -> list[Hit]:
        """Return the images whose own vectors are nearest."""
        whole = replace(
            nearest,
            limit=limit,
            view=_view_of_images(nearest),
            match=Match.IMAGES,
            after=None,
            parameters=SearchParameters(exact=True) if exact else nearest.parameters,
        )
        (images,) = await self.store.search(collection, [vector], whole, deadline)
        return images

    async def _joined(
        self,
        collection: Collection,
        vector: Vector,
        found: _Found,
        end: Order | None,
        nearest: Nearest,
        deadline: Deadline,
    ) -> list[Hit]:
        """Return at least the first `nearest.limit` certain hits after `end`, if there are so many."""
        candidates = [
            image_id
            for image_id, generations in found.best.items()
            if any(end is None or _order_of(hit) > end for hit in generations.values())
        ]
        hits: list[Hit] = []
        size = max(1, nearest.limit)
        for begin in range(0, len(candidates), size):
            ids = candidates[begin : begin + size]
            hits += await self._hits(collection, vector, found, ids, nearest, deadline)
            hits = [hit for hit in hits if end is None or _order_of_hit(hit) > end]
            rest = candidates[begin + size :]
            # A later candidate may still have a better place than the last of these hits.
            following = min((_order_of(hit) for hit in found.best[rest[0]].values()), default=None) if rest else None
            hits.sort(key=_order_of_hit)
            if len(hits) >= nearest.limit and (
                following is None or _order_of_hit(hits[nearest.limit - 1]) <= following
            ):
                break
        return [hit for hit in hits if found.is_certain(_order_of_hit(hit))]

    async def _hits(
        self,
        collection: Collection,
        vector: Vector,
        found: _Found,
        ids: Sequence[str],
        nearest: Nearest,
        deadline: Deadline,
    ) -> list[Hit]:
        """Return the hits of images in their current generations."""
        view = View.VECTOR if nearest.view is View.FULL else nearest.view
        images = {image_id: found.images[image_id] for image_id in ids if image_id in found.images}
        # An image that is missing was probably deleted some seconds ago. But Milvus 2.3 may miss an image while it is
        # written, so read again. A read with strong consistency would wait.
        for _ in range(2):
            if unread := [image_id for image_id in ids if image_id not in images]:
                read = await self.store.get(collection, unread, view, nearest.consistency, deadline)
                images |= {image.id: image for image in read}
        best = {image.id: hit for image in images.values() if (hit := found.best[image.id].get(image.generation))}
        if changed := [image_id for image_id in ids if image_id in images and image_id not in best]:
            # They changed meanwhile, or a read was stale, or the better regions are of an earlier generation.
            latest = await self.store.get(collection, changed, view, Consistency.STRONG, deadline)
            images |= {image.id: image for image in latest}
            best |= await self._best_of(collection, vector, latest, nearest, deadline)
        return [
            Hit(images[image_id], hit.score, hit.distance, hit.box) for image_id in ids if (hit := best.get(image_id))
        ]

    async def _best_of(
        self,
        collection: Collection,
        vector: Vector,
        images: Sequence[StoredImage],
        nearest: Nearest,
        deadline: Deadline,
    ) -> dict[str, RegionHit]:
        """Return the best region of each image in its current generation, read with strong consistency."""
        if not images:
            return {}
        generations = {image.generation for image in images}
        among = replace(nearest, among=tuple(image.id for image in images), consistency=Consistency.STRONG, after=None)
        hits = await self.regions.best_of_all(collection, vector, among, deadline)
        _count(nearest, len(hits))
        best = {hit.image_id: hit for hit in hits if hit.generation in generations}
        if nearest.match is Match.ALL:
            (whole,) = await self.store.search(
                collection, [vector], replace(among, limit=len(images), view=View.ID, match=Match.IMAGES), deadline
            )
            for hit in map(_as_region, whole):
                known = best.get(hit.image_id)
                if hit.generation in generations and (known is None or _order_of(hit) < _order_of(known)):
                    best[hit.image_id] = hit
        return best


def _view_of_images(nearest: Nearest) -> View:
    """Return the view of a search of whole images, most of which are no hits of this page if they have vectors."""
    return View.ID if nearest.view is View.FULL or nearest.after else nearest.view


def _as_region(hit: Hit) -> RegionHit:
    return RegionHit(hit.image.id, hit.image.generation, WHOLE_IMAGE, hit.score, hit.distance)


def _order_of(hit: RegionHit) -> Order:
    return -hit.score, hit.distance, hit.image_id


def _order_of_hit(hit: Hit) -> Order:
    return -hit.score, hit.distance, hit.image.id


def _end_of(after: After | None, found: _Found) -> Order | None:
    """Return the place of the last hit of a page; its score may differ in the last bit from search to search."""
    if after is None:
        return None
    for hit in found.best.get(after.id, {}).values():
        if abs(hit.score - after.score) <= ROUNDING * max(1.0, abs(after.score)):
            return _order_of(hit)
    return -after.score, after.distance, after.id


def _count(nearest: Nearest, regions: int) -> None:
    if nearest.tally is not None:
        nearest.tally.regions += regions
        nearest.tally.searches += 1
