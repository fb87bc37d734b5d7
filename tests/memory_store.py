"""A VectorStore in memory: exact, and simple enough to be verified by reading.

Tests of the core use it. The contract suite checks that it behaves like Milvus.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from grpc_kit.deadline import Deadline
from search_service.core.checks import collection_exists, collection_not_found
from search_service.core.filters import (
    And,
    Equals,
    Exists,
    Filter,
    FilterValue,
    IdAfter,
    IdIn,
    In,
    Not,
    Or,
    Prefix,
    Range,
    TextRange,
    UpdatedWithin,
)
from search_service.core.ports import Nearest
from search_service.core.types import (
    Alias,
    AttributeValue,
    Collection,
    Consistency,
    Hit,
    Index,
    IndexType,
    Metric,
    Reindex,
    SearchParameters,
    StoredImage,
    Vector,
    View,
)
from tests.memory_regions import MemoryRegions


class MemoryStore:
    """Keep everything in dictionaries."""

    def __init__(self) -> None:
        self._collections: dict[str, Collection] = {}
        self._images: dict[str, dict[str, StoredImage]] = {}
        self._aliases: dict[str, str] = {}
        self.regions = MemoryRegions(self)

    async def create_collection(self, collection: Collection, deadline: Deadline) -> None:
        if collection.name in self._collections:
            raise collection_exists(collection.name)
        self._collections[collection.name] = collection
        self._images[collection.name] = {}

    async def set_reindex(self, collection: Collection, reindex: Reindex | None, deadline: Deadline) -> None:
        described = await self.get_collection(collection.name, deadline)
        self._collections[collection.name] = dataclasses.replace(described, reindex=reindex)

    async def set_alias(self, alias: Alias, deadline: Deadline) -> None:
        await self.get_collection(alias.collection, deadline)
        self._aliases[alias.name] = alias.collection

    async def list_aliases(self, deadline: Deadline) -> list[Alias]:
        return [Alias(name, self._aliases[name]) for name in sorted(self._aliases)]

    async def delete_alias(self, name: str, deadline: Deadline) -> None:
        del self._aliases[name]

    async def get_collection(self, name: str, deadline: Deadline) -> Collection:
        name = self._aliases.get(name, name)
        if name not in self._collections:
            raise collection_not_found(name)
        return self._collections[name]

    def collection(self, name: str) -> Collection:
        """Return the collection with this name."""
        return self._collections[name]

    def replace_collection(self, collection: Collection) -> None:
        """Replace the description of an existing collection."""
        self._collections[collection.name] = collection

    async def list_collections(self, after: str, limit: int, deadline: Deadline) -> list[Collection]:
        return [self._collections[name] for name in sorted(self._collections) if name > after][:limit]

    async def delete_collection(self, collection: Collection, deadline: Deadline) -> None:
        self._images_of(collection)
        del self._collections[collection.name], self._images[collection.name]

    async def upsert(self, collection: Collection, images: Sequence[StoredImage], deadline: Deadline) -> None:
        # The regions are in `self.regions`.
        kept = {image.id: dataclasses.replace(image, regions=()) for image in images}
        self._images_of(collection).update(kept)

    async def get(
        self, collection: Collection, ids: Sequence[str], view: View, consistency: Consistency, deadline: Deadline
    ) -> list[StoredImage]:
        images = self._images_of(collection)
        return [seen_as(images[image_id], view) for image_id in ids if image_id in images]

    async def delete(self, collection: Collection, ids: Sequence[str], deadline: Deadline) -> None:
        images = self._images_of(collection)
        for image_id in ids:
            images.pop(image_id, None)

    async def query(
        self,
        collection: Collection,
        condition: Filter | None,
        limit: int,
        view: View,
        consistency: Consistency,
        deadline: Deadline,
    ) -> list[StoredImage]:
        images = sorted(self._images_of(collection).values(), key=lambda image: image.id)
        return [seen_as(image, view) for image in images if fits(image, condition)][:limit]

    async def count(
        self, collection: Collection, condition: Filter | None, consistency: Consistency, deadline: Deadline
    ) -> int:
        return sum(fits(image, condition) for image in self._images_of(collection).values())

    async def search(
        self, collection: Collection, vectors: Sequence[Vector], nearest: Nearest, deadline: Deadline
    ) -> list[list[Hit]]:
        images = [
            image
            for image in self._images_of(collection).values()
            if fits(image, nearest.condition) and (nearest.among is None or image.id in nearest.among)
        ]
        answers = []
        for vector in vectors:
            hits = [
                Hit(seen_as(image, nearest.view), *score_and_distance(vector, image.vector, collection.metric))
                for image in images
                if image.vector is not None
            ]
            after = nearest.after
            hits = [hit for hit in hits if after is None or order_of(hit) > (-after.score, after.distance, after.id)]
            answers.append(sorted(hits, key=order_of)[: nearest.limit])
        return answers

    def index_of(self, collection: Collection, parameters: SearchParameters) -> Index:
        return Index(IndexType.FLAT)

    async def check(self, deadline: Deadline) -> None:
        return

    def _images_of(self, collection: Collection) -> dict[str, StoredImage]:
        if collection.name not in self._images:
            raise collection_not_found(collection.name)
        return self._images[collection.name]


def order_of(hit: Hit) -> tuple[float, float, str]:
    return -hit.score, hit.distance, hit.image.id


def score_and_distance(left: Vector, right: Vector, metric: Metric) -> tuple[float, float]:
    """Return the score and the distance by the formulas of the contract."""
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


def fits(image: StoredImage, condition: Filter | None) -> bool:  # noqa: C901, PLR0911, PLR0912 - a case for each kind
    """Return whether an image matches a filter, as the contract defines it."""
    match condition:
        case None:
            return True
        case And(parts):
            return all(fits(image, part) for part in parts)
        case Or(parts):
            return any(fits(image, part) for part in parts)
        case Not(part):
            return not fits(image, part)
        case IdAfter(image_id):
            return image.id > image_id
        case IdIn(ids):
            return image.id in ids
        case UpdatedWithin(begin, end):
            return image.update_time is not None and begin <= image.update_time <= end
        case Exists(attribute):
            return attribute in image.attributes
    value = image.attributes.get(condition.attribute)
    match condition:
        case Equals(_, wanted):
            return equals(value, wanted)
        case In(_, values):
            return any(equals(value, wanted) for wanted in values)
        case Range(_, gte, gt, lte, lt):
            if value is None or isinstance(value, bool) or not isinstance(value, int | float):
                return False
            above = (gte is None or value >= gte) and (gt is None or value > gt)
            return above and (lte is None or value <= lte) and (lt is None or value < lt)
        case TextRange(_, first, after, last, before):
            if not isinstance(value, str) or (first is not None and value < first):
                return False
            is_inside = (after is None or value > after) and (last is None or value <= last)
            return is_inside and (before is None or value < before)
        case Prefix(_, prefix):
            return isinstance(value, str) and value.startswith(prefix)


def equals(value: AttributeValue | None, wanted: FilterValue) -> bool:
    """Compare numbers by value, and booleans never with numbers; a list equals each of its strings."""
    if value is None or isinstance(value, bool) is not isinstance(wanted, bool):
        return isinstance(value, list) and wanted in value
    if isinstance(value, list):
        return wanted in value
    return value == wanted


def seen_as(image: StoredImage, view: View) -> StoredImage:
    """Return an image with the fields of a view."""
    match view:
        case View.ID:
            return StoredImage(image.id, generation=image.generation, region_count=image.region_count)
        case View.TIMES:
            return dataclasses.replace(
                seen_as(image, View.ID), create_time=image.create_time, update_time=image.update_time
            )
        case View.BASIC:
            return dataclasses.replace(image, vector=None)
        case View.VECTOR | View.FULL:
            return image
