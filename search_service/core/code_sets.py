"""Making, filling, describing and removing the binary codes of collections."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from grpc_kit.deadline import Deadline
from grpc_kit.errors import NotFoundError
from search_service.core import checks
from search_service.core.coded_store import CodeWriter
from search_service.core.codes import CodeTransform, check_transform, codes_missing, codes_unsupported, latest_of
from search_service.core.filters import IdAfter
from search_service.core.image_locks import ImageLocks
from search_service.core.known_collections import KnownCollections
from search_service.core.ports import CodeStore, VectorStore
from search_service.core.types import CodeSet, Collection, Consistency, View

# Ids that are looked at in one step.
PAGE = 4000
# Images that are encoded in one step, and the bytes of their vectors.
BATCH, BATCH_BYTES = 1000, 16 * 1024 * 1024
# Looks at all images until one finds nothing to do. Only writes of other processes, in the moment between two calls to
# the store, leave a later look anything.
ROUNDS = 5
# A code is written before its image. After so long no write is under way that the image may still come of.
ORPHAN_AGE = timedelta(hours=1)


@dataclass(frozen=True)
class Encoding:
    """How far the encoding of a collection is."""

    image_count: int
    """At the beginning."""
    checked: int = 0
    """Images looked at, over all looks."""
    encoded: int = 0
    removed: int = 0
    """Codes without an image."""
    ready: CodeSet | None = None
    """At the end: the set, which searches can use now."""


@dataclass(frozen=True)
class CodeSetStatus:
    """A set of codes and its size."""

    codes: CodeSet
    count: int

    @property
    def size(self) -> int:
        """Bytes of the codes alone."""
        return self.count * self.codes.bits // 8


class CodeSets:
    """The sets of codes of one store's collections."""

    def __init__(
        self,
        store: VectorStore,
        codes: CodeStore,
        writer: CodeWriter,
        known: KnownCollections,
        locks: ImageLocks,
        now: Callable[[], datetime],
    ) -> None:
        """Makes it.

        Args:
            store: the images.
            codes: their codes.
            writer: writes codes.
            known: is made to forget what changes.
            locks: those of all who write to the store.
            now: the time in UTC.
        """
        self._store = store
        self._codes = codes
        self._writer = writer
        self._known = known
        self._locks = locks
        self._now = now

    async def create(self, collection: Collection, transform: CodeTransform, deadline: Deadline) -> CodeSet:
        """Makes an empty set of codes; gives the one that there is where it is of the same transform.

        A set that is ready stays beside it. `collection` is as `find` gave it. Raises InvalidArgumentError,
        NotFoundError, FailedPreconditionError where another set was made at the same time and removed this one.
        """
        check_transform(transform, collection)
        for codes in collection.codes:
            if codes.version == transform.version and await self._is_there(collection, codes, deadline):
                return codes
        made = CodeSet(transform.version, 1, transform.bits, self._now())
        await self._codes.create(collection, made, transform, deadline)
        # That takes seconds, in which another set may have become the one that serves.
        latest = await self._store.get_collection(collection.name, deadline)
        if not await self._is_there(latest, made, deadline):
            raise codes_missing(collection.name)
        made = replace(made, number=1 + max((codes.number for codes in latest.codes), default=0))
        sets = (*(codes for codes in latest.codes if codes.ready and codes.version != made.version), made)
        await self._announce(latest, sets, deadline)
        await self._codes.delete_all_but(latest, sets, deadline)
        return made

    async def _is_there(self, collection: Collection, codes: CodeSet, deadline: Deadline) -> bool:
        """Whether a set is where it should be: of two that are made at the same time the one may remove the other."""
        return await self._count(collection, codes, deadline) is not None

    async def _count(self, collection: Collection, codes: CodeSet, deadline: Deadline) -> int | None:
        """The number of codes in a set; None where it is gone."""
        try:
            return await self._codes.count(collection, codes, deadline)
        except NotFoundError:
            return None

    async def _announce(self, collection: Collection, sets: Sequence[CodeSet], deadline: Deadline) -> None:
        """Says which sets there are from now on."""
        try:
            await self._codes.announce(collection, sets, deadline)
        finally:
            self._known.forget()

    async def encode(self, name: str, deadline: Callable[[], Deadline]) -> AsyncGenerator[Encoding, None]:
        """Brings the codes of the latest set in step with the images, and makes it the one that searches use.

        Gives how far it is after each step; each step has a deadline of its own. Stopped and called again, it passes
        over what has its code. Raises NotFoundError, FailedPreconditionError, UnimplementedError.
        """
        collection = await self.find(name, deadline())
        codes = latest_of(collection)
        if not await self._is_there(collection, codes, deadline()):
            raise codes_missing(collection.name)
        progress = Encoding(await self._store.count(collection, None, Consistency.STRONG, deadline()))
        yield progress
        for _ in range(ROUNDS):
            before, images = progress, 0
            async for checked, encoded in self._encode_all(collection, codes, deadline):
                images += checked
                progress = replace(progress, checked=progress.checked + checked, encoded=progress.encoded + encoded)
                yield progress
            if progress.encoded == before.encoded:
                break
        # Every image has a code.
        if await self._codes.count(collection, codes, deadline()) > images:
            async for removed in self._remove_orphans(collection, codes, deadline):
                progress = replace(progress, removed=progress.removed + removed)
                yield progress
        latest = await self._require(collection, codes, deadline())
        ready = replace(codes, ready=True)
        await self._announce(latest, (ready,), deadline())
        # Only what was announced: another set may be on its way by now.
        for replaced in latest.codes:
            if replaced.version != ready.version:
                await self._codes.drop(latest, replaced, deadline())
        yield replace(progress, ready=ready)

    async def _encode_all(
        self, collection: Collection, codes: CodeSet, deadline: Callable[[], Deadline]
    ) -> AsyncGenerator[tuple[int, int], None]:
        """Looks at all images, and encodes what is to be encoded; gives after each step what it did of both."""
        last, strong = "", Consistency.STRONG
        size = max(1, min(BATCH, BATCH_BYTES // (4 * collection.dimension)))
        while True:
            condition = IdAfter(last) if last else None
            images = await self._store.query(collection, condition, PAGE, View.TIMES, strong, deadline())
            # Another set may have been made meanwhile, or all of them removed.
            await self._require(collection, codes, deadline())
            times = (
                await self._codes.get(collection, codes, [image.id for image in images], deadline()) if images else {}
            )
            stale = [image.id for image in images if times.get(image.id) != image.update_time]
            yield len(images) - len(stale), 0
            for begin in range(0, len(stale), size):
                some = stale[begin : begin + size]
                yield len(some), await self._encode(collection, codes, some, deadline())
            if len(images) < PAGE:
                break
            last = images[-1].id

    async def _encode(self, collection: Collection, codes: CodeSet, ids: Sequence[str], deadline: Deadline) -> int:
        """Encodes images, which nobody changes meanwhile; gives how many are still there."""

        async def encode() -> int:
            images = await self._store.get(collection, ids, View.FULL, Consistency.STRONG, deadline)
            if images:
                await self._writer.write(collection, codes, images, deadline)
            return len(images)

        return await self._locks.run(collection.name, ids, encode, deadline)

    async def _remove_orphans(
        self, collection: Collection, codes: CodeSet, deadline: Callable[[], Deadline]
    ) -> AsyncGenerator[int, None]:
        """Removes codes whose image is not there; gives how many of each page."""
        last = ""
        while times := await self._codes.query(collection, codes, last, PAGE, deadline()):
            last = max(times)
            images = await self._store.get(collection, list(times), View.ID, Consistency.STRONG, deadline())
            latest = self._now() - ORPHAN_AGE
            orphans = [
                image_id for image_id in times.keys() - {image.id for image in images} if times[image_id] < latest
            ]
            if orphans:
                await self._codes.delete(collection, codes, orphans, deadline())
            yield len(orphans)

    async def _require(self, known: Collection, codes: CodeSet, deadline: Deadline) -> Collection:
        """The collection as it is now. Raises FailedPreconditionError where a set is not its latest one any more."""
        collection = await self._store.get_collection(known.name, deadline)
        if latest_of(collection).identity != codes.identity:
            raise codes_missing(known.name)
        return collection

    async def describe(self, name: str, deadline: Deadline) -> tuple[Collection, list[CodeSetStatus], int]:
        """A collection, its sets of codes, and the number of its images. Raises NotFoundError, UnimplementedError."""
        collection = await self.find(name, deadline)
        sets = [CodeSetStatus(codes, await self._count(collection, codes, deadline) or 0) for codes in collection.codes]
        return collection, sets, await self._store.count(collection, None, Consistency.STRONG, deadline)

    async def delete(self, name: str, deadline: Deadline) -> None:
        """Removes all codes. Raises NotFoundError, FailedPreconditionError where there are none, UnimplementedError."""
        collection = await self.find(name, deadline)
        # Also what a crash left of codes that the collection no longer says that it has.
        await self._announce(collection, (), deadline)
        await self._codes.delete_all_but(collection, (), deadline)
        if not collection.codes:
            raise codes_missing(collection.name)

    async def find(self, name: str, deadline: Deadline) -> Collection:
        """The collection of a name or an alias. Raises InvalidArgumentError, NotFoundError, UnimplementedError."""
        checks.check_collection_name(name, "collection")
        if not self._codes.supported:
            raise codes_unsupported()
        return await self._store.get_collection(name, deadline)
