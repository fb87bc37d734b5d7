"""Finds items that have the id of another image: within a run, and of a source that an earlier run loaded."""

import asyncio
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Self

from imagesearch_client.types import Embedding
from imagesearch_ingest.load.async_ledger import AsyncLedger
from imagesearch_ingest.load.ledger import Ledger, LedgerRow, metadata_digest
from imagesearch_ingest.sources.items import Fault, Item, SourceEntry, SourceError
from imagesearch_ingest.sources.member_uris import MEMBER_PROTOCOLS, split_member_uri
from imagesearch_ingest.sources.remote_files import connect, is_url, protocol_of, read_path
from imagesearch_ingest.sources.source_file import local_path

# Protocols with several names.
SAME_PROTOCOL = {"s3a": "s3", "gcs": "gs"}


@dataclass(frozen=True, slots=True)
class ListedItem:
    """An item that a run has met: where it is, and what tells it from another one of its id."""

    uri: str
    facts: tuple[object, ...]
    """Digest of id, uri and attributes; size, stamp, and of ready vectors the SHA-256 of their content."""

    @classmethod
    def of(cls, item: Item) -> Self:
        """As its source has it."""
        sha256 = item.content_sha256 if isinstance(item.content, Embedding) else ""
        return cls(item.uri, (metadata_digest(item.id, item.uri, item.attributes), item.size, item.stamp, sha256))

    @classmethod
    def of_row(cls, row: LedgerRow, item: Item) -> Self:
        """As the ledger has it, to be compared with `item`."""
        sha256 = row.sha256 if isinstance(item.content, Embedding) else ""
        return cls(row.uri, (row.about, row.size, row.stamp, sha256))


def conflict_within_run(item: Item, seen: ListedItem) -> Fault | None:
    """Return what is wrong with an item whose id this run has met before; None if it is the same in everything."""
    if ListedItem.of(item) == seen:
        return None
    where = (
        f"{seen.uri} as well" if seen.uri != item.uri else "an item before it, which has other content or attributes"
    )
    message = f"its id {item.key!r} is that of {where}; an id is of one image only"
    # In a file of rejects it is a remark: as a source it would take the other one's place.
    return Fault(item.uri or item.key, "ID_TWICE", message, may_hide_items=False)


def is_other_file(item: Item, known: LedgerRow, source: int) -> bool:
    """Whether another source has stored an id, under another uri or, without uris, with another vector."""
    if known.source == source:
        return False
    if item.uri or known.uri:
        return _canonical(item.uri) != _canonical(known.uri)
    return item.stamp != known.stamp


class IdConflicts:
    """Finds ids that belong to files of other sources. Only such ids cost anything, and each at most one request."""

    def __init__(self, records: AsyncLedger, pool: Executor) -> None:
        """`records` names the sources; `pool` looks at files."""
        self._records = records
        self._pool = pool
        self._files = FormerFiles()
        # By the source's number, its name and whether it is there.
        self._sources: dict[int, tuple[str, bool]] = {}

    async def find(self, found: Sequence[SourceEntry], known: Mapping[str, LedgerRow], source: int) -> dict[str, Fault]:
        """What is wrong with items whose ids are those of files that another source has still, by key."""
        loop = asyncio.get_running_loop()
        suspects = [
            (item, row)
            for item in found
            if isinstance(item, Item)
            and (row := known.get(item.key)) is not None
            and row.run != self._records.run
            and is_other_file(item, row, source)
        ]
        for number in {row.source for _, row in suspects} - self._sources.keys():
            name = await self._records.ask(Ledger.source_name, number)
            self._sources[number] = name, await loop.run_in_executor(self._pool, _is_source_there, name)
        checks = [
            (item, row, loop.run_in_executor(self._pool, self._files.is_there, item.uri, row.uri))
            for item, row in suspects
            if self._sources[row.source][1]
        ]
        return {item.key: self._fault(item, row) for item, row, is_there in checks if await is_there}

    def _fault(self, item: Item, row: LedgerRow) -> Fault:
        name = self._sources[row.source][0]
        message = (
            f"its id {item.key!r} is that of {row.uri or 'a vector'} as well, which {name or 'another source'} has "
            "still; an id is of one image only. Load a folder that holds both or give ids of their own; --replace "
            "stores this image instead"
        )
        return Fault(item.uri or item.key, "ID_TWICE", message, may_hide_items=False)


class FormerFiles:
    """Finds out whether files that were loaded before are there still. For several threads; every method blocks."""

    def __init__(self) -> None:
        """Knows nothing yet."""
        self._lock = threading.Lock()
        # Hosts and buckets that do not answer; they are not asked again.
        self._silent: set[str] = set()

    def is_there(self, uri: str, former: str) -> bool:
        """Whether the former file of an id is there still, and is another one than the new file."""
        former = local_path(former)
        if not former:
            # Its vector is in the source itself, which is there.
            return True
        if not is_url(former):
            return _is_path_there(former) and not _is_same_file(local_path(uri), former)
        if protocol_of(former) in MEMBER_PROTOCOLS:
            # Which members an archive has is not known without reading it.
            own = dict(_archives(uri))
            archives = _archives(former)
            return not archives or any(self.is_there(own.get(member, ""), archive) for member, archive in archives)
        return self._is_url_there(former)

    def _is_url_there(self, url: str) -> bool:
        """Whether a remote file is there; also true if that cannot be found out."""
        host = "/".join(url.split("/", 3)[:3])
        if host in self._silent:
            return True
        try:
            with self._lock:
                system, path = connect(url)
            read_path(system, path, url, 1)
        except FileNotFoundError:
            return False
        except (OSError, SourceError) as error:
            if not isinstance(error, PermissionError):
                self._silent.add(host)
        return True


def _archives(uri: str) -> list[tuple[str, str]]:
    """The members and archives that the uri of a member may mean; none if it is no such uri."""
    if protocol_of(uri) not in MEMBER_PROTOCOLS:
        return []
    try:
        return split_member_uri(uri)
    except OSError:
        return []


def _canonical(uri: str) -> str:
    uri = local_path(uri)
    if not is_url(uri):
        return uri
    protocol = protocol_of(uri)
    return SAME_PROTOCOL.get(protocol, protocol) + uri[len(protocol) :]


def _is_source_there(name: str) -> bool:
    # What is no path, such as standard input, says nothing.
    return not os.path.isabs(name) or _is_path_there(name)  # noqa: PTH117 - a text


def _is_path_there(path: str) -> bool:
    try:
        os.stat(path)  # noqa: PTH116 - paths are plain texts here, for speed
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        # It cannot be found out.
        return True
    return True


def _is_same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121 - as above
    except (OSError, ValueError):
        return False
