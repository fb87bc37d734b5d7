"""Keep regions consistent with the images: readers see an image only with the regions of the same write.

The store has no transactions. Each write of an image has a generation. Its regions are stored first, and then the image
with the generation, which commits the write. A crash in between leaves regions whose generation no image has. Reads
never return these, and `core.region_sweep` deletes them later.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import structlog

from grpc_kit.deadline import Deadline
from grpc_kit.errors import AlreadyExistsError, ResourceExhaustedError, UnavailableError
from search_service.core.filters import Filter, IdAfter, IdIn, both
from search_service.core.ports import Nearest, RegionStore, VectorStore
from search_service.core.region_searches import RegionSearches
from search_service.core.region_trash import RegionTrash
from search_service.core.regions import Generations
from search_service.core.store_decorator import StoreDecorator
from search_service.core.types import (
    Collection,
    Consistency,
    Hit,
    Match,
    StoredImage,
    StoredRegion,
    Vector,
    View,
)

log = structlog.stdlib.get_logger()

# Seconds before the reads of images that lack regions are repeated. While an image is written again and again, Milvus
# 2.3 may return a version that was replaced long ago.
PAUSES = (0.0, 0.1, 0.3, 0.6)
# A search is repeated this often if an image of its hits is deleted meanwhile.
RETRIES = 5


class RegionedStore(StoreDecorator):
    """A VectorStore decorator that keeps the regions of images. Collections without regions are not changed."""

    def __init__(
        self,
        store: VectorStore,
        regions: RegionStore,
        searches: RegionSearches,
        trash: RegionTrash,
        now: Callable[[], datetime],
        *,
        commit_time: timedelta,
        max_join_bytes: int,
    ) -> None:
        """Keep images in `store` and their regions in `regions`.

        Args:
            store: keeps the images.
            regions: keeps the regions.
            searches: answers searches of regions.
            trash: deletes the regions of replaced and deleted images.
            now: returns the time in UTC.
            commit_time: maximum time between the start of a write and its commit. A sweep waits longer than that.
            max_join_bytes: maximum bytes of regions that one read returns, unless it returns a single image.
        """
        super().__init__(store)
        self._regions = regions
        self._searches = searches
        self._trash = trash
        self._now = now
        self._commit_time = commit_time
        self._max_join_bytes = max_join_bytes
        self._generations = Generations(now)
        self.create_collection = self._create_collection
        self.count = store.count

    async def _create_collection(self, collection: Collection, deadline: Deadline) -> None:
        """Create the place for the regions, and then the collection."""
        if not collection.max_regions:
            await self._store.create_collection(collection, deadline)
            return
        await self._regions.create(collection, deadline)
        try:
            await self._store.create_collection(collection, deadline)
        except AlreadyExistsError:
            # After any other error, the collection may exist. Then the sweep deletes the place later.
            existing = await self._store.get_collection(collection.name, deadline)
            if existing.create_time != collection.create_time:
                await self._regions.drop(collection, deadline)
            raise

    async def delete_collection(self, collection: Collection, deadline: Deadline) -> None:
        """Delete a collection, and then its regions."""
        await self._store.delete_collection(collection, deadline)
        if collection.max_regions:
            await self._regions.drop(collection, deadline)

    async def upsert(self, collection: Collection, images: Sequence[StoredImage], deadline: Deadline) -> None:
        """Store the regions of images, and then the images.

        Raises UnavailableError, without a change of an image, if storing the regions took too long.
        """
        if not collection.max_regions:
            await self._store.upsert(collection, images, deadline)
            return
        begun = self._now()
        stamped = [
            replace(image, generation=self._generations.new(), region_count=len(image.regions)) for image in images
        ]
        # At once: a read with strong consistency waits for a while on a server.
        replaced, _ = await asyncio.gather(
            self._current(collection, [image.id for image in images], deadline),
            self._regions.upsert(collection, stamped, deadline),
        )
        # A sweep in any replica may delete the regions of an old generation that is not committed.
        if abs(self._now() - begun) > self._commit_time:
            raise UnavailableError(
                "COMMIT_TOO_LATE",
                "the regions of the images took too long to store, so the images were not changed; write them again",
                metadata={"collection": collection.name},
                retry_after=1.0,
            )
        await self._store.upsert(collection, stamped, deadline)
        self._trash.add(collection, replaced)

    async def delete(self, collection: Collection, ids: Sequence[str], deadline: Deadline) -> None:
        """Delete images; their regions are deleted some seconds later."""
        if not collection.max_regions:
            await self._store.delete(collection, ids, deadline)
            return
        deleted = await self._current(collection, ids, deadline)
        await self._store.delete(collection, ids, deadline)
        self._trash.add(collection, deleted)

    async def _current(self, collection: Collection, ids: Sequence[str], deadline: Deadline) -> dict[int, str]:
        """Return the ids of the images that exist, by generation."""
        images = await self._store.get(collection, ids, View.ID, Consistency.STRONG, deadline)
        return {image.generation: image.id for image in images}

    async def get(
        self, collection: Collection, ids: Sequence[str], view: View, consistency: Consistency, deadline: Deadline
    ) -> list[StoredImage]:
        """Return the images with these ids; with their regions in View.FULL."""
        images = await self._store.get(collection, ids, view, consistency, deadline)
        if not collection.max_regions or view is not View.FULL:
            return images

        def again(some: Sequence[str]) -> Awaitable[list[StoredImage]]:
            return self._store.get(collection, some, view, Consistency.STRONG, deadline)

        return await self._joined(collection, images, again, consistency, deadline)

    async def query(
        self,
        collection: Collection,
        condition: Filter | None,
        limit: int,
        view: View,
        consistency: Consistency,
        deadline: Deadline,
    ) -> list[StoredImage]:
        """Return the first images that meet a condition; with their regions in View.FULL."""
        read = partial(self._store.query, collection, view=view, deadline=deadline)
        if not collection.max_regions or view is not View.FULL:
            return await read(condition, limit, consistency=consistency)

        def again(some: Sequence[str]) -> Awaitable[list[StoredImage]]:
            # The condition once more: the image may have changed.
            return read(both(condition, IdIn(tuple(some))), len(some), consistency=Consistency.STRONG)

        found: list[StoredImage] = []
        rest, wanted = condition, limit
        while True:
            images = await read(rest, wanted, consistency=consistency)
            found += await self._joined(collection, images, again, consistency, deadline)
            # Fewer images than the limit mean that no more follow, so replace those that were deleted meanwhile.
            if len(images) < wanted or len(found) == limit:
                return found
            rest, wanted = both(condition, IdAfter(images[-1].id)), limit - len(found)

    async def search(
        self, collection: Collection, vectors: Sequence[Vector], nearest: Nearest, deadline: Deadline
    ) -> list[list[Hit]]:
        """Return the nearest images of each vector, by their own vectors or by those of their regions."""
        searcher = self._store if nearest.match is Match.IMAGES else self._searches
        if not collection.max_regions or nearest.view is not View.FULL:
            return await searcher.search(collection, vectors, nearest, deadline)
        answers = await searcher.search(collection, vectors, nearest, deadline)
        for _ in range(RETRIES):
            joined = [await self._joined_hits(collection, hits, nearest.consistency, deadline) for hits in answers]
            # An image was replaced or deleted meanwhile: search again, because a short page would be the last one.
            if all(len(some) == len(hits) for some, hits in zip(joined, answers, strict=True)):
                break
            # A read with bounded staleness may lag behind the deletion of regions.
            nearest = replace(nearest, consistency=Consistency.STRONG)
            answers = await searcher.search(collection, vectors, nearest, deadline)
        return joined

    async def _joined_hits(
        self, collection: Collection, hits: Sequence[Hit], consistency: Consistency, deadline: Deadline
    ) -> list[Hit]:
        """Return hits with the regions of their images, without images that changed meanwhile."""

        def again(some: Sequence[str]) -> Awaitable[list[StoredImage]]:
            return self._store.get(collection, some, View.FULL, Consistency.STRONG, deadline)

        images = await self._joined(collection, [hit.image for hit in hits], again, consistency, deadline)
        found = {(image.id, image.generation): image for image in images}
        keys = [(hit.image.id, hit.image.generation) for hit in hits]
        # A hit of an earlier generation has the score and the box of that one.
        return [replace(hit, image=found[key]) for hit, key in zip(hits, keys, strict=True) if key in found]

    async def _joined(
        self,
        collection: Collection,
        images: Sequence[StoredImage],
        again: Callable[[Sequence[str]], Awaitable[list[StoredImage]]],
        consistency: Consistency,
        deadline: Deadline,
    ) -> list[StoredImage]:
        """Return images with the regions of their generations, in the same order.

        An image that lacks regions was replaced or deleted meanwhile, or one of the two reads was stale. `again` reads
        such images once more, with strong consistency. It leaves out images that no longer exist.
        """
        current = {image.id: image for image in images}
        waiting = set(current)
        for pause in PAUSES:
            await self._join(collection, current, waiting, consistency, deadline)
            waiting = {image_id for image_id in waiting if not _is_complete(current[image_id])}
            if not waiting:
                return list(current.values())
            await asyncio.sleep(pause)
            consistency = Consistency.STRONG
            latest = {image.id: image for image in await again(sorted(waiting))}
            current = {
                image_id: latest.get(image_id, image)
                for image_id, image in current.items()
                if image_id in latest or image_id not in waiting
            }
            waiting &= latest.keys()
        await self._join(collection, current, waiting, consistency, deadline)
        lost = [image_id for image_id in waiting if not _is_complete(current[image_id])]
        if lost:
            # Another program deleted rows of Milvus.
            log.error("images lack regions", collection=collection.name, count=len(lost), example=min(lost))
        return list(current.values())

    async def _join(
        self,
        collection: Collection,
        images: dict[str, StoredImage],
        ids: Iterable[str],
        consistency: Consistency,
        deadline: Deadline,
    ) -> None:
        """Add the regions that are found to the images with these ids."""
        generations = [images[image_id].generation for image_id in ids if images[image_id].region_count]
        size = 4 * collection.dimension * sum(image.region_count for image in images.values())
        if size > self._max_join_bytes and len(images) > 1:
            raise _too_large(size, self._max_join_bytes)
        found: dict[int, tuple[StoredRegion, ...]] = {}
        if generations:
            found = await self._regions.get(collection, generations, consistency, deadline)
        for image_id in ids:
            images[image_id] = replace(images[image_id], regions=found.get(images[image_id].generation, ()))


def _is_complete(image: StoredImage) -> bool:
    return len(image.regions) == image.region_count


def _too_large(size: int, most: int) -> ResourceExhaustedError:
    return ResourceExhaustedError(
        "ANSWER_TOO_LARGE",
        f"the regions of the images have {size} bytes; at most {most} fit into an answer: ask for fewer images (limit, "
        "page_size, ids) or for a smaller view",
        metadata={"max_bytes": str(most)},
    )
