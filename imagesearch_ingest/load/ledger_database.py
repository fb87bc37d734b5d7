"""The database of a ledger: its file, its transactions, and the collection that it belongs to."""

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from imagesearch_ingest.load.ledger_rows import CollectionIdentity

VERSION = "1"
# The prefix of facts that hold the aliases by which loads named the collection.
ALIAS = "alias:"
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


class LedgerError(Exception):
    """A ledger that cannot be used. The message says what is wrong and what to do."""


class LedgerDatabase:
    """A file of SQLite for one collection. Only one process at a time can open it.

    Committed transactions survive a kill of the process. A power cut may lose the last ones. Their items are loaded
    again. One thread at a time may use it. Every method raises LedgerError.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        """Open the file, or create it. `path` None keeps the ledger in memory."""
        self._path = path
        self._read_only = read_only
        # `bind` runs in another thread than `record` when a load creates its collection.
        self._changing = threading.RLock()
        with self._named_errors():
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._rows = sqlite3.connect(path or ":memory:", timeout=1, check_same_thread=False, isolation_level=None)
            # SQLite holds the lock until the file is closed or the process ends.
            self._rows.execute("PRAGMA locking_mode = EXCLUSIVE")
            tables = {name for (name,) in self._rows.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables and "facts" not in tables:
                self._rows.close()
                raise LedgerError(f"{path} is another program's database; name another file by --ledger")
            self._rows.execute("PRAGMA journal_mode = WAL")
            self._rows.execute("PRAGMA synchronous = NORMAL")
            self._rows.executescript(SCHEMA)
            if self._fact("version") not in ("", VERSION):
                raise LedgerError(f"{path} is from another version of this program; name a new file by --ledger")
            self._rows.execute(f"PRAGMA query_only = {int(read_only)}")

    def __enter__(self) -> Self:
        """Return the ledger itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file, so that another process can open it."""
        self._rows.close()

    def bind(self, identity: CollectionIdentity, *, restart: bool = False) -> None:
        """Bind the ledger to a collection, or check that it is bound to this one. `restart` first removes all items.

        A ledger that is bound to a collection that was never created has no stored items. It can be bound again.
        """
        with self.transaction():
            bound = (self._fact("collection"), self._fact("fingerprint"))
            if not self._fact("create_time") and bound != (identity.collection, identity.fingerprint):
                restart = True
            if restart:
                self._rows.execute("DELETE FROM items")
                self._rows.execute("DELETE FROM left_ids")
                self._rows.execute("DELETE FROM facts")
            self.check_collection(identity)
            facts = {"collection": identity.collection, "fingerprint": identity.fingerprint}
            facts |= {"create_time": identity.create_time} if identity.create_time else {}
            facts |= {"version": VERSION, "run": "0"}
            self._rows.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?)", facts.items())

    @property
    def collection(self) -> CollectionIdentity | None:
        """The collection to which the ledger is bound; None for a new ledger."""
        with self._named_errors():
            if not (collection := self._fact("collection")):
                return None
            return CollectionIdentity(collection, self._fact("create_time"), self._fact("fingerprint"))

    def check_collection(self, identity: CollectionIdentity) -> None:
        """Raise LedgerError if the ledger is bound to another collection."""
        if not self._fact("create_time"):
            return
        for name in ("collection", "fingerprint", "create_time"):
            value: str = getattr(identity, name)
            if (found := self._fact(name) or value) != value:
                raise LedgerError(self._mismatch(name, found, value))

    @property
    def aliases(self) -> set[str]:
        """The aliases by which loads with this ledger named its collection."""
        with self._named_errors():
            found = self._rows.execute("SELECT name FROM facts WHERE name GLOB ?", (f"{ALIAS}*",)).fetchall()
        return {name.removeprefix(ALIAS) for (name,) in found}

    def add_aliases(self, names: Iterable[str]) -> None:
        """Record aliases by which loads name the collection."""
        with self.transaction():
            self._rows.executemany(
                "INSERT OR IGNORE INTO facts VALUES (?, '')", [(f"{ALIAS}{name}",) for name in names]
            )

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Apply all changes inside the block to the file, or none of them, even if the process is killed."""
        with self._named_errors(), self._changing:
            self._rows.execute("BEGIN")
            try:
                yield self._rows
            except BaseException:
                if self._rows.in_transaction:
                    self._rows.execute("ROLLBACK")
                raise
            self._rows.execute("COMMIT")

    def _fact(self, name: str) -> str:
        found = self._rows.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(found[0]) if found else ""

    def _mismatch(self, name: str, found: str, wanted: str) -> str:
        if name == "create_time":
            again = f"was created again at {wanted}" if wanted else "does not exist now"
            return (
                f"the ledger {self._path} belongs to a collection that was created at {found} and removed since; the "
                f"collection of that name {again}. --restart forgets the ledger's items and loads everything"
            )
        what = {"collection": "collection", "fingerprint": "embedder fingerprint"}
        return (
            f"{self._path} is the ledger of the {what[name]} {found}, but this one is {wanted}; name another ledger "
            "by --ledger, or forget its items by --restart, which loads everything again"
        )

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeError) as error:
            text = str(error)
            if "locked" in text:
                message = f"{self._path} is in use by another process; wait until its load has finished"
            elif "not a database" in text:
                message = f"{self._path} is not a ledger; name another file by --ledger"
            else:
                message = f"the ledger {self._path} cannot be used: {text}"
            raise LedgerError(message) from None
