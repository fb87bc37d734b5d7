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
from search_service.core.store_around import StoreAround
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
        await self._codes.upsert(collection.name, codes, images, values, deadline)


class CodedStore(StoreAround):
    """A store whose writers keep the codes of a collection in step.

    Writes go by a collection's name, and every request describes its collection before it writes: what was described
    last tells the codes.
    """

    def __init__(self, store: VectorStore, codes: CodeStore, writer: CodeWriter) -> None:
        """Images are in `store`, their codes in `codes`."""
        super().__init__(store)
        self._codes = codes
        self._writer = writer
        self._coded: dict[str, Collection] = {}

    async def get_collection(self, name: str, deadline: Deadline) -> Collection:
        """Describes a collection."""
        return self._described(await super().get_collection(name, deadline))

    async def list_collections(self, after: str, limit: int, deadline: Deadline) -> list[Collection]:
        """Some collections."""
        return [self._described(found) for found in await super().list_collections(after, limit, deadline)]

    def _described(self, collection: Collection) -> Collection:
        if collection.codes:
            self._coded[collection.name] = collection
        else:
            self._coded.pop(collection.name, None)
        return collection

    async def upsert(self, collection: str, images: Sequence[StoredImage], deadline: Deadline) -> None:
        """Stores the images' codes, and then the images."""
        known = self._coded.get(collection)
        written = await self._write_codes(known, known.codes, images, deadline) if known is not None else []
        await super().upsert(collection, images, deadline)
        if self._codes.supported:
            # A set that another process made meanwhile may have been filled before these images came.
            described = await self.get_collection(collection, deadline)
            unknown = [codes for codes in described.codes if codes.identity not in written]
            await self._write_codes(described, unknown, images, deadline)

    async def _write_codes(
        self, collection: Collection, sets: Sequence[CodeSet], images: Sequence[StoredImage], deadline: Deadline
    ) -> list[tuple[str, datetime]]:
        """Gives the identities of the sets that have the codes now; one that is gone harms no write."""
        written = []
        for codes in sets:
            with suppress(NotFoundError):
                await self._writer.write(collection, codes, images, deadline)
                written.append(codes.identity)
        return written

    async def delete(self, collection: str, ids: Sequence[str], deadline: Deadline) -> None:
        """Removes images, and then their codes."""
        await super().delete(collection, ids, deadline)
        if collection not in self._coded:
            return
        for codes in self._coded[collection].codes:
            with suppress(NotFoundError):
                await self._codes.delete(collection, codes, ids, deadline)

    async def delete_collection(self, name: str, deadline: Deadline) -> None:
        """Removes a collection's codes, and then the collection: at no time does it say that it has what it has not."""
        described = await self.get_collection(name, deadline)
        if described.codes:
            await self._codes.announce(name, (), deadline)
            await self._codes.delete_all_but(name, (), deadline)
        await super().delete_collection(name, deadline)
        self._coded.pop(name, None)
