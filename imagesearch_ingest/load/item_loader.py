"""Brings one item into a collection."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace

from grpc_kit.errors import ServiceError
from imagesearch_client.types import Embedding
from imagesearch_ingest.load.async_ledger import AsyncLedger
from imagesearch_ingest.load.decisions import Action, has_same_metadata
from imagesearch_ingest.load.destination import Destination, ImageMetadata
from imagesearch_ingest.load.id_conflicts import is_other_file
from imagesearch_ingest.load.image_reader import ImageReader
from imagesearch_ingest.load.ledger import ItemState, Ledger, LedgerRow, metadata_digest, row_of_item
from imagesearch_ingest.load.report import LoadReport
from imagesearch_ingest.sources.items import Item, ReadFile


@dataclass(frozen=True, slots=True)
class PendingItem:
    """An item, what the ledger knows of it, and the number of its source."""

    item: Item
    known: LedgerRow | None
    source: int


class ItemLoader:
    """Brings items one by one; any number of them at a time."""

    def __init__(
        self,
        destination: Destination,
        records: AsyncLedger,
        account: LoadReport,
        readers: ImageReader,
        *,
        dedup: bool,
        keep_attributes: bool,
    ) -> None:
        """Takes what it works with.

        Args:
            destination: where the images go.
            records: keeps what has become of each.
            account: counts them.
            readers: reads files.
            dedup: stores equal content once.
            keep_attributes: looks for attributes that are stored of items that the ledger does not know.
        """
        self._destination = destination
        self._records = records
        self._account = account
        self._readers = readers
        self._dedup = dedup
        self._keep_attributes = keep_attributes
        self._reading: set[asyncio.Future[tuple[bytes, str]]] = set()
        self._given_up = False
        # The outcome of the item that is stored for all that have its content, until it is in the ledger.
        self._firsts: dict[str, asyncio.Future[LedgerRow]] = {}

    async def bring(
        self,
        task: PendingItem,
        action: Action,
        sized: Callable[[int], None],
        aside: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        """Stores an item, and records it. Raises ServiceError, LoadStoppedError, LedgerError.

        `sized` is told the bytes of its file when they are in memory; `aside` is entered while its file is waited for.
        Raises CancelledError if the item is given up.
        """
        if self._given_up:
            raise asyncio.CancelledError
        item, known = task.item, task.known
        if isinstance(item.content, Embedding):
            await self._store_vector(task, item.content)
            return
        if action is Action.DESCRIBE and known is not None and await self._describe(task, known):
            return
        content, sha256 = await self._read(item, item.content, aside)
        sized(len(content))
        self._account.bytes += len(content)
        if known is not None and known.state is ItemState.DONE and known.sha256 == sha256:
            # Its time of change is new, and maybe nothing else.
            if has_same_metadata(item, known):
                await self._records.record(replace(known, size=item.size, stamp=item.stamp), task.source)
                self._account.skipped += 1
                return
            if await self._describe(task, known):
                return
        if self._dedup:
            await self._store_once(task, content, sha256)
        else:
            await self._store(task, content, sha256)

    def give_up(self) -> None:
        """Gives up what is not sent yet; items that an embedder or the store works on come to their end."""
        self._given_up = True
        for reading in self._reading:
            reading.cancel()
        self._destination.give_up()

    async def _read(
        self, item: Item, content: ReadFile, aside: Callable[[], AbstractAsyncContextManager[None]]
    ) -> tuple[bytes, str]:
        limit = self._destination.max_image_bytes
        reading = asyncio.ensure_future(self._readers.read(item, content, limit, aside))
        self._reading.add(reading)
        try:
            return await reading
        finally:
            self._reading.discard(reading)

    async def fail(self, task: PendingItem, error: ServiceError) -> None:
        """Records that an item cannot be stored. What was stored of it before stays, and is still known by its id."""
        row = row_of_item(task.item, ItemState.FAILED, error.reason, error.message)
        former = task.known.id if task.known is not None else ""
        await self._records.record(replace(row, id=row.id or former), task.source)

    async def _store(self, task: PendingItem, content: bytes, sha256: str) -> LedgerRow:
        image = self._described(task, task.item.id or sha256, sha256)
        replaced = await self._destination.store(image, content)
        row = await self._done(task, image.id, sha256)
        self._account.stored += 1
        self._account.replaced += replaced or _replaces(task, sha256)
        return row

    async def _store_vector(self, task: PendingItem, vector: Embedding) -> None:
        image = self._described(task, task.item.id, task.item.content_sha256)
        replaced = await self._destination.store_vector(replace(image, region=task.item.region), vector)
        await self._done(task, image.id, image.sha256)
        self._account.stored += 1
        self._account.replaced += replaced or _replaces(task, image.sha256)

    def _described(self, task: PendingItem, image_id: str, sha256: str) -> ImageMetadata:
        """What is stored beside the vector: attributes that the source does not know stay as they are by then."""
        known = task.known
        return ImageMetadata(
            image_id,
            task.item.uri,
            task.item.attributes,
            sha256,
            may_exist=known is not None or self._keep_attributes,
            is_known=known is not None and (known.state is ItemState.DONE or known.source == task.source),
        )

    async def _describe(self, task: PendingItem, known: LedgerRow) -> bool:
        """Stores what is new beside an item's vector; False where the vector is not there, and is to be made."""
        item = task.item
        if known.state is ItemState.DUPLICATE:
            digest = metadata_digest(item.id, item.uri, item.attributes)
            await self._records.record(replace(known, uri=item.uri, about=digest), task.source)
            self._account.duplicates += 1
            return True
        if not await self._destination.describe(self._described(task, item.id or known.id, known.sha256)):
            return False
        await self._done(task, item.id or known.id, known.sha256)
        self._account.described += 1
        return True

    async def _store_once(self, task: PendingItem, content: bytes, sha256: str) -> None:
        """Stores content that no other item has; else the item is recorded as a duplicate."""
        while first := self._firsts.get(sha256):
            outcome = await asyncio.shield(first)
            # What it failed of may be its own affair.
            if outcome.state is not ItemState.FAILED:
                await self._set_aside(task, sha256, outcome)
                return
        self._firsts[sha256] = first = asyncio.get_running_loop().create_future()
        try:
            original = await self._records.ask(Ledger.original_of, sha256, task.item.key)
            if original is None:
                first.set_result(await self._store(task, content, sha256))
            else:
                first.set_result(original)
                await self._set_aside(task, sha256, original)
        except ServiceError as error:
            if not first.done():
                first.set_result(row_of_item(task.item, ItemState.FAILED, error.reason, error.message))
            raise
        finally:
            del self._firsts[sha256]
            # Where the load stops, it stops for those who wait for this one as well.
            first.cancel()

    async def _set_aside(self, task: PendingItem, sha256: str, original: LedgerRow) -> None:
        row = replace(row_of_item(task.item, ItemState.DUPLICATE), sha256=sha256, original=original.key)
        await self._records.record(row, task.source)
        self._account.duplicates += 1

    async def _done(self, task: PendingItem, image_id: str, sha256: str) -> LedgerRow:
        row = replace(row_of_item(task.item, ItemState.DONE), id=image_id, sha256=sha256)
        await self._records.record(row, task.source)
        return row


def _replaces(task: PendingItem, sha256: str) -> bool:
    """Whether another source has stored another image under an item's id."""
    known = task.known
    if known is None or known.state is not ItemState.DONE or not is_other_file(task.item, known, task.source):
        return False
    return known.sha256 != sha256 or (not sha256 and known.stamp != task.item.stamp)
