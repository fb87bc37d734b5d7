"""Create, fill, describe and delete the binary codes of collections."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from grpc_kit.deadline import Deadline
from grpc_kit.errors import NotFoundError
from search_service.core import checks
from search_service.core.coded_store import CodeWriter
from search_service.core.codes import CodeTransform, check_transform, codes_missing, codes_unsupported, latest_set
from search_service.core.collection_cache import CollectionCache
from search_service.core.filters import IdAfter
from search_service.core.image_locks import ImageLocks
from search_service.core.ports import CodeStore, VectorStore
from search_service.core.types import CodeSet, Collection, Consistency, View

# Images or codes that one step checks.
PAGE = 4000
# Images that one step encodes, and the bytes of their vectors.
BATCH, BATCH_BYTES = 1000, 16 * 1024 * 1024
# Maximum number of passes over all images. A second pass finds work only if another process wrote an image between two
# calls of the first pass.
PASSES = 5
# A code is written before its image. After this long, no write that could still create the image is in flight.
ORPHAN_AGE = timedelta(hours=1)


@dataclass(frozen=True)
class Encoding:
    """Progress of EncodeImages."""

    image_count: int
    """Images of the collection at the start."""
    checked: int = 0
    """Images checked, over all passes."""
    encoded: int = 0
    removed: int = 0
    """Codes deleted because they had no image."""
    ready: CodeSet | None = None
    """The set, which searches can use now; only in the last step."""


@dataclass(frozen=True)
class CodeSetStatus:
    """A code set and its size."""

    codes: CodeSet
    count: int

    @property
    def size(self) -> int:
        """Return the bytes of the codes alone."""
        return self.count * self.codes.bits // 8


class CodeSets:
    """The code sets of all collections of a store."""

    def __init__(
        self,
        store: VectorStore,
        codes: CodeStore,
        writer: CodeWriter,
        cache: CollectionCache,
        locks: ImageLocks,
        now: Callable[[], datetime],
    ) -> None:
        """Manage code sets.

        Args:
            store: the images, including expired ones, which still have codes.
            codes: their codes.
            writer: encodes vectors.
            cache: the cache of descriptions; it is cleared after each change.
            locks: the image locks that all writers share.
            now: returns the time in UTC.
        """
        self._store = store
        self._codes = codes
        self._writer = writer
        self._cache = cache
        self._locks = locks
        self._now = now

    async def find(self, name: str, deadline: Deadline) -> Collection:
        """Return the collection with a name or an alias.

        Raises InvalidArgumentError, NotFoundError, and UnimplementedError if the backend has no codes.
        """
        checks.check_collection_name(name, "collection")
        if not self._codes.supported:
            raise codes_unsupported()
        return await self._store.get_collection(name, deadline)

    async def create(self, collection: Collection, transform: CodeTransform, deadline: Deadline) -> CodeSet:
        """Create an empty set in a collection that `find` returned; return the existing set of the same transform.

        A set that is ready stays. Raises InvalidArgumentError, NotFoundError, and FailedPreconditionError if a
        concurrent call created another set and deleted this one.
        """
        check_transform(transform, collection)
        for codes in collection.codes:
            if codes.version == transform.version and await self._count(collection, codes, deadline) is not None:
                return codes
        made = CodeSet(transform.version, 1, transform.bits, self._now())
        await self._codes.create(collection, made, transform, deadline)
        # That took seconds. Another set may have become ready, or a concurrent call may have deleted this one.
        latest = await self._store.get_collection(collection.name, deadline)
        await self._require_exists(latest, made, deadline)
        made = replace(made, number=1 + max((codes.number for codes in latest.codes), default=0))
        sets = (*(codes for codes in latest.codes if codes.ready and codes.version != made.version), made)
        await self._announce(latest, sets, deadline)
        await self._codes.delete_all_but(latest, sets, deadline)
        return made

    async def encode(self, name: str, deadline: Callable[[], Deadline]) -> AsyncGenerator[Encoding, None]:
        """Update the latest set from the images, and make it the one that searches use.

        Yield the progress after each step; each step has its own deadline. A repeated call skips images with a current
        code. Raises NotFoundError, FailedPreconditionError, UnimplementedError.
        """
        collection = await self.find(name, deadline())
        codes = latest_set(collection)
        await self._require_exists(collection, codes, deadline())
        progress = Encoding(await self._store.count(collection, None, Consistency.STRONG, deadline()))
        yield progress
        for _ in range(PASSES):
            start = progress
            async for progress in self._update_all(collection, codes, start, deadline):
                yield progress
            if progress.encoded == start.encoded:
                break
        latest = await self._require_latest(collection, codes, deadline())
        ready = replace(codes, ready=True)
        await self._announce(latest, (ready,), deadline())
        # Only the sets of the description: a concurrent call may be creating another one.
        for replaced in latest.codes:
            if replaced.version != ready.version:
                await self._codes.drop(latest, replaced, deadline())
        yield replace(progress, ready=ready)

    async def _update_all(
        self, collection: Collection, codes: CodeSet, progress: Encoding, deadline: Callable[[], Deadline]
    ) -> AsyncGenerator[Encoding, None]:
        """Encode all images whose code is missing or outdated, and delete codes without an image."""
        last = ""
        size = max(1, min(BATCH, BATCH_BYTES // (4 * collection.dimension)))
        while True:
            images = await self._store.query(
                collection, IdAfter(last), PAGE, View.TIMES, Consistency.STRONG, deadline()
            )
            await self._require_latest(collection, codes, deadline())
            coded = await self._codes.times(collection, codes, last, PAGE, deadline())
            updated = {image.id: image.update_time for image in images}
            # Both pages are sorted by id. Compare them up to the id where the first of them ends.
            ends = [max(coded)] if coded else []
            if len(images) == PAGE:
                ends.append(images[-1].id)
            end = min(ends, default=None)
            if end is not None:
                updated = {image_id: time for image_id, time in updated.items() if image_id <= end}
                coded = {image_id: time for image_id, time in coded.items() if image_id <= end}
            stale = [image_id for image_id, time in updated.items() if coded.get(image_id) != time]
            latest = self._now() - ORPHAN_AGE
            orphans = [image_id for image_id in coded.keys() - updated.keys() if coded[image_id] < latest]
            if orphans:
                await self._codes.delete(collection, codes, orphans, deadline())
            checked, removed = progress.checked + len(updated) - len(stale), progress.removed + len(orphans)
            progress = replace(progress, checked=checked, removed=removed)
            yield progress
            for begin in range(0, len(stale), size):
                batch = stale[begin : begin + size]
                encoded = progress.encoded + await self._encode(collection, codes, batch, deadline())
                progress = replace(progress, checked=progress.checked + len(batch), encoded=encoded)
                yield progress
            if end is None:
                break
            last = end

    async def _encode(self, collection: Collection, codes: CodeSet, ids: Sequence[str], deadline: Deadline) -> int:
        """Encode images while they are locked; return how many still exist."""

        async def encode() -> int:
            images = await self._store.get(collection, ids, View.VECTOR, Consistency.STRONG, deadline)
            if images:
                await self._writer.write(collection, codes, images, deadline)
            return len(images)

        return await self._locks.run(collection.name, ids, encode, deadline)

    async def describe(self, name: str, deadline: Deadline) -> tuple[Collection, list[CodeSetStatus], int]:
        """Return a collection, its code sets, and its number of images. Raises NotFoundError, UnimplementedError."""
        collection = await self.find(name, deadline)
        sets = [CodeSetStatus(codes, await self._count(collection, codes, deadline) or 0) for codes in collection.codes]
        return collection, sets, await self._store.count(collection, None, Consistency.STRONG, deadline)

    async def delete(self, name: str, deadline: Deadline) -> None:
        """Delete all codes of a collection, including leftovers of a crash that the description does not name.

        Raises NotFoundError, UnimplementedError, and FailedPreconditionError if the description names no set.
        """
        collection = await self.find(name, deadline)
        await self._announce(collection, (), deadline)
        await self._codes.delete_all_but(collection, (), deadline)
        if not collection.codes:
            raise codes_missing(collection.name)

    async def _count(self, collection: Collection, codes: CodeSet, deadline: Deadline) -> int | None:
        """Return the number of codes in a set; None if the set does not exist."""
        try:
            return await self._codes.count(collection, codes, deadline)
        except NotFoundError:
            return None

    async def _require_exists(self, collection: Collection, codes: CodeSet, deadline: Deadline) -> None:
        if await self._count(collection, codes, deadline) is None:
            raise codes_missing(collection.name)

    async def _require_latest(self, known: Collection, codes: CodeSet, deadline: Deadline) -> Collection:
        """Return the collection as it is now. Raises FailedPreconditionError if the set is no longer its latest."""
        collection = await self._store.get_collection(known.name, deadline)
        if latest_set(collection).identity != codes.identity:
            raise codes_missing(known.name)
        return collection

    async def _announce(self, collection: Collection, sets: Sequence[CodeSet], deadline: Deadline) -> None:
        try:
            await self._codes.announce(collection, sets, deadline)
        finally:
            self._cache.clear()
