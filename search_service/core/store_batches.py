"""Store batches of prepared images."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from grpc_kit.deadline import Deadline
from grpc_kit.errors import InternalError, ServiceError
from search_service.core.image_locks import ImageLocks
from search_service.core.kept_parts import Written, chunk_size, merged, view_of
from search_service.core.ports import VectorStore
from search_service.core.prepare_images import ImagePreparer, PreparedImage
from search_service.core.types import Collection, Consistency, StoredImage
from search_service.core.write_fence import WriteFence

# What became of an image.
Outcome = Written | ServiceError


class BatchStore:
    """Store batches, so that a failure of one image does not fail the others."""

    def __init__(self, store: VectorStore, now: Callable[[], datetime], locks: ImageLocks) -> None:
        """`now` returns the time in UTC; `locks` are the image locks that all writers share."""
        self._store = store
        self._now = now
        self._locks = locks
        self._fence = WriteFence(store, now, locks)

    async def write(
        self, batch: Sequence[PreparedImage | ServiceError], preparer: ImagePreparer, deadline: Deadline
    ) -> list[Outcome]:
        """Store the images of a batch, and return what became of each; images that failed before keep their errors."""
        # A store may keep both rows if a call has two with one id. So each call has only the last image of an id. An
        # image that keeps a part of the one before it needs a call of its own.
        calls: list[dict[str, PreparedImage]] = [{}]
        numbers: list[int] = []
        for prepared in batch:
            if isinstance(prepared, PreparedImage):
                if prepared.keep and prepared.image.id in calls[-1]:
                    calls.append({})
                calls[-1][prepared.image.id] = prepared
            numbers.append(len(calls) - 1)
        stored = [await self._store_call(list(call.values()), preparer, deadline) if call else {} for call in calls]
        return [
            prepared if isinstance(prepared, ServiceError) else stored[number][prepared.image.id]
            for prepared, number in zip(batch, numbers, strict=True)
        ]

    async def _store_call(
        self, images: list[PreparedImage], preparer: ImagePreparer, deadline: Deadline
    ) -> dict[str, Outcome]:
        """Store images with different ids, and return the outcome of each id.

        If the store fails without naming the image at fault, each half is stored by itself, down to single images.
        """
        try:
            return await self._fence.apply(preparer.name, partial(self._upsert, images, preparer, deadline), deadline)
        except InternalError as error:
            if len(images) == 1:
                return {images[0].image.id: error}
            middle = len(images) // 2
            return {
                **await self._store_call(images[:middle], preparer, deadline),
                **await self._store_call(images[middle:], preparer, deadline),
            }
        except ServiceError as error:
            return {prepared.image.id: error for prepared in images}

    async def _upsert(
        self, images: list[PreparedImage], preparer: ImagePreparer, deadline: Deadline, collection: Collection
    ) -> dict[str, Outcome]:
        """Store the images that fit a collection, and return the outcome of each id."""
        outcomes: dict[str, Outcome] = {
            prepared.image.id: prepared.mismatch(collection) for prepared in images if not prepared.fits(collection)
        }
        if outcomes:
            preparer.find_again()
        fitting = [prepared for prepared in images if prepared.fits(collection)]
        size = chunk_size(collection, [(prepared.image, prepared.keep) for prepared in fitting])
        for begin in range(0, len(fitting), size):
            chunk = fitting[begin : begin + size]
            ids = [prepared.image.id for prepared in chunk]
            upsert = partial(self._upsert_locked, chunk, collection, deadline)
            outcomes |= await self._locks.run(collection.name, ids, upsert, deadline)
        return outcomes

    async def _upsert_locked(
        self, images: list[PreparedImage], collection: Collection, deadline: Deadline
    ) -> dict[str, Outcome]:
        """Store images that are locked, with the parts that they keep; return the outcome of each id."""
        keeping = [prepared for prepared in images if prepared.keep]
        found: dict[str, StoredImage] = {}
        if keeping:
            ids = [prepared.image.id for prepared in keeping]
            view = view_of((prepared.image, prepared.keep) for prepared in keeping)
            kept = await self._store.get(collection, ids, view, Consistency.STRONG, deadline)
            found = {image.id: image for image in kept}
        # Not before the images are locked: a reindex lists the latest changes by this time.
        now = self._now()
        outcomes: dict[str, Outcome] = {}
        stamped: list[StoredImage] = []
        for prepared in images:
            image_id = prepared.image.id
            try:
                image, outcomes[image_id] = merged(prepared.image, prepared.keep, found.get(image_id), now, collection)
                stamped.append(image)
            except ServiceError as error:
                outcomes[image_id] = error
        if stamped:
            await self._store.upsert(collection, stamped, deadline)
        return outcomes
