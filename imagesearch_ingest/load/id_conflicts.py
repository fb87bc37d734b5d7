"""Find items whose id belongs to another image, in the same run or in another source."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Self

from imagesearch_client.types import Embedding
from imagesearch_ingest.load.async_ledger import AsyncLedger
from imagesearch_ingest.load.ledger import Ledger
from imagesearch_ingest.load.ledger_rows import LedgerRow, metadata_digest
from imagesearch_ingest.sources.former_files import FormerFiles, canonical_uri, path_exists
from imagesearch_ingest.sources.items import Fault, Item, SourceEntry


@dataclass(frozen=True, slots=True)
class ListedItem:
    """An item that a run has listed: its uri, and what distinguishes it from another item with the same id."""

    uri: str
    facts: tuple[object, ...]
    """The digest of the metadata, size, stamp, and the content's SHA-256 of a ready vector."""

    @classmethod
    def of(cls, item: Item) -> Self:
        """Return what the source says of an item."""
        sha256 = item.content_sha256 if isinstance(item.content, Embedding) else ""
        digest = metadata_digest(item.id, item.uri, item.attributes)
        return cls(item.uri, (digest, item.size, item.stamp, sha256))

    @classmethod
    def of_row(cls, row: LedgerRow, item: Item) -> Self:
        """Return what the ledger says of an item, for a comparison with `item`."""
        sha256 = row.sha256 if isinstance(item.content, Embedding) else ""
        return cls(row.uri, (row.metadata_digest, row.size, row.stamp, sha256))


def conflict_within_run(item: Item, listed: ListedItem) -> Fault | None:
    """Return the fault of an item whose id this run has listed before; None if the two items are equal."""
    if ListedItem.of(item) == listed:
        return None
    other = listed.uri if listed.uri != item.uri else "an earlier item, which has other content or attributes"
    message = f"its id {item.key!r} also belongs to {other}; each image needs its own id"
    # As an item in the file of rejects it would replace the other image when the file is loaded. As a fault it cannot.
    return Fault(item.uri or item.key, "ID_TWICE", message, may_hide_items=False)


def is_other_file(item: Item, known: LedgerRow, source: int) -> bool:
    """Return whether another source has stored an item's id with another uri, or without uris with another vector."""
    if known.source == source:
        return False
    if item.uri or known.uri:
        return canonical_uri(item.uri) != canonical_uri(known.uri)
    return item.stamp != known.stamp


class IdConflicts:
    """Finds ids that belong to files of other sources. Only a suspicious id costs a request, and only one."""

    def __init__(self, ledger: AsyncLedger, pool: Executor) -> None:
        """Use the ledger for the names of sources, and the pool to look for files."""
        self._ledger = ledger
        self._pool = pool
        self._files = FormerFiles()
        # Name and existence, by the number of the source.
        self._sources: dict[int, tuple[str, bool]] = {}

    async def find(
        self, entries: Sequence[SourceEntry], known: Mapping[str, LedgerRow], source: int
    ) -> dict[str, Fault]:
        """Return the faults of items whose ids belong to files that another source still has, by key."""
        loop = asyncio.get_running_loop()
        suspects = [
            (item, row)
            for item in entries
            if isinstance(item, Item)
            and (row := known.get(item.key)) is not None
            and row.run != self._ledger.run
            and is_other_file(item, row, source)
        ]
        for number in {row.source for _, row in suspects} - self._sources.keys():
            name = await self._ledger.call(Ledger.source_name, number)
            self._sources[number] = name, await loop.run_in_executor(self._pool, _source_exists, name)
        checks = [
            (item, row, loop.run_in_executor(self._pool, self._files.former_exists, item.uri, row.uri))
            for item, row in suspects
            if self._sources[row.source][1]
        ]
        return {item.key: self._fault(item, row) for item, row, exists in checks if await exists}

    def _fault(self, item: Item, row: LedgerRow) -> Fault:
        name = self._sources[row.source][0]
        message = (
            f"its id {item.key!r} also belongs to {row.uri or 'a vector'}, which {name or 'another source'} still has; "
            "each image needs its own id. Load a folder that contains both, or set ids; --replace stores this image "
            "instead"
        )
        return Fault(item.uri or item.key, "ID_TWICE", message, may_hide_items=False)


def _source_exists(name: str) -> bool:
    # A name that is not a path, such as standard input, cannot be checked.
    return not os.path.isabs(name) or path_exists(name)  # noqa: PTH117 - a string
