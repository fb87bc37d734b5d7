"""Brings one item into a collection."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace

from grpc_kit.errors import ServiceError
from imagesearch_client.bulk.accounts import Account
from imagesearch_client.bulk.decisions import Action, describes
from imagesearch_client.bulk.destinations import Described, Destination
from imagesearch_client.bulk.ledger import Ledger, Row, State, about, unread
from imagesearch_client.bulk.reading import Readers
from imagesearch_client.bulk.records import Records
from imagesearch_client.sources.items import Item
from imagesearch_client.types import AttributeValue, Embedding


@dataclass(frozen=True, slots=True)
class Task:
    """An item, what the ledger knows of it, and the number of its source."""

    item: Item
    known: Row | None
    source: int


class Bringer:
    """Brings items one by one; any number of them at a time."""

    def __init__(
        self,
        destination: Destination,
        records: Records,
        account: Account,
        readers: Readers,
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
        # The outcome of the item that is stored for all that have its content, until it is in the ledger.
        self._firsts: dict[str, asyncio.Future[Row]] = {}

    async def bring(
        self,
        task: Task,
        action: Action,
        sized: Callable[[int], None],
        aside: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        """Stores an item, and records it. Raises ServiceError, LoadStoppedError, LedgerError.

        `sized` is told the bytes of its file when they are in memory; `aside` is entered while its file is waited for.
        """
        item, known = task.item, task.known
        if isinstance(item.content, Embedding):
            await self._store_vector(task, item.content)
            return
        if action is Action.DESCRIBE and known is not None and await self._describe(task, known):
            return
        limit = self._destination.max_image_bytes
        content, sha256 = await self._readers.read(item, item.content, limit, aside)
        sized(len(content))
        self._account.bytes += len(content)
        if known is not None and known.state is State.DONE and known.sha256 == sha256:
            # Its time of change is new, and maybe nothing else.
            if describes(item, known):
                await self._records.record(replace(known, size=item.size, stamp=item.stamp), task.source)
                self._account.skipped += 1
                return
            if await self._describe(task, known):
                return
        if self._dedup:
            await self._store_once(task, content, sha256)
        else:
            await self._store(task, content, sha256)

    async def fail(self, task: Task, error: ServiceError) -> None:
        """Records that an item cannot be stored. What was stored of it before stays, and is still known by its id."""
        row = unread(task.item, State.FAILED, error.reason, error.message)
        former = task.known.id if task.known is not None else ""
        await self._records.record(replace(row, id=row.id or former), task.source)

    async def _store(self, task: Task, content: bytes, sha256: str) -> Row:
        item = task.item
        image_id = item.id or sha256
        image = Described(image_id, item.uri, await self._attributes(task, image_id), sha256)
        await self._destination.store(image, content)
        row = await self._done(task, image_id, sha256)
        self._account.stored += 1
        return row

    async def _store_vector(self, task: Task, vector: Embedding) -> None:
        item = task.item
        attributes = await self._attributes(task, item.id)
        image = Described(item.id, item.uri, attributes, item.content_sha256, item.region)
        await self._destination.store_vector(image, vector)
        await self._done(task, item.id, item.content_sha256)
        self._account.stored += 1

    async def _attributes(self, task: Task, image_id: str) -> Mapping[str, AttributeValue]:
        """Those of the source; where it knows of none, those that are stored."""
        if task.item.attributes is not None:
            return task.item.attributes
        if task.known is None and not self._keep_attributes:
            return {}
        stored = await self._destination.stored(image_id)
        return {} if stored is None else stored.attributes

    async def _describe(self, task: Task, known: Row) -> bool:
        """Stores what is new beside an item's vector; False where the vector is not there, and is to be made."""
        item = task.item
        if known.state is State.DUPLICATE:
            digest = about(item.id, item.uri, item.attributes)
            await self._records.record(replace(known, uri=item.uri, about=digest), task.source)
            self._account.duplicates += 1
            return True
        stored = await self._destination.stored(known.id)
        if stored is None or stored.embedding is None or stored.content_sha256 != known.sha256:
            return False
        attributes = stored.attributes if item.attributes is None else item.attributes
        image = Described(item.id or known.id, item.uri, attributes, known.sha256, stored.region)
        await self._destination.store_vector(image, stored.embedding)
        await self._done(task, image.id, known.sha256)
        self._account.described += 1
        return True

    async def _store_once(self, task: Task, content: bytes, sha256: str) -> None:
        """Stores content that no other item has; else the item is recorded as a duplicate."""
        while first := self._firsts.get(sha256):
            outcome = await asyncio.shield(first)
            # What it failed of may be its own affair.
            if outcome.state is not State.FAILED:
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
                first.set_result(unread(task.item, State.FAILED, error.reason, error.message))
            raise
        finally:
            del self._firsts[sha256]
            # Where the load stops, it stops for those who wait for this one as well.
            first.cancel()

    async def _set_aside(self, task: Task, sha256: str, original: Row) -> None:
        row = replace(unread(task.item, State.DUPLICATE), sha256=sha256, original=original.key)
        await self._records.record(row, task.source)
        self._account.duplicates += 1

    async def _done(self, task: Task, image_id: str, sha256: str) -> Row:
        row = replace(unread(task.item, State.DONE), id=image_id, sha256=sha256)
        await self._records.record(row, task.source)
        return row
