"""The ledger of a load: a row for each item, so that later runs load only what is new or has changed."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from imagesearch_ingest.load.ledger_database import LedgerDatabase
from imagesearch_ingest.load.ledger_rows import ItemState, LedgerRow
from imagesearch_ingest.load.report import MissingImages

# Keys in one statement; SQLite allows 32,766.
CHUNK = 1000
SHOWN_MISSING = 1000
# Items of a source that this run has not listed. The table `met` has the listed items of a read-only ledger.
MISSING = "source = ? AND run < ? AND NOT EXISTS (SELECT 1 FROM temp.met WHERE met.key = items.key)"
# The second condition lets SQLite use the index of originals.
FREE = "UPDATE items SET state = 'freed', original = '' WHERE original = ? AND original <> ''"
# Free duplicates whose original is not stored any more, or has other content now.
FREE_ORPHANS = (
    "UPDATE items SET state = 'freed', original = '' WHERE state = 'duplicate' AND NOT EXISTS "
    "(SELECT 1 FROM items AS other "
    "WHERE other.key = items.original AND other.state = 'done' AND other.sha256 = items.sha256)"
)


class Ledger(LedgerDatabase):
    """The rows of all items of one collection. Every method raises LedgerError."""

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        """Open the ledger, or create it. `path` None keeps it in memory."""
        super().__init__(path, read_only=read_only)
        self.run = 0
        """The number of the current run."""

    def start_run(self) -> None:
        """Start a run. Items that are looked up from now on count as listed in it."""
        with self.transaction():
            self.run = int(self._fact("run") or 0) + 1
            if not self._read_only:
                self._rows.execute("UPDATE facts SET value = ? WHERE name = 'run'", (str(self.run),))

    def source_number(self, name: str) -> int:
        """Return the number of a source, which is added if it is new. A read-only ledger returns 0 for a new one."""
        with self.transaction():
            if not self._read_only:
                self._rows.execute("INSERT OR IGNORE INTO sources (name) VALUES (?)", (name,))
            found = self._rows.execute("SELECT number FROM sources WHERE name = ?", (name,)).fetchone()
            return int(found[0]) if found else 0

    def source_name(self, number: int) -> str:
        """Return the name of a source; an empty string if there is none with this number."""
        with self._named_errors():
            found = self._rows.execute("SELECT name FROM sources WHERE number = ?", (number,)).fetchone()
        return str(found[0]) if found else ""

    def look_up(self, keys: Sequence[str]) -> dict[str, LedgerRow]:
        """Return the known rows by key, as they were before this run, and mark them as listed in this run."""
        marks = ",".join("?" * len(keys))
        with self.transaction():
            found = {row.key: row for row in self._select(f"key IN ({marks})", keys)}
            if self._read_only:
                self._mark_in_memory(found)
            elif found:
                self._rows.execute(
                    f"UPDATE items SET run = ? WHERE key IN ({marks})",  # noqa: S608 - question marks
                    (self.run, *keys),
                )
        return found

    def record(self, rows: Sequence[LedgerRow], source: int) -> None:
        """Record the outcome of items of a source.

        Duplicates of an item are freed if its content has changed. If an item was stored under another id before, that
        id becomes abandoned. An item stays with its first source until another source lists it with another uri.
        """
        now = time.time()
        with self.transaction():
            self._rows.executemany(
                "INSERT OR IGNORE INTO left_ids SELECT id FROM items "
                "WHERE key = ? AND id NOT IN ('', ?) AND state IN ('done', 'failed') AND reason <> 'ID_INVALID'",
                [(row.key, "" if row.state is ItemState.DUPLICATE else row.id) for row in rows],
            )
            # The former originals of these items have one duplicate less.
            self._rows.executemany(
                "UPDATE items SET uris_due = 1 "
                "WHERE key = (SELECT original FROM items WHERE key = ? AND original <> '')",
                [(row.key,) for row in rows],
            )
            self._rows.executemany(
                "INSERT INTO items (key, id, uri, size, stamp, sha256, about, state, reason, message, original, "
                "attempts, source, run, first_time, last_time) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET id = excluded.id, uri = excluded.uri, size = excluded.size, "
                "stamp = excluded.stamp, sha256 = excluded.sha256, about = excluded.about, state = excluded.state, "
                "reason = excluded.reason, message = excluded.message, original = excluded.original, "
                "attempts = attempts + 1, run = excluded.run, last_time = excluded.last_time, "
                "source = CASE WHEN uri = excluded.uri AND uri <> '' THEN source ELSE excluded.source END",
                [(*_values(row), source, self.run, now, now) for row in rows],
            )
            for row in rows:
                # Only a stored item with unchanged content keeps its duplicates.
                kept = row.sha256 if row.state is ItemState.DONE else ""
                if self._rows.execute(f"{FREE} AND sha256 <> ?", (row.key, kept)).rowcount:
                    self._rows.execute("UPDATE items SET uris_due = 1 WHERE key = ?", (row.key,))
                self._mark_duplicate_uris_due(row.original or row.key)
                if row.state is ItemState.DUPLICATE:
                    # Its original may have changed since it was looked up.
                    self._rows.execute(f"{FREE_ORPHANS} AND key = ?", (row.key,))

    def original_of(self, sha256: str, key: str) -> LedgerRow | None:
        """Return the stored item with this content, other than the item `key`."""
        return next(self._select("sha256 = ? AND state = 'done' AND key <> ? LIMIT 1", (sha256, key)), None)

    def done(self) -> Iterator[list[LedgerRow]]:
        """Yield the stored items, in chunks."""
        return self._in_chunks("state = 'done'", ())

    def missing(self, source: int) -> Iterator[list[LedgerRow]]:
        """Yield the items of a source that this run has not listed, in chunks. Each chunk may be removed."""
        return self._in_chunks(MISSING, (source, self.run))

    def count_missing(self, source: int, name: str, began: float) -> MissingImages:
        """Count the items of a source that this run has not listed. `began` is the run's start, as in `time.time`."""
        with self._named_errors():
            (count,) = self._rows.execute(
                f"SELECT count(*) FROM items WHERE {MISSING}",  # noqa: S608 - a constant of this module
                (source, self.run),
            ).fetchone()
            (known,) = self._rows.execute(
                "SELECT count(*) FROM items WHERE source = ? AND first_time < ?", (source, began)
            ).fetchone()
        first = self._select(f"{MISSING} ORDER BY key LIMIT ?", (source, self.run, SHOWN_MISSING))
        return MissingImages(name, count, known, [row.id or row.uri for row in first])

    def ids_of_other_items(self, ids: Sequence[str], rows: Sequence[LedgerRow] = ()) -> set[str]:
        """Return those ids under which items other than `rows` are stored, or may be stored."""
        keys = {row.key for row in rows}
        marks = ",".join("?" * len(ids))
        same = self._select(f"id IN ({marks}) AND state IN ('done', 'failed')", ids)
        return {row.id for row in same if row.key not in keys}

    def abandoned_ids(self) -> list[str]:
        """Return some ids under which items were stored before their ids changed; empty if there are none."""
        with self._named_errors():
            found = self._rows.execute("SELECT id FROM left_ids LIMIT ?", (CHUNK,)).fetchall()
        return [image_id for (image_id,) in found]

    def forget_abandoned_ids(self, ids: Sequence[str]) -> None:
        """Forget abandoned ids, which are removed from the collection or belong to other items now."""
        with self.transaction():
            self._rows.executemany("DELETE FROM left_ids WHERE id = ?", [(image_id,) for image_id in ids])

    def remove(self, rows: Sequence[LedgerRow]) -> None:
        """Remove items from the ledger, and free their duplicates."""
        with self.transaction():
            for row in rows:
                self._rows.execute("DELETE FROM items WHERE key = ?", (row.key,))
                self._rows.execute(FREE, (row.key,))
                self._rows.execute("UPDATE items SET uris_due = 1 WHERE key = ?", (row.original,))

    def has_freed(self, sources: Iterable[int]) -> bool:
        """Return whether an item of these sources was freed after this run had listed it."""
        return any(
            next(self._select("state = 'freed' AND source = ? AND run = ? LIMIT 1", (source, self.run)), None)
            for source in sources
        )

    def duplicate_uris_due(self) -> Iterator[tuple[LedgerRow, list[str]]]:
        """Yield the stored items whose duplicates have changed, with the uris of the duplicates."""
        for rows in self._in_chunks("uris_due", ()):
            for row in rows:
                duplicates = self._select("original = ? AND original <> '' ORDER BY uri", (row.key,))
                yield row, [duplicate.uri for duplicate in duplicates]

    def mark_duplicate_uris_stored(self, row: LedgerRow) -> None:
        """Note that the uris of an item's duplicates are stored with it."""
        with self.transaction():
            self._rows.execute("UPDATE items SET uris_due = 0 WHERE key = ?", (row.key,))

    def counts(self) -> dict[ItemState, int]:
        """Return the number of items by state."""
        with self._named_errors():
            found = self._rows.execute("SELECT state, count(*) FROM items GROUP BY state").fetchall()
        return {ItemState(state): count for state, count in found}

    def attempts(self, key: str) -> int:
        """Return how often an item was recorded."""
        with self._named_errors():
            found = self._rows.execute("SELECT attempts FROM items WHERE key = ?", (key,)).fetchone()
        return int(found[0]) if found else 0

    def _mark_in_memory(self, keys: Iterable[str]) -> None:
        self._rows.execute("PRAGMA query_only = 0")
        self._rows.executemany("INSERT OR IGNORE INTO temp.met VALUES (?)", [(key,) for key in keys])
        self._rows.execute("PRAGMA query_only = 1")

    def _mark_duplicate_uris_due(self, key: str) -> None:
        self._rows.execute(
            "UPDATE items SET uris_due = 1 WHERE key = ? "
            "AND EXISTS (SELECT 1 FROM items WHERE original = ? AND original <> '')",
            (key, key),
        )

    def _in_chunks(self, condition: str, values: Sequence[Any]) -> Iterator[list[LedgerRow]]:
        """Yield the rows that match, in the order of their keys. Rows of a chunk may be changed before the next one."""
        last = ""
        while rows := list(self._select(f"{condition} AND key > ? ORDER BY key LIMIT ?", (*values, last, CHUNK))):
            last = rows[-1].key
            yield rows

    def _select(self, condition: str, values: Sequence[Any]) -> Iterator[LedgerRow]:
        """Yield the rows that match a condition, which is always a text of this module."""
        columns = "key, id, uri, size, stamp, sha256, about, state, reason, message, original, run, last_time, source"
        with self._named_errors():
            found = self._rows.execute(f"SELECT {columns} FROM items WHERE {condition}", values).fetchall()  # noqa: S608
        for key, image_id, uri, size, stamp, sha256, digest, state, *rest in found:
            yield LedgerRow(key, image_id, uri, size, stamp, sha256, digest, ItemState(state), *rest)


def _values(row: LedgerRow) -> tuple[Any, ...]:
    key, image_id, uri, size, stamp, sha256, digest, state, reason, message, original, *_ = astuple(row)
    return key, image_id, uri, size, stamp, sha256, digest, state.value, reason, message, original
