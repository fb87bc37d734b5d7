"""A CodeStore in memory, for a `MemoryStore`. It is simple enough to be verified by reading.

The contract suite checks that it behaves like a Milvus server.
"""

import dataclasses
from collections.abc import Sequence
from datetime import datetime

import numpy as np

from grpc_kit.deadline import Deadline
from search_service.core.checks import collection_not_found
from search_service.core.codes import Codes, CodeTransform
from search_service.core.filters import Filter
from search_service.core.types import CodeSet, Collection, Consistency, StoredImage
from tests.memory_store import MemoryStore, fits


@dataclasses.dataclass
class _Set:
    transform: CodeTransform
    images: dict[str, StoredImage] = dataclasses.field(default_factory=dict)
    values: dict[str, bytes] = dataclasses.field(default_factory=dict)


class MemoryCodes:
    """Keep everything in dictionaries."""

    supported = True

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._sets: dict[tuple[str, str], _Set] = {}

    def _of(self, collection: Collection, codes: CodeSet) -> _Set:
        key = collection.name, codes.version
        if key not in self._sets:
            raise collection_not_found(collection.name)
        return self._sets[key]

    def values(self, collection: Collection, codes: CodeSet) -> dict[str, bytes]:
        return dict(self._of(collection, codes).values)

    def versions(self, collection: str) -> list[str]:
        return sorted(version for name, version in self._sets if name == collection)

    async def announce(self, collection: Collection, sets: Sequence[CodeSet], deadline: Deadline) -> None:
        described = await self._store.get_collection(collection.name, deadline)
        self._store.replace_collection(dataclasses.replace(described, codes=tuple(sets)))

    async def create(
        self, collection: Collection, codes: CodeSet, transform: CodeTransform, deadline: Deadline
    ) -> None:
        self._sets[collection.name, codes.version] = _Set(transform)

    async def read_transform(self, collection: Collection, codes: CodeSet, deadline: Deadline) -> CodeTransform:
        return self._of(collection, codes).transform

    async def drop(self, collection: Collection, codes: CodeSet, deadline: Deadline) -> None:
        self._sets.pop((collection.name, codes.version), None)

    async def delete_all_but(self, collection: Collection, kept: Sequence[CodeSet], deadline: Deadline) -> None:
        for version in self.versions(collection.name):
            if version not in {codes.version for codes in kept}:
                del self._sets[collection.name, version]

    async def upsert(
        self, collection: Collection, codes: CodeSet, images: Sequence[StoredImage], values: Codes, deadline: Deadline
    ) -> None:
        found = self._of(collection, codes)
        for image, value in zip(images, values, strict=True):
            found.images[image.id] = dataclasses.replace(image, vector=None)
            found.values[image.id] = value.tobytes()

    async def delete(self, collection: Collection, codes: CodeSet, ids: Sequence[str], deadline: Deadline) -> None:
        found = self._of(collection, codes)
        for image_id in ids:
            found.images.pop(image_id, None)
            found.values.pop(image_id, None)

    async def times(
        self, collection: Collection, codes: CodeSet, after: str, limit: int, deadline: Deadline
    ) -> dict[str, datetime]:
        images = self._of(collection, codes).images
        found = sorted(image_id for image_id in images if image_id > after)[:limit]
        return {image_id: when for image_id in found if (when := images[image_id].update_time) is not None}

    async def count(self, collection: Collection, codes: CodeSet, deadline: Deadline) -> int:
        return len(self._of(collection, codes).images)

    async def search(
        self,
        collection: Collection,
        codes: CodeSet,
        value: Codes,
        limit: int,
        condition: Filter | None,
        consistency: Consistency,
        deadline: Deadline,
    ) -> list[str]:
        found = self._of(collection, codes)

        def distance(image_id: str) -> int:
            other = np.frombuffer(found.values[image_id], np.uint8)
            return int(np.unpackbits(other ^ value).sum())

        fitting = [image_id for image_id, image in found.images.items() if fits(image, condition)]
        return sorted(fitting, key=distance)[:limit]
