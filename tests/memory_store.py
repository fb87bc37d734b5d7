"""A vector store in memory: exact, and simple enough to be right by reading.

Tests of the search service's core use it. The contract suite holds it to what Milvus does.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from grpc_kit.deadline import Deadline
from search_service.core.checks import collection_exists, collection_not_found
from search_service.core.types import Collection, Consistency, Hit, Metric, StoredImage, Vector, View


class MemoryStore:
    """Keeps everything in dictionaries."""

    def __init__(self) -> None:
        self._collections: dict[str, Collection] = {}
        self._images: dict[str, dict[str, StoredImage]] = {}

    async def create_collection(self, collection: Collection, deadline: Deadline) -> None:
        if collection.name in self._collections:
            raise collection_exists(collection.name)
        self._collections[collection.name] = collection
        self._images[collection.name] = {}

    async def get_collection(self, name: str, deadline: Deadline) -> Collection:
        if name not in self._collections:
            raise collection_not_found(name)
        return self._collections[name]

    async def list_collections(self, deadline: Deadline) -> list[Collection]:
        return [self._collections[name] for name in sorted(self._collections)]

    async def delete_collection(self, name: str, deadline: Deadline) -> None:
        await self.get_collection(name, deadline)
        del self._collections[name], self._images[name]

    async def upsert(self, collection: str, images: Sequence[StoredImage], deadline: Deadline) -> None:
        await self.get_collection(collection, deadline)
        self._images[collection].update({image.id: image for image in images})

    async def get(
        self, collection: str, ids: Sequence[str], view: View, consistency: Consistency, deadline: Deadline
    ) -> list[StoredImage]:
        await self.get_collection(collection, deadline)
        images = self._images[collection]
        return [seen_as(images[image_id], view) for image_id in ids if image_id in images]

    async def delete(self, collection: str, ids: Sequence[str], deadline: Deadline) -> None:
        await self.get_collection(collection, deadline)
        for image_id in ids:
            self._images[collection].pop(image_id, None)

    async def count(self, collection: str, deadline: Deadline) -> int:
        await self.get_collection(collection, deadline)
        return len(self._images[collection])

    async def search(
        self,
        collection: Collection,
        vector: Vector,
        limit: int,
        view: View,
        consistency: Consistency,
        deadline: Deadline,
    ) -> list[Hit]:
        metric = (await self.get_collection(collection.name, deadline)).metric
        hits = [
            Hit(seen_as(image, view), *score_and_distance(vector, image.vector, metric))
            for image in self._images[collection.name].values()
            if image.vector is not None
        ]
        return sorted(hits, key=lambda hit: -hit.score)[:limit]

    async def check(self, deadline: Deadline) -> None:
        return


def score_and_distance(left: Vector, right: Vector, metric: Metric) -> tuple[float, float]:
    """The contract's formulas."""
    match metric:
        case Metric.COSINE:
            cosine = float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)))
            return cosine, 1 - cosine
        case Metric.IP:
            product = float(left @ right)
            return product, -product
        case Metric.L2:
            distance = float(np.linalg.norm(left - right))
            return 1 / (1 + distance), distance


def seen_as(image: StoredImage, view: View) -> StoredImage:
    """What a view shows of an image."""
    match view:
        case View.ID:
            return StoredImage(image.id)
        case View.BASIC:
            return dataclasses.replace(image, vector=None)
        case View.FULL:
            return image
