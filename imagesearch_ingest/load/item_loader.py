"""Load one item into a destination, and record its outcome."""

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
from imagesearch_ingest.load.ledger import Ledger
from imagesearch_ingest.load.ledger_rows import ItemState, LedgerRow, metadata_digest, row_of_item
from imagesearch_ingest.load.report import LoadReport
from imagesearch_ingest.sources.items import Item, ReadFile


@dataclass(frozen=True, slots=True)
class PendingItem:
    """An item to load, its row in the ledger, and the number of its source."""

    item: Item
    known: LedgerRow | None
    source: int


class ItemLoader:
    """Loads items one by one. Any number of them can be in flight."""

    def __init__(
        self,
        destination: Destination,
        ledger: AsyncLedger,
        report: LoadReport,
        reader: ImageReader,
        *,
        dedup: bool,
        keep_attributes: bool,
    ) -> None:
        """Set what the loader uses.

        `dedup` stores equal content once. `keep_attributes` keeps stored attributes also of items that the ledger does
        not know.
        """
        self._destination = destination
        self._ledger = ledger
        self._report = report
        self._reader = reader
        self._dedup = dedup
        self._keep_attributes = keep_attributes
        self._reads: set[asyncio.Future[tuple[bytes, str]]] = set()
        self._cancelled = False
        # By SHA-256: the outcome of the first item with some content, until it is in the ledger.
        self._first_outcomes: dict[str, asyncio.Future[LedgerRow]] = {}

    async def load(
        self,
        pending: PendingItem,
        action: Action,
        on_read: Callable[[int], None],
        while_waiting: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        """Store an item, and record it.

        Args:
            pending: the item.
            action: what to do with it.
            on_read: receives the number of bytes of the file when the file is in memory.
            while_waiting: is entered while the item waits for its file.

        Raises ServiceError, LoadStoppedError and LedgerError, and CancelledError after `cancel_pending`.
        """
        if self._cancelled:
            raise asyncio.CancelledError
        item, known = pending.item, pending.known
        if isinstance(item.content, Embedding):
            await self._store_vector(pending, item.content)
            return
        if action is Action.UPDATE_METADATA and known is not None and await self._update_metadata(pending, known):
            return
        content, sha256 = await self._read(item, item.content, while_waiting)
        on_read(len(content))
        self._report.bytes += len(content)
        if known is not None and known.state is ItemState.DONE and known.sha256 == sha256:
            # The modification time has changed, but not the content.
            if has_same_metadata(item, known):
                await self._ledger.record(replace(known, size=item.size, stamp=item.stamp), pending.source)
                self._report.skipped += 1
                return
            if await self._update_metadata(pending, known):
                return
        if self._dedup:
            await self._store_once(pending, content, sha256)
        else:
            await self._store(pending, content, sha256)

    async def record_failure(self, pending: PendingItem, error: ServiceError) -> None:
        """Record that an item failed. The image that was stored of it before stays, and the ledger keeps its id."""
        row = row_of_item(pending.item, ItemState.FAILED, error.reason, error.message)
        former_id = pending.known.id if pending.known is not None else ""
        await self._ledger.record(replace(row, id=row.id or former_id), pending.source)

    def cancel_pending(self) -> None:
        """Cancel items that are not sent to a service yet. Calls in flight continue."""
        self._cancelled = True
        for reading in self._reads:
            reading.cancel()
        self._destination.cancel_pending()

    async def _read(
        self, item: Item, read_file: ReadFile, while_waiting: Callable[[], AbstractAsyncContextManager[None]]
    ) -> tuple[bytes, str]:
        limit = self._destination.max_image_bytes
        reading = asyncio.ensure_future(self._reader.read(item, read_file, limit, while_waiting))
        self._reads.add(reading)
        try:
            return await reading
        finally:
            self._reads.discard(reading)

    async def _store(self, pending: PendingItem, content: bytes, sha256: str) -> LedgerRow:
        image = self._metadata(pending, pending.item.id or sha256, sha256)
        replaced = await self._destination.store(image, content)
        return await self._record_stored(pending, image, replaced)

    async def _store_vector(self, pending: PendingItem, vector: Embedding) -> None:
        image = self._metadata(pending, pending.item.id, pending.item.content_sha256)
        with_parts = replace(image, region=pending.item.region, regions=pending.item.regions)
        replaced = await self._destination.store_vector(with_parts, vector)
        await self._record_stored(pending, image, replaced)

    async def _record_stored(self, pending: PendingItem, image: ImageMetadata, replaced: bool) -> LedgerRow:
        row = await self._record_done(pending, image.id, image.sha256)
        self._report.stored += 1
        self._report.replaced += replaced or _replaces_other_file(pending, image.sha256)
        return row

    def _metadata(self, pending: PendingItem, image_id: str, sha256: str) -> ImageMetadata:
        known = pending.known
        return ImageMetadata(
            image_id,
            pending.item.uri,
            pending.item.attributes,
            sha256,
            may_exist=known is not None or self._keep_attributes,
            is_known=known is not None and (known.state is ItemState.DONE or known.source == pending.source),
        )

    async def _update_metadata(self, pending: PendingItem, known: LedgerRow) -> bool:
        """Update the metadata of a stored image. Return False if its vector is missing, so that it must be embedded."""
        item = pending.item
        if known.state is ItemState.DUPLICATE:
            digest = metadata_digest(item.id, item.uri, item.attributes)
            await self._ledger.record(replace(known, uri=item.uri, metadata_digest=digest), pending.source)
            self._report.duplicates += 1
            return True
        image = self._metadata(pending, item.id or known.id, known.sha256)
        if not await self._destination.update_metadata(image):
            return False
        await self._record_done(pending, image.id, known.sha256)
        self._report.updated += 1
        return True

    async def _store_once(self, pending: PendingItem, content: bytes, sha256: str) -> None:
        """Store the item, or record it as a duplicate if another item with the same content is stored."""
        while first := self._first_outcomes.get(sha256):
            outcome = await asyncio.shield(first)
            # If the first item failed, this one may still succeed: its metadata differ.
            if outcome.state is not ItemState.FAILED:
                await self._record_duplicate(pending, sha256, outcome)
                return
        self._first_outcomes[sha256] = first = asyncio.get_running_loop().create_future()
        try:
            original = await self._ledger.call(Ledger.original_of, sha256, pending.item.key)
            if original is None:
                first.set_result(await self._store(pending, content, sha256))
            else:
                first.set_result(original)
                await self._record_duplicate(pending, sha256, original)
        except ServiceError as error:
            if not first.done():
                first.set_result(row_of_item(pending.item, ItemState.FAILED, error.reason, error.message))
            raise
        finally:
            del self._first_outcomes[sha256]
            # If the load stops, it stops for the waiting duplicates as well.
            first.cancel()

    async def _record_duplicate(self, pending: PendingItem, sha256: str, original: LedgerRow) -> None:
        row = replace(row_of_item(pending.item, ItemState.DUPLICATE), sha256=sha256, original=original.key)
        await self._ledger.record(row, pending.source)
        self._report.duplicates += 1

    async def _record_done(self, pending: PendingItem, image_id: str, sha256: str) -> LedgerRow:
        row = replace(row_of_item(pending.item, ItemState.DONE), id=image_id, sha256=sha256)
        await self._ledger.record(row, pending.source)
        return row


def _replaces_other_file(pending: PendingItem, sha256: str) -> bool:
    """Return whether another source had stored another image under the item's id."""
    known = pending.known
    if known is None or known.state is not ItemState.DONE or not is_other_file(pending.item, known, pending.source):
        return False
    return known.sha256 != sha256 or (not sha256 and known.stamp != pending.item.stamp)
