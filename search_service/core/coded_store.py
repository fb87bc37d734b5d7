"""Keep binary codes consistent with the images: each write and each deletion updates both.

A code is written before its image and deleted after it. A crash between the two steps leaves a code without an image,
or a code of a vector that was never stored. Searches skip codes without an image. `EncodeImages` repairs both cases.
"""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

import numpy as np

from grpc_kit.deadline import Deadline
from grpc_kit.errors import NotFoundError
from search_service.core.codes import Codes, CodeTransform
from search_service.core.ports import CodeStore, VectorStore
from search_service.core.store_decorator import StoreDecorator
from search_service.core.types import CodeSet, Collection, StoredImage, Vector

# A transform of 512 bits for vectors with 512 components takes 1 MB.
MAX_CACHED_TRANSFORMS = 32


class CodeWriter:
    """Encode vectors and store their codes. Transforms never change, so the writer reads each once and caches it."""

    def __init__(self, codes: CodeStore) -> None:
        """Read transforms from the store `codes`, and write codes to it."""
        self._codes = codes
        self._transforms: OrderedDict[tuple[str, str], CodeTransform] = OrderedDict()

    async def encode(self, collection: Collection, codes: CodeSet, vectors: Vector, deadline: Deadline) -> Codes:
        """Return the codes of vectors, float32[N, D]. Raises NotFoundError if the code set was deleted."""
        key = (collection.name, codes.version)
        if key not in self._transforms:
            self._transforms[key] = await self._codes.read_transform(collection, codes, deadline)
            while len(self._transforms) > MAX_CACHED_TRANSFORMS:
                self._transforms.popitem(last=False)
        self._transforms.move_to_end(key)
        return self._transforms[key].encode(vectors, collection.metric)

    async def write(
        self, collection: Collection, codes: CodeSet, images: Sequence[StoredImage], deadline: Deadline
    ) -> None:
        """Store the codes of images that have their vectors. Raises NotFoundError if the code set was deleted."""
        vectors = np.array([image.vector for image in images], dtype=np.float32)
        values = await self.encode(collection, codes, vectors, deadline)
        await self._codes.upsert(collection, codes, images, values, deadline)


class CodedStore(StoreDecorator):
    """A VectorStore decorator that updates the codes of a collection together with its images."""

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
            # After `collection` was read, another process may have created and filled a code set without these images.
            latest = await self._store.get_collection(collection.name, deadline)
            missed = [codes for codes in latest.codes if codes.identity not in written]
            await self._write_codes(latest, missed, images, deadline)

    async def _write_codes(
        self, collection: Collection, sets: Sequence[CodeSet], images: Sequence[StoredImage], deadline: Deadline
    ) -> list[tuple[str, datetime]]:
        """Write the codes of images to several code sets. Return the identities of the sets that still exist."""
        written = []
        for codes in sets:
            with suppress(NotFoundError):
                await self._writer.write(collection, codes, images, deadline)
                written.append(codes.identity)
        return written

    async def delete(self, collection: Collection, ids: Sequence[str], deadline: Deadline) -> None:
        """Delete images, and then their codes."""
        await self._store.delete(collection, ids, deadline)
        if not self._codes.supported:
            return
        # Another process may have created and filled a code set since `collection` was read.
        for codes in (await self._store.get_collection(collection.name, deadline)).codes:
            with suppress(NotFoundError):
                await self._codes.delete(collection, codes, ids, deadline)

    async def delete_collection(self, collection: Collection, deadline: Deadline) -> None:
        """Delete the codes of a collection, and then the collection."""
        if collection.codes:
            # Change the description first, so that it never names a deleted code set.
            await self._codes.announce(collection, (), deadline)
            await self._codes.delete_all_but(collection, (), deadline)
        await self._store.delete_collection(collection, deadline)
