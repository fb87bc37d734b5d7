"""A RegionStore in memory, for a `MemoryStore`. It is simple enough to be verified by reading.

The contract suite checks that it behaves like Milvus.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from grpc_kit.deadline import Deadline
from search_service.core.checks import collection_not_found
from search_service.core.ports import Nearest
from search_service.core.types import Collection, Consistency, RegionHit, StoredImage, StoredRegion, Vector

if TYPE_CHECKING:
    from tests.memory_store import MemoryStore


class MemoryRegions:
    """Keep everything in dictionaries: the images with their regions, by generation."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._rows: dict[tuple[str, datetime], dict[int, StoredImage]] = {}

    def rows(self, collection: Collection) -> dict[int, StoredImage]:
        """Return the images with regions, by generation."""
        if collection.identity not in self._rows:
            raise collection_not_found(collection.name)
        return self._rows[collection.identity]

    async def create(self, collection: Collection, deadline: Deadline) -> None:
        self._rows[collection.identity] = {}

    async def drop(self, collection: Collection, deadline: Deadline) -> None:
        self._rows.pop(collection.identity, None)

    async def upsert(self, collection: Collection, images: Sequence[StoredImage], deadline: Deadline) -> None:
        self.rows(collection).update({image.generation: image for image in images if image.regions})

    async def get(
        self, collection: Collection, generations: Sequence[int], consistency: Consistency, deadline: Deadline
    ) -> dict[int, tuple[StoredRegion, ...]]:
        rows = self.rows(collection)
        return {generation: rows[generation].regions for generation in generations if generation in rows}

    async def delete(self, collection: Collection, generations: Sequence[int], deadline: Deadline) -> None:
        for generation in generations:
            self.rows(collection).pop(generation, None)

    async def generations(
        self, collection: Collection, after: int, before: int, limit: int, deadline: Deadline
    ) -> list[tuple[str, int]]:
        rows = self.rows(collection)
        return [(rows[generation].id, generation) for generation in sorted(rows) if after < generation < before][:limit]

    async def search(
        self, collection: Collection, vectors: Sequence[Vector], nearest: Nearest, deadline: Deadline
    ) -> list[list[RegionHit]]:
        return [self._hits(collection, vector, nearest)[: nearest.limit] for vector in vectors]

    async def count(self, collection: Collection, nearest: Nearest, deadline: Deadline) -> int:
        from tests.memory_store import fits  # noqa: PLC0415 - the modules need each other

        images = self.rows(collection).values()
        return sum(len(image.regions) for image in images if fits(image, nearest.condition))

    async def best_of_all(
        self, collection: Collection, vector: Vector, nearest: Nearest, deadline: Deadline
    ) -> list[RegionHit]:
        best: dict[int, RegionHit] = {}
        for hit in self._hits(collection, vector, nearest):
            best.setdefault(hit.generation, hit)
        return list(best.values())

    async def leftovers(self, deadline: Deadline) -> list[Collection]:
        alive = {collection.create_time for collection in await self._store.list_collections("", 10_000, deadline)}
        return [
            Collection(name, dimension=0, fingerprint="", create_time=create_time, max_regions=1)
            for name, create_time in self._rows
            if create_time not in alive
        ]

    def _hits(self, collection: Collection, vector: Vector, nearest: Nearest) -> list[RegionHit]:
        from tests.memory_store import fits, score_and_distance  # noqa: PLC0415 - the modules need each other

        hits = [
            RegionHit(
                image.id,
                generation,
                region.box,
                *score_and_distance(vector, region.vector, collection.metric),
            )
            for generation, image in self.rows(collection).items()
            if fits(image, nearest.condition) and (nearest.among is None or image.id in nearest.among)
            for region in image.regions
        ]
        return sorted(hits, key=lambda hit: (-hit.score, hit.distance, hit.image_id, hit.generation))
