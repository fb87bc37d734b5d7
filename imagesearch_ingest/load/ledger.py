"""The ledger of a bulk load: a row for each item, in a file of SQLite."""

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Self

from imagesearch_client.types import AttributeValue, Collection
from imagesearch_ingest.load.report import MissingImages
from imagesearch_ingest.sources.items import Item

VERSION = "1"
# Facts that begin so have the aliases that loads named the collection by.
ALIAS = "alias:"
# Keys of one statement; SQLite takes 32,766.
CHUNK = 1000
SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sources (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS items (
    key TEXT PRIMARY KEY,
    id TEXT NOT NULL,
    uri TEXT NOT NULL,
    size INTEGER,
    stamp TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    about TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    message TEXT NOT NULL,
    original TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    source INTEGER NOT NULL,
    run INTEGER NOT NULL,
    uris_due INTEGER NOT NULL DEFAULT 0,
    first_time REAL NOT NULL,
    last_time REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS left_ids (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_id ON items (id);
CREATE INDEX IF NOT EXISTS by_content ON items (sha256) WHERE state = 'done';
CREATE INDEX IF NOT EXISTS by_original ON items (original) WHERE original <> '';
CREATE INDEX IF NOT EXISTS due ON items (key) WHERE uris_due;
CREATE TEMP TABLE met (key TEXT PRIMARY KEY) WITHOUT ROWID;
"""
# Items of a source that were not met in a run. The table of those that were is of ledgers that nothing is written to.
GONE = "source = ? AND run < ? AND NOT EXISTS (SELECT 1 FROM temp.met WHERE met.key = items.key)"
# Names of items that are shown.
SHOWN_GONE = 1000
# The index of originals has those only that are not empty, which SQLite is to be told.
FREE = "UPDATE items SET state = 'freed', original = '' WHERE original = ? AND original <> ''"


class ItemState(Enum):
    """What has become of an item."""

    DONE = "done"
    """The search service has acknowledged it."""
    FAILED = "failed"
    DUPLICATE = "duplicate"
    """Its content is stored as another item's."""
    FREED = "freed"
    """It was the duplicate of one that is gone or has changed, and is to be loaded itself."""


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What is known of an item."""

    key: str
    id: str
    uri: str
    size: int | None
    stamp: str
    sha256: str
    """Of its content, 64 hexadecimal digits; empty where it was never read."""
    about: str
    """Digest of its id, uri and attributes."""
    state: ItemState
    reason: str = ""
    message: str = ""
    original: str = ""
    """The key of the item that it is a duplicate of."""
    run: int = 0
    """When it was last met; the ledger sets it."""
    last_time: float = 0.0
    """When it was last recorded, in seconds since 1970; the ledger sets it."""
    source: int = 0
    """The number of the source that it belongs to; the ledger sets it."""


@dataclass(frozen=True)
class CollectionIdentity:
    """The one collection that a ledger is of."""

    collection: str
    create_time: str
    """When it was made: another one of the same name holds none of this ledger's items. Empty: it is not made yet."""
    fingerprint: str

    @classmethod
    def of(cls, collection: Collection) -> Self:
        """To a collection as it is now."""
        return cls(collection.name, collection.create_time.isoformat(), collection.fingerprint)


class LedgerError(Exception):
    """A ledger that cannot be used; says what is wrong and what would be right."""


class Ledger:
    """One row an item. A file of its own for one collection; only one process has it open.

    What was recorded survives the kill of the process; a power cut may take the last moments, and they are done again.
    Not for several threads at a time. Every method raises LedgerError.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        """Opens the ledger, and makes it where there is none. `path` None keeps it in memory."""
        self._path = path
        self._run = 0
        self._read_only = read_only
        # A load binds the ledger in one thread while it records items in another one.
        self._changing = threading.RLock()
        with self._named_errors():
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._rows = sqlite3.connect(path or ":memory:", timeout=1, check_same_thread=False, isolation_level=None)
            # Held until it is closed, by this process or by its end.
            self._rows.execute("PRAGMA locking_mode = EXCLUSIVE")
            tables = {name for (name,) in self._rows.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables and "facts" not in tables:
                self._rows.close()
                raise LedgerError(f"{path} is a database of something else; name another file by --ledger")
            self._rows.execute("PRAGMA journal_mode = WAL")
            self._rows.execute("PRAGMA synchronous = NORMAL")
            self._rows.executescript(SCHEMA)
            if self._fact("version") not in ("", VERSION):
                raise LedgerError(f"{path} is of another version of this program; name a new one by --ledger")
            self._rows.execute(f"PRAGMA query_only = {int(read_only)}")

    def __enter__(self) -> Self:
        """The ledger itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def close(self) -> None:
        """Lets others have it."""
        self._rows.close()

    def bind(self, binding: CollectionIdentity, *, restart: bool = False) -> None:
        """Makes it the ledger of a collection, or sees that it is; `restart` forgets all items first.

        The ledger of a collection that was never made has no stored items, and may become another one's.
        """
        with self.transaction():
            was = (self._fact("collection"), self._fact("fingerprint"))
            if not self._fact("create_time") and was != (binding.collection, binding.fingerprint):
                restart = True
            if restart:
                self._rows.execute("DELETE FROM items")
                self._rows.execute("DELETE FROM left_ids")
                self._rows.execute("DELETE FROM facts")
            wanted = {"collection": binding.collection, "fingerprint": binding.fingerprint}
            wanted["create_time"] = binding.create_time
            self.check(binding)
            facts = {"version": VERSION, "run": "0", **{name: value for name, value in wanted.items() if value}}
            self._rows.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?)", facts.items())

    @property
    def aliases(self) -> set[str]:
        """The aliases that loads with this ledger named its collection by."""
        with self._named_errors():
            found = self._rows.execute("SELECT name FROM facts WHERE name GLOB ?", (f"{ALIAS}*",)).fetchall()
        return {name.removeprefix(ALIAS) for (name,) in found}

    def know_aliases(self, names: Iterable[str]) -> None:
        """Record aliases that loads name the collection by."""
        with self.transaction():
            self._rows.executemany(
                "INSERT OR IGNORE INTO facts VALUES (?, '')", [(f"{ALIAS}{name}",) for name in names]
            )

    def done(self) -> Iterator[list[LedgerRow]]:
        """Yield the items that were stored, some at a time."""
        last = ""
        while rows := list(self._select("state = 'done' AND key > ? ORDER BY key LIMIT ?", (last, CHUNK))):
            last = rows[-1].key
            yield rows

    def check(self, binding: CollectionIdentity) -> None:
        """Raise LedgerError if it is the ledger of another collection."""
        if not self._fact("create_time"):
            return
        for name in ("collection", "fingerprint", "create_time"):
            value: str = getattr(binding, name)
            if (found := self._fact(name) or value) != value:
                raise LedgerError(self._other(name, found, value))

    @property
    def binding(self) -> CollectionIdentity | None:
        """The collection that it is of; None where it is of none yet."""
        with self._named_errors():
            if not (collection := self._fact("collection")):
                return None
            return CollectionIdentity(collection, self._fact("create_time"), self._fact("fingerprint"))

    @property
    def run(self) -> int:
        """The number of this run."""
        return self._run

    def begin_run(self) -> None:
        """Items that are met from here on are met in a new run."""
        with self.transaction():
            self._run = int(self._fact("run") or 0) + 1
            if not self._read_only:
                self._rows.execute("UPDATE facts SET value = ? WHERE name = 'run'", (str(self._run),))

    def source(self, name: str) -> int:
        """The number of a source; 0 if it is new and nothing may be written."""
        with self.transaction():
            if self._read_only:
                found = self._rows.execute("SELECT number FROM sources WHERE name = ?", (name,)).fetchone()
                return int(found[0]) if found else 0
            self._rows.execute("INSERT OR IGNORE INTO sources (name) VALUES (?)", (name,))
            (number,) = self._rows.execute("SELECT number FROM sources WHERE name = ?", (name,)).fetchone()
            return int(number)

    def source_name(self, number: int) -> str:
        """The name of a source; empty if there is none of this number."""
        with self._named_errors():
            found = self._rows.execute("SELECT name FROM sources WHERE number = ?", (number,)).fetchone()
        return str(found[0]) if found else ""

    def meet(self, keys: Sequence[str]) -> dict[str, LedgerRow]:
        """What is known of items, which are marked as met in this run."""
        marks = ",".join("?" * len(keys))
        with self.transaction():
            found = {row.key: row for row in self._select(f"key IN ({marks})", keys)}
            if self._read_only:
                self._note(found)
            elif found:
                self._rows.execute(
                    f"UPDATE items SET run = ? WHERE key IN ({marks})",  # noqa: S608 - question marks
                    (self._run, *keys),
                )
        return found

    def record(self, rows: Sequence[LedgerRow], source: int) -> None:
        """Keeps what has become of items. Duplicates of one that is no longer what it was are freed.

        Ids under which an item was stored before, and is no more, are left ids then. An item stays with the source that
        named it first, until another one has it under another uri.
        """
        now = time.time()
        with self.transaction():
            self._rows.executemany(
                "INSERT OR IGNORE INTO left_ids SELECT id FROM items "
                "WHERE key = ? AND id NOT IN ('', ?) AND state IN ('done', 'failed') AND reason <> 'ID_INVALID'",
                [(row.key, "" if row.state is ItemState.DUPLICATE else row.id) for row in rows],
            )
            # Those that they were duplicates of have one less.
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
                [(*_values(row), source, self._run, now, now) for row in rows],
            )
            for row in rows:
                # Who is a duplicate has none of its own, and who is stored as it was keeps them.
                kept = row.sha256 if row.state is ItemState.DONE else ""
                if self._rows.execute(f"{FREE} AND sha256 <> ?", (row.key, kept)).rowcount:
                    self._rows.execute("UPDATE items SET uris_due = 1 WHERE key = ?", (row.key,))
                self._mark_due(row.original or row.key)
                if row.state is ItemState.DUPLICATE:
                    self._free_without_original(row.key)

    def original_of(self, sha256: str, key: str) -> LedgerRow | None:
        """The item that is stored with a content, other than `key`."""
        return next(self._select("sha256 = ? AND state = 'done' AND key <> ? LIMIT 1", (sha256, key)), None)

    def gone(self, source: int) -> Iterator[list[LedgerRow]]:
        """Items of a source that were not met in this run, some at a time; each may be removed before the next."""
        last = ""
        while rows := list(self._select(f"{GONE} AND key > ? ORDER BY key LIMIT ?", (source, self._run, last, CHUNK))):
            last = rows[-1].key
            yield rows

    def gone_of(self, source: int, name: str, began: float) -> MissingImages:
        """How many items of a source were not met in this run, which began at a time in seconds since 1970."""
        with self._named_errors():
            (count,) = self._rows.execute(f"SELECT count(*) FROM items WHERE {GONE}", (source, self._run)).fetchone()  # noqa: S608 - this module's own text
            (known,) = self._rows.execute(
                "SELECT count(*) FROM items WHERE source = ? AND first_time < ?", (source, began)
            ).fetchone()
        some = self._select(f"{GONE} ORDER BY key LIMIT ?", (source, self._run, SHOWN_GONE))
        return MissingImages(name, count, known, [row.id or row.uri for row in some])

    def ids_of_others(self, ids: Sequence[str], rows: Sequence[LedgerRow] = ()) -> set[str]:
        """Those of some ids that items have under which they are stored, or may be; beside these rows."""
        keys = {row.key for row in rows}
        marks = ",".join("?" * len(ids))
        same = self._select(f"id IN ({marks}) AND state IN ('done', 'failed')", ids)
        return {row.id for row in same if row.key not in keys}

    def left_ids(self) -> list[str]:
        """Some ids under which items were stored and are no more; none when all are removed."""
        with self._named_errors():
            found = self._rows.execute("SELECT id FROM left_ids LIMIT ?", (CHUNK,)).fetchall()
        return [image_id for (image_id,) in found]

    def left_ids_removed(self, ids: Sequence[str]) -> None:
        """These are no longer stored, or stored for another item."""
        with self.transaction():
            self._rows.executemany("DELETE FROM left_ids WHERE id = ?", [(image_id,) for image_id in ids])

    def remove(self, rows: Sequence[LedgerRow]) -> None:
        """Forgets items; their duplicates are freed."""
        with self.transaction():
            for row in rows:
                self._rows.execute("DELETE FROM items WHERE key = ?", (row.key,))
                self._rows.execute(FREE, (row.key,))
                self._rows.execute("UPDATE items SET uris_due = 1 WHERE key = ?", (row.original,))

    def has_freed(self, sources: Iterable[int]) -> bool:
        """Whether an item of these sources that was met in this run has to be loaded after all."""
        return any(
            next(self._select("state = 'freed' AND source = ? AND run = ? LIMIT 1", (source, self._run)), None)
            for source in sources
        )

    def uris_due(self) -> Iterator[tuple[LedgerRow, list[str]]]:
        """Stored items whose duplicates have changed, and the uris of these."""
        last = ""
        while rows := list(self._select("uris_due AND key > ? ORDER BY key LIMIT ?", (last, CHUNK))):
            last = rows[-1].key
            for row in rows:
                yield (
                    row,
                    [other.uri for other in self._select("original = ? AND original <> '' ORDER BY uri", (row.key,))],
                )

    def uris_told(self, row: LedgerRow) -> None:
        """The uris of an item's duplicates are stored with it."""
        with self.transaction():
            self._rows.execute("UPDATE items SET uris_due = 0 WHERE key = ?", (row.key,))

    def counts(self) -> dict[ItemState, int]:
        """How many items there are in each state."""
        with self._named_errors():
            found = self._rows.execute("SELECT state, count(*) FROM items GROUP BY state").fetchall()
        return {ItemState(state): count for state, count in found}

    def attempts(self, key: str) -> int:
        """How often an item was tried."""
        with self._named_errors():
            found = self._rows.execute("SELECT attempts FROM items WHERE key = ?", (key,)).fetchone()
        return int(found[0]) if found else 0

    def _note(self, keys: Iterable[str]) -> None:
        """Notes items as met in this run, outside of the file."""
        self._rows.execute("PRAGMA query_only = 0")
        self._rows.executemany("INSERT OR IGNORE INTO temp.met VALUES (?)", [(key,) for key in keys])
        self._rows.execute("PRAGMA query_only = 1")

    def _free_without_original(self, key: str) -> None:
        """What an item was found to be a duplicate of may have changed by the time that it is recorded."""
        self._rows.execute(
            "UPDATE items SET state = 'freed', original = '' WHERE key = ? AND NOT EXISTS "
            "(SELECT 1 FROM items AS other "
            "WHERE other.key = items.original AND other.state = 'done' AND other.sha256 = items.sha256)",
            (key,),
        )

    def _mark_due(self, key: str) -> None:
        self._rows.execute(
            "UPDATE items SET uris_due = 1 WHERE key = ? "
            "AND EXISTS (SELECT 1 FROM items WHERE original = ? AND original <> '')",
            (key, key),
        )

    def _select(self, condition: str, values: Sequence[Any]) -> Iterator[LedgerRow]:
        """The rows that fit; `condition` is this module's own text."""
        columns = "key, id, uri, size, stamp, sha256, about, state, reason, message, original, run, last_time, source"
        with self._named_errors():
            found = self._rows.execute(f"SELECT {columns} FROM items WHERE {condition}", values).fetchall()  # noqa: S608
        for key, image_id, uri, size, stamp, sha256, metadata_digest, state, *rest in found:
            yield LedgerRow(key, image_id, uri, size, stamp, sha256, metadata_digest, ItemState(state), *rest)

    def _fact(self, name: str) -> str:
        found = self._rows.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(found[0]) if found else ""

    def _other(self, name: str, found: str, wanted: str) -> str:
        if name == "create_time":
            again = f"made again at {wanted}" if wanted else "is to be made again"
            return (
                f"the collection was removed since the last load, and {again}: the ledger {self._path} is of the one "
                f"made at {found}. --restart forgets that one, and loads everything"
            )
        what = {"collection": "collection", "fingerprint": "embedder fingerprint"}
        return (
            f"{self._path} is the ledger of the {what[name]} {found}, and this is {wanted}; name another one "
            "by --ledger, or forget it by --restart, which loads everything again"
        )

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """What is done to the file in it is done wholly or not at all, whatever becomes of the process."""
        with self._named_errors(), self._changing:
            self._rows.execute("BEGIN")
            try:
                yield self._rows
            except BaseException:
                if self._rows.in_transaction:
                    self._rows.execute("ROLLBACK")
                raise
            self._rows.execute("COMMIT")

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeError) as error:
            text = str(error)
            if "locked" in text:
                raise LedgerError(f"{self._path} is in use by another process; one load at a time has it") from None
            if "not a database" in text:
                raise LedgerError(f"{self._path} is no ledger; name another file by --ledger") from None
            raise LedgerError(f"the ledger {self._path} cannot be used: {text}") from None


def metadata_digest(image_id: str, uri: str, attributes: Mapping[str, AttributeValue] | None) -> str:
    """Digest of what is stored with an image beside its content; 32 hexadecimal digits."""
    text = json.dumps([image_id, uri, attributes], sort_keys=True, default=list)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def row_of_item(item: Item, state: ItemState, reason: str = "", message: str = "") -> LedgerRow:
    """The row of an item whose content is not known."""
    return LedgerRow(
        key=item.key,
        id=item.id,
        uri=item.uri,
        size=item.size,
        stamp=item.stamp,
        sha256=item.content_sha256,
        about=metadata_digest(item.id, item.uri, item.attributes),
        state=state,
        reason=reason,
        message=message,
    )


def _values(row: LedgerRow) -> tuple[Any, ...]:
    key, image_id, uri, size, stamp, sha256, digest, state, reason, message, original, *_ = astuple(row)
    return key, image_id, uri, size, stamp, sha256, digest, state.value, reason, message, original
