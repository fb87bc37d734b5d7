"""Gives the ledger of a collection on to another collection that the images were copied into.

Without it the next load into that collection would embed everything again.
"""

import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagesearch_client import Client
from imagesearch_client.types import Collection, Image
from imagesearch_ingest.load.ledger import VERSION, CollectionIdentity, Ledger, LedgerError, LedgerRow, metadata_digest

COLUMNS = (
    "key",
    "id",
    "uri",
    "size",
    "stamp",
    "sha256",
    "about",
    "state",
    "reason",
    "message",
    "original",
    "attempts",
    "uris_due",
    "first_time",
    "last_time",
)
# Images that are read in one call, each of which may have 32 KiB of attributes; and calls at a time.
ASKED_TOGETHER, CALLS = 200, 5
# Items under these ids are no longer known, so that they are loaded again.
FORGET = "DELETE FROM items WHERE id = ? AND state IN ('done', 'failed')"
# Duplicates of items that are no longer known, or are no longer what they were, are to be loaded themselves.
FREE_ALL = (
    "UPDATE items SET state = 'freed', original = '' WHERE state = 'duplicate' AND NOT EXISTS "
    "(SELECT 1 FROM items AS other "
    "WHERE other.key = items.original AND other.state = 'done' AND other.sha256 = items.sha256)"
)


@dataclass(frozen=True)
class Exclusions:
    """What of a ledger is not handed on."""

    ids: frozenset[str]
    since: float
    """When what was recorded may be of an image that was not copied."""
    not_stored: bool = False
    """Also leave out what is not known to be stored: items that failed, and ids that are due to be removed."""


def transfer_ledger(
    old: Path,
    new: Path,
    source: Collection,
    target: Collection,
    missing: Iterable[str] = (),
    before: float = math.inf,
) -> int:
    """Gives `new`, the ledger of `target`, what `old`, the ledger of `source`, knows of the images; returns how many.

    Other loads meanwhile are refused. A crash leaves `new` as it was, and the same call may be made again. Where both
    know an item, the one that was recorded later stays. Where `old` and `new` are one file, it becomes `target`'s.
    What `new` knows of a collection of the same name that was removed is forgotten.

    Args:
        old: where the ledger of `source` is; a file that is not there has nothing to hand on.
        new: where the ledger of `target` is, or is to be.
        source: the collection that was copied.
        target: the collection that has the copies.
        missing: ids of `source` that `target` does not have: the next load brings their items.
        before: seconds since 1970, when the last pass of copying began: what was recorded in `old` from then on may
            not be in `target`, and is loaded again.

    Raises LedgerError where a ledger is in use, cannot be read or written, or is of another collection.
    """
    return _hand_on(old, new, CollectionIdentity.of(source), target, Exclusions(frozenset(missing), before))


def transfer_stored_items(client: Client, old: Path, new: Path, target: Collection) -> int:
    """Give `new`, the ledger of `target`, the items of `old` that `target` has; return how many items it has then.

    `old` is the ledger of any collection. Each of its images is compared with what `target` stores under its id: the
    content must be the same, and what is stored beside it must be as it was recorded or newer. The next load brings
    all others. `old` and `new` may be one file. Raises LedgerError and ServiceError.
    """
    began = time.time()
    with Ledger(old, read_only=True) as former, ThreadPoolExecutor(CALLS) as pool:
        binding = former.binding
        missing = {image_id for rows in former.done() for image_id in _not_stored(client, target, rows, pool)}
    if binding is None:
        return 0
    return _hand_on(old, new, binding, target, Exclusions(frozenset(missing), began, not_stored=True))


def _not_stored(client: Client, target: Collection, rows: Sequence[LedgerRow], pool: ThreadPoolExecutor) -> set[str]:
    """Return the ids of these items that a collection does not have as they were recorded."""
    ids = list({row.id for row in rows})
    chunks = [ids[begin : begin + ASKED_TOGETHER] for begin in range(0, len(ids), ASKED_TOGETHER)]
    stored: dict[str, Image] = {}
    for found in pool.map(lambda chunk: client.get_many(target.name, chunk, strong=True), chunks):
        stored |= found
    return {row.id for row in rows if (image := stored.get(row.id)) is None or not _is_as_recorded(image, row)}


def _is_as_recorded(image: Image, row: LedgerRow) -> bool:
    if not row.sha256 or image.content_sha256 != row.sha256:
        return False
    # The id may be made of the content, and the source may say nothing of attributes.
    digests = {metadata_digest(name, image.uri, known) for name in (image.id, "") for known in (image.attributes, None)}
    return row.about in digests or image.update_time.timestamp() >= row.last_time


def _hand_on(old: Path, new: Path, source: CollectionIdentity, target: Collection, left_out: Exclusions) -> int:
    if not old.exists():
        return 0
    if new.exists() and new.samefile(old):
        with Ledger(new) as ledger:
            return _rebind(ledger, source, target, left_out, new)
    with Ledger(old, read_only=True) as former:
        if former.binding is None:
            return 0
        _check(former, source, old)
        with Ledger(new) as ledger:
            return _take_over(ledger, former, target, left_out, new)


def is_ledger_of(path: Path, collection: Collection) -> bool:
    """Whether a file is the ledger of just this collection, and no other one of its name. Raises LedgerError."""
    with Ledger(path, read_only=True) as ledger:
        return ledger.binding == CollectionIdentity.of(collection)


def _check(ledger: Ledger, wanted: CollectionIdentity, path: Path) -> None:
    if (found := ledger.binding) is not None and found != wanted:
        raise LedgerError(
            f"{path} is the ledger of {found.collection}, made at {found.create_time} for {found.fingerprint}, and not "
            f"of {wanted.collection}, made at {wanted.create_time} for {wanted.fingerprint}"
        )


def _rebind(ledger: Ledger, source: CollectionIdentity, target: Collection, left_out: Exclusions, path: Path) -> int:
    binding = CollectionIdentity.of(target)
    if ledger.binding != binding:
        _check(ledger, source, path)
    with ledger.transaction() as rows:
        _bind(rows, binding)
        rows.executemany(FORGET, ((image_id,) for image_id in left_out.ids))
        rows.execute("DELETE FROM items WHERE last_time >= ?", (left_out.since,))
        if left_out.not_stored:
            rows.execute("DELETE FROM items WHERE state = 'failed'")
            rows.execute("DELETE FROM left_ids")
        rows.execute(FREE_ALL)
        return _count(rows)


def _take_over(ledger: Ledger, former: Ledger, target: Collection, left_out: Exclusions, path: Path) -> int:
    binding = CollectionIdentity.of(target)
    found = ledger.binding
    is_stale = found is not None and found.collection == target.name and found != binding
    if not is_stale:
        _check(ledger, binding, path)
    with former.transaction() as old, ledger.transaction() as rows:
        if is_stale:
            for table in ("items", "left_ids", "facts"):
                rows.execute(f"DELETE FROM {table}")  # noqa: S608 - this module's own text
        _bind(rows, binding)
        names = ", ".join(COLUMNS)
        marks = ", ".join("?" * len(COLUMNS))
        changes = ", ".join(f"{name} = excluded.{name}" for name in (*COLUMNS[1:], "source", "run"))
        rows.executemany(
            f"INSERT INTO items ({names}, source, run) VALUES ({marks}, ?, 0) "  # noqa: S608 - as above
            f"ON CONFLICT (key) DO UPDATE SET {changes} WHERE excluded.last_time > last_time",
            _kept(old, _numbers(old, rows), left_out),
        )
        if not left_out.not_stored:
            rows.executemany("INSERT OR IGNORE INTO left_ids VALUES (?)", old.execute("SELECT id FROM left_ids"))
        rows.execute(FREE_ALL)
        count = _count(rows)
    ledger.know_aliases(former.aliases)
    return count


def _numbers(old: sqlite3.Connection, rows: sqlite3.Connection) -> dict[int, int]:
    """The number that each source of the old ledger has in the new one."""
    numbers: dict[int, int] = {}
    for number, name in old.execute("SELECT number, name FROM sources").fetchall():
        rows.execute("INSERT OR IGNORE INTO sources (name) VALUES (?)", (name,))
        (numbers[number],) = rows.execute("SELECT number FROM sources WHERE name = ?", (name,)).fetchone()
    return numbers


def _kept(old: sqlite3.Connection, numbers: Mapping[int, int], left_out: Exclusions) -> Iterator[tuple[Any, ...]]:
    """The old ledger's items that the new collection has, each with its source."""
    for source, *values in old.execute(f"SELECT source, {', '.join(COLUMNS)} FROM items"):  # noqa: S608 - as above
        known = dict(zip(COLUMNS, values, strict=True))
        is_lost = known["id"] in left_out.ids and known["state"] in ("done", "failed")
        is_lost = is_lost or (left_out.not_stored and known["state"] == "failed")
        if not is_lost and known["last_time"] < left_out.since:
            yield (*values, numbers.get(source, 0))


def _bind(rows: sqlite3.Connection, binding: CollectionIdentity) -> None:
    facts = {
        "collection": binding.collection,
        "create_time": binding.create_time,
        "fingerprint": binding.fingerprint,
    }
    rows.executemany(
        "INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", facts.items()
    )
    rows.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?)", {"version": VERSION, "run": "0"}.items())


def _count(rows: sqlite3.Connection) -> int:
    (count,) = rows.execute("SELECT count(*) FROM items").fetchone()
    return int(count)
