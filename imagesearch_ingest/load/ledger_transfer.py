"""Transfer the ledger of a collection to another collection that has copies of its images.

Without a transfer the next load into the other collection would embed every image again.
"""

import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagesearch_client.client import Client
from imagesearch_client.types import Collection, Image
from imagesearch_ingest.load.ledger import FREE_ORPHANS, Ledger
from imagesearch_ingest.load.ledger_database import VERSION, LedgerError
from imagesearch_ingest.load.ledger_rows import CollectionIdentity, LedgerRow, metadata_digest

COLUMNS = (
    "key", "id", "uri", "size", "stamp", "sha256", "about", "state", "reason", "message", "original", "attempts",
    "uris_due", "first_time", "last_time",
)  # fmt: skip
# Images in one call, each with up to 32 KiB of attributes; and calls in flight.
IMAGES_PER_CALL, CALLS = 200, 5
# The next load loads the items of these ids again.
FORGET = "DELETE FROM items WHERE id = ? AND state IN ('done', 'failed')"


@dataclass(frozen=True)
class Exclusions:
    """The items that a transfer leaves out."""

    ids: frozenset[str]
    since: float
    """Items that were recorded from this time on may belong to images that were not copied. As in `time.time`."""
    not_stored: bool = False
    """Leave out failed items and abandoned ids as well."""


def transfer_ledger(
    old: Path,
    new: Path,
    source: Collection,
    target: Collection,
    missing: Iterable[str] = (),
    before: float = math.inf,
) -> int:
    """Copy the items of the ledger `old` of `source` into the ledger `new` of `target`; return their number in `new`.

    If both ledgers know an item, the one recorded later stays. If `old` and `new` are one file, that file becomes the
    ledger of `target`. Items of a removed collection with the name of `target` are forgotten. Other loads cannot use
    the ledgers meanwhile. A crash leaves `new` unchanged, and the same call can be repeated.

    Args:
        old: the ledger of `source`; if it does not exist, nothing is copied.
        new: the ledger of `target`; created if it does not exist.
        source: the collection that was copied.
        target: the collection with the copies.
        missing: ids of `source` that `target` does not have. The next load loads their items.
        before: when the last pass of copying began, as in `time.time`. Items that `old` recorded from then on may not
            be in `target`, and are loaded again.

    Raises LedgerError if a ledger is in use, cannot be read or written, or belongs to another collection.
    """
    return _transfer(old, new, CollectionIdentity.of(source), target, Exclusions(frozenset(missing), before))


def transfer_stored_items(client: Client, old: Path, new: Path, target: Collection) -> int:
    """Copy those items of the ledger `old` that `target` stores into its ledger `new`; return their number in `new`.

    `old` may be the ledger of any collection. Each of its images is compared with the image that `target` stores under
    its id. The content must be the same, and the metadata must be as recorded, or newer. The next load loads all other
    items. `old` and `new` may be one file. Raises LedgerError and ServiceError.
    """
    began = time.time()
    with Ledger(old, read_only=True) as former, ThreadPoolExecutor(CALLS) as pool:
        identity = former.collection
        missing = {image_id for rows in former.done() for image_id in _ids_not_stored(client, target, rows, pool)}
    if identity is None:
        return 0
    return _transfer(old, new, identity, target, Exclusions(frozenset(missing), began, not_stored=True))


def is_ledger_of(path: Path, collection: Collection) -> bool:
    """Return whether a file is the ledger of exactly this collection. Raises LedgerError."""
    with Ledger(path, read_only=True) as ledger:
        return ledger.collection == CollectionIdentity.of(collection)


def _ids_not_stored(
    client: Client, target: Collection, rows: Sequence[LedgerRow], pool: ThreadPoolExecutor
) -> set[str]:
    ids = list({row.id for row in rows})
    chunks = [ids[begin : begin + IMAGES_PER_CALL] for begin in range(0, len(ids), IMAGES_PER_CALL)]
    stored: dict[str, Image] = {}
    for found in pool.map(lambda chunk: client.get_many(target.name, chunk, strong=True), chunks):
        stored |= found
    return {row.id for row in rows if (image := stored.get(row.id)) is None or not _is_as_recorded(image, row)}


def _is_as_recorded(image: Image, row: LedgerRow) -> bool:
    if not row.sha256 or image.content_sha256 != row.sha256:
        return False
    # The recorded digest has no id if the id is the content's SHA-256, and no attributes if the source has none.
    digests = {
        metadata_digest(image_id, image.uri, attributes)
        for image_id in (image.id, "")
        for attributes in (image.attributes, None)
    }
    return row.metadata_digest in digests or image.update_time.timestamp() >= row.last_time


def _transfer(old: Path, new: Path, source: CollectionIdentity, target: Collection, exclusions: Exclusions) -> int:
    if not old.exists():
        return 0
    if new.exists() and new.samefile(old):
        with Ledger(new) as ledger:
            return _rebind(ledger, source, target, exclusions, new)
    with Ledger(old, read_only=True) as former:
        if former.collection is None:
            return 0
        _check_collection(former, source, old)
        with Ledger(new) as ledger:
            return _copy_items(ledger, former, target, exclusions, new)


def _check_collection(ledger: Ledger, wanted: CollectionIdentity, path: Path) -> None:
    if (found := ledger.collection) is not None and found != wanted:
        raise LedgerError(
            f"{path} is the ledger of {found.collection}, created at {found.create_time} for {found.fingerprint}, not "
            f"of {wanted.collection}, created at {wanted.create_time} for {wanted.fingerprint}"
        )


def _rebind(ledger: Ledger, source: CollectionIdentity, target: Collection, exclusions: Exclusions, path: Path) -> int:
    identity = CollectionIdentity.of(target)
    if ledger.collection != identity:
        _check_collection(ledger, source, path)
    with ledger.transaction() as rows:
        _set_collection(rows, identity)
        rows.executemany(FORGET, ((image_id,) for image_id in exclusions.ids))
        rows.execute("DELETE FROM items WHERE last_time >= ?", (exclusions.since,))
        if exclusions.not_stored:
            rows.execute("DELETE FROM items WHERE state = 'failed'")
            rows.execute("DELETE FROM left_ids")
        rows.execute(FREE_ORPHANS)
        return _count(rows)


def _copy_items(ledger: Ledger, former: Ledger, target: Collection, exclusions: Exclusions, path: Path) -> int:
    identity = CollectionIdentity.of(target)
    found = ledger.collection
    is_stale = found is not None and found.collection == target.name and found != identity
    if not is_stale:
        _check_collection(ledger, identity, path)
    with former.transaction() as old, ledger.transaction() as rows:
        if is_stale:
            for table in ("items", "left_ids", "facts"):
                rows.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
        _set_collection(rows, identity)
        names = ", ".join(COLUMNS)
        marks = ", ".join("?" * len(COLUMNS))
        changes = ", ".join(f"{name} = excluded.{name}" for name in (*COLUMNS[1:], "source", "run"))
        rows.executemany(
            f"INSERT INTO items ({names}, source, run) VALUES ({marks}, ?, 0) "  # noqa: S608 - constants
            f"ON CONFLICT (key) DO UPDATE SET {changes} WHERE excluded.last_time > last_time",
            _included_items(old, _copy_sources(old, rows), exclusions),
        )
        if not exclusions.not_stored:
            rows.executemany("INSERT OR IGNORE INTO left_ids VALUES (?)", old.execute("SELECT id FROM left_ids"))
        rows.execute(FREE_ORPHANS)
        count = _count(rows)
    ledger.add_aliases(former.aliases)
    return count


def _copy_sources(old: sqlite3.Connection, rows: sqlite3.Connection) -> dict[int, int]:
    """Copy the sources into the new ledger, and return their new numbers by their old ones."""
    numbers: dict[int, int] = {}
    for number, name in old.execute("SELECT number, name FROM sources").fetchall():
        rows.execute("INSERT OR IGNORE INTO sources (name) VALUES (?)", (name,))
        (numbers[number],) = rows.execute("SELECT number FROM sources WHERE name = ?", (name,)).fetchone()
    return numbers


def _included_items(
    old: sqlite3.Connection, source_numbers: Mapping[int, int], exclusions: Exclusions
) -> Iterator[tuple[Any, ...]]:
    """Yield the values of the items to copy, each with the new number of its source."""
    for source, *values in old.execute(f"SELECT source, {', '.join(COLUMNS)} FROM items"):  # noqa: S608 - constants
        item = dict(zip(COLUMNS, values, strict=True))
        is_excluded = item["id"] in exclusions.ids and item["state"] in ("done", "failed")
        is_excluded = is_excluded or (exclusions.not_stored and item["state"] == "failed")
        if not is_excluded and item["last_time"] < exclusions.since:
            yield (*values, source_numbers.get(source, 0))


def _set_collection(rows: sqlite3.Connection, identity: CollectionIdentity) -> None:
    facts = {
        "collection": identity.collection,
        "create_time": identity.create_time,
        "fingerprint": identity.fingerprint,
    }
    rows.executemany(
        "INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", facts.items()
    )
    rows.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?)", {"version": VERSION, "run": "0"}.items())


def _count(rows: sqlite3.Connection) -> int:
    (count,) = rows.execute("SELECT count(*) FROM items").fetchone()
    return int(count)
