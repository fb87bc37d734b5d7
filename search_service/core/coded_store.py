"""Binary codes in step with the images: whoever writes or removes an image does so to its codes too.

A code is written before its image and removed after it. What a crash leaves in between is the code of an image that is
not there, which a search passes over, or the code of a vector that was to come, which is known by its time.
"""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

import numpy as np

from grpc_kit.deadline import Deadline
from grpc_kit.errors import NotFoundError
from search_service.core.codes import CodeTransform
from search_service.core.ports import CodeStore, VectorStore
from search_service.core.store_decorator import StoreDecorator
from search_service.core.types import CodeSet, Collection, StoredImage

# Transforms that are remembered; one of 512 bits of 512 components takes 1 MB.
MOST_TRANSFORMS = 32


class Transforms:
    """The transforms of sets of codes. They never change, so that each is read once."""

    def __init__(self, codes: CodeStore) -> None:
        """Reads them from `codes`."""
        self._codes = codes
        self._read: OrderedDict[tuple[str, str], CodeTransform] = OrderedDict()

    async def get(self, collection: Collection, codes: CodeSet, deadline: Deadline) -> CodeTransform:
        """The transform of a set. Raises NotFoundError."""
        key = (collection.name, codes.version)
        if key not in self._read:
            self._read[key] = await self._codes.transform(collection, codes, deadline)
            while len(self._read) > MOST_TRANSFORMS:
                self._read.popitem(last=False)
        self._read.move_to_end(key)
        return self._read[key]


class CodeWriter:
    """Writes codes of images."""

    def __init__(self, codes: CodeStore, transforms: Transforms) -> None:
        """Writes to `codes`."""
        self._codes = codes
        self._transforms = transforms

    async def write(
        self, collection: Collection, codes: CodeSet, images: Sequence[StoredImage], deadline: Deadline
    ) -> None:
        """Writes the codes of images that have their vectors. Raises NotFoundError where the set is gone."""
        transform = await self._transforms.get(collection, codes, deadline)
        vectors = np.array([image.vector for image in images], dtype=np.float32)
        values = transform.encode(vectors, collection.metric)
        await self._codes.upsert(collection, codes, images, values, deadline)


class CodedStore(StoreDecorator):
    """A VectorStore decorator that keeps the codes of a collection in step with its images."""

    def __init__(self, store: VectorStore, codes: CodeStore, writer: CodeWriter) -> None:
        """Keep images in `store` and their codes in `codes`."""
        super().__init__(store)
        self._codes = codes
        self._writer = writer
        self.get = store.get
        self.query = store.query
        self.count = store.count
        self.search = store.search

    async def upsert(self, collection: Collection, images: Sequence[StoredImage], deadline: Deadline) -> None:
        """Store the codes of images, and then the images."""
        written = await self._write_codes(collection, collection.codes, images, deadline)
        await self._store.upsert(collection, images, deadline)
        if self._codes.supported:
            # Another process may have made and filled a set since `collection` was read, without these images.
            latest = await self._store.get_collection(collection.name, deadline)
            missed = [codes for codes in latest.codes if codes.identity not in written]
            await self._write_codes(latest, missed, images, deadline)

    async def _write_codes(
        self, collection: Collection, sets: Sequence[CodeSet], images: Sequence[StoredImage], deadline: Deadline
    ) -> list[tuple[str, datetime]]:
        """Write the codes of images to several sets; return the identities of the sets that still exist."""
        written = []
        for codes in sets:
            with suppress(NotFoundError):
                await self._writer.write(collection, codes, images, deadline)
                written.append(codes.identity)
        return written

    async def delete(self, collection: Collection, ids: Sequence[str], deadline: Deadline) -> None:
        """Remove images, and then their codes."""
        await self._store.delete(collection, ids, deadline)
        for codes in collection.codes:
            with suppress(NotFoundError):
                await self._codes.delete(collection, codes, ids, deadline)

    async def delete_collection(self, collection: Collection, deadline: Deadline) -> None:
        """Remove the codes of a collection, and then the collection."""
        if collection.codes:
            # First, so that the description never names a set that is gone.
            await self._codes.announce(collection, (), deadline)
            await self._codes.delete_all_but(collection, (), deadline)
        await self._store.delete_collection(collection, deadline)
