"""Read members of tar files by name, in any order and from many threads.

An archive is read from its beginning once. If a member can be read at its position in the file, only the position is
kept. Otherwise, as in compressed and remote archives, the member is copied to a temporary file.
"""

import errno
import os
import sqlite3
import tarfile
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from shutil import disk_usage
from typing import BinaryIO, Protocol

from imagesearch_ingest.sources.items import SourceError
from imagesearch_ingest.sources.local_files import file_state, printable
from imagesearch_ingest.sources.member_uris import read_from_archive
from imagesearch_ingest.sources.remote_files import file_system_error
from imagesearch_ingest.sources.source_file import SourceFile
from imagesearch_ingest.sources.source_options import MAX_BYTES
from imagesearch_ingest.sources.tar_files import (
    ERRORS,
    error_text,
    is_damage,
    open_tar,
    raise_too_large,
    read_at,
    read_member,
)

# Rows in one transaction.
CHUNK_ROWS = 1000
# Maximum number of open temporary files.
MAX_COPIES = 64
SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE members (
    archive INTEGER,
    name BLOB,
    copied INTEGER NOT NULL,
    position INTEGER NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY (archive, name)
) WITHOUT ROWID;
"""
# The position of a member that is too large for the temporary file.
TOO_LARGE = -1


@dataclass(eq=False)
class _Indexed:
    """An archive whose members are known."""

    source_file: SourceFile
    number: int
    state: tuple[int | None, str]
    """Size and stamp of a local file. They show whether the file was changed since."""
    users: int = 0
    """Threads that are about to read from the archive. Its copy is not removed meanwhile."""
    copy: BinaryIO | None = None
    copied: int = 0
    """Bytes of the temporary file."""
    damage: str = ""
    is_dropped: bool = False


@dataclass(eq=False)
class _Slot:
    """Holds one archive's index. Its lock is held while the index is built."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    indexed: _Indexed | None = None


class OpenArchive(Protocol):
    """An open archive."""

    def members(self) -> Iterator[tarfile.TarInfo]:
        """Yield the members one by one."""

    def is_in_place(self, member: tarfile.TarInfo) -> bool:
        """Return whether the content can be read at its position in the file."""

    def content(self, member: tarfile.TarInfo) -> bytes:
        """Return the content of the member that was yielded last."""


class ArchiveReader:
    """Reads members of any number of archives. Thread-safe. Memory does not grow with the number of members."""

    def __init__(self, max_bytes: int = MAX_BYTES, copied_bytes: int | None = None) -> None:
        """Set the limits of the temporary files.

        Args:
            max_bytes: the largest member that is copied.
            copied_bytes: the limit for all temporary files together. The least recently used ones are removed first,
                and built again when they are needed. A single file may be larger. None is half of the free disk space.
        """
        self._max_bytes = max_bytes
        self._copied_bytes = disk_usage(tempfile.gettempdir()).free // 2 if copied_bytes is None else copied_bytes
        # Protects the database and the users of the copies. Never held for long.
        self._lock = threading.Lock()
        # SQLite keeps a database without a name in a temporary file, with a small cache in memory.
        self._rows = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._rows.executescript(SCHEMA)
        self._slots: dict[str, _Slot] = {}
        # By number, the most recently used one at the end.
        self._copies: OrderedDict[int, _Indexed] = OrderedDict()
        self._numbers = 0
        self._close = weakref.finalize(self, _close, self._rows, self._copies)

    def close(self) -> None:
        """Remove the temporary files. Nothing can be read afterwards."""
        self._close()

    def read(self, uri: str, limit: int) -> bytes:
        """Return the beginning of the member that a uri names, at most `limit` bytes. Raises OSError."""
        return read_from_archive(uri, self._read, limit)

    def _read(self, source_file: SourceFile, member: str, limit: int) -> bytes:
        indexed, found, descriptor = self._find(source_file, member)
        try:
            if found is None:
                raise FileNotFoundError(
                    errno.ENOENT, f"{source_file.file_name} has no such member{indexed.damage}", member
                )
            position, size = found
            if position == TOO_LARGE:
                return raise_too_large(member, limit)
            if descriptor is None:
                return read_member(source_file.name, position, size, limit)
            return read_at(descriptor, source_file.name, position, min(size, limit))
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _find(self, source_file: SourceFile, member: str) -> tuple[_Indexed, tuple[int, int] | None, int | None]:
        """Return the archive's index, the member's position and size, and the open copy if the member is in it."""
        while True:
            indexed = self._indexed(source_file)
            with self._lock:
                indexed.users -= 1
                # The archive was changed meanwhile, and another thread has dropped this index.
                if indexed.is_dropped:
                    continue
                found = self._rows.execute(
                    "SELECT copied, position, size FROM members WHERE archive = ? AND name = ?",
                    (indexed.number, _key(member)),
                ).fetchone()
                if found is None:
                    return indexed, None, None
                is_copied, position, size = found
                # The duplicated descriptor stays valid, even if the copy is removed.
                copy = indexed.copy if is_copied else None
                return indexed, (position, size), None if copy is None else os.dup(copy.fileno())

    def _indexed(self, source_file: SourceFile) -> _Indexed:
        """Return the index of an archive, which is built if there is no current one. It counts one user more."""
        with self._lock:
            slot = self._slots.setdefault(source_file.name, _Slot())
        state = (None, "") if source_file.is_remote else file_state(source_file.name)
        with slot.lock:
            with self._lock:
                known = slot.indexed
                if known is not None and not known.is_dropped and known.state == state:
                    known.users += 1
                    if known.number in self._copies:
                        self._copies.move_to_end(known.number)
                    return known
                if known is not None:
                    self._drop(known)
                self._numbers += 1
                indexed = _Indexed(source_file, self._numbers, state, users=1)
            self._index(indexed)
            slot.indexed = indexed
            return indexed

    def _index(self, indexed: _Indexed) -> None:
        try:
            with self._opened(indexed.source_file) as archive:
                self._index_members(indexed, archive)
        except SourceError as error:
            raise file_system_error(error, indexed.source_file.name) from error
        except ERRORS as error:
            if not is_damage(error):
                with self._lock:
                    self._drop(indexed)
                raise
            # The members before the damage can be read, as in a load of the archive.
            indexed.damage = f" before its damage: {printable(error_text(error))}"

    def _opened(self, source_file: SourceFile) -> AbstractContextManager[OpenArchive]:
        return open_tar(source_file)

    def _index_members(self, indexed: _Indexed, archive: OpenArchive) -> None:
        found: list[tuple[int, bytes, bool, int, int]] = []
        try:
            for member in archive.members():
                if not member.isreg():
                    continue
                copied, position = self._place(indexed, archive, member)
                found.append((indexed.number, _key(member.name), copied, position, member.size))
                if len(found) == CHUNK_ROWS:
                    self._insert(found)
        finally:
            self._insert(found)
            if indexed.copy is not None:
                indexed.copy.flush()

    def _place(self, indexed: _Indexed, archive: OpenArchive, member: tarfile.TarInfo) -> tuple[bool, int]:
        """Return whether a member is in the temporary file, and its position there or in the archive."""
        if archive.is_in_place(member):
            return False, member.offset_data
        if member.size > self._max_bytes:
            return False, TOO_LARGE
        content = archive.content(member)
        if indexed.copy is None:
            # The file has no name, so the system removes it when the process ends.
            indexed.copy = tempfile.TemporaryFile()  # noqa: SIM115 - it stays open
        position = indexed.copied
        indexed.copy.write(content)
        with self._lock:
            indexed.copied += len(content)
            self._copies[indexed.number] = indexed
            self._make_room()
        return True, position

    def _make_room(self) -> None:
        held = sum(each.copied for each in self._copies.values())
        for each in [each for each in self._copies.values() if not each.users]:
            if held <= self._copied_bytes and len(self._copies) <= MAX_COPIES:
                return
            held -= each.copied
            self._drop(each)

    def _drop(self, indexed: _Indexed) -> None:
        indexed.is_dropped = True
        self._copies.pop(indexed.number, None)
        self._rows.execute("DELETE FROM members WHERE archive = ?", (indexed.number,))
        if indexed.copy is not None:
            indexed.copy.close()

    def _insert(self, found: list[tuple[int, bytes, bool, int, int]]) -> None:
        with self._lock:
            self._rows.execute("BEGIN")
            # A load uses the first of two members with the same name.
            self._rows.executemany("INSERT OR IGNORE INTO members VALUES (?, ?, ?, ?, ?)", found)
            self._rows.execute("COMMIT")
        found.clear()


def _key(member: str) -> bytes:
    return member.encode(errors="surrogateescape")


def _close(rows: sqlite3.Connection, copies: OrderedDict[int, _Indexed]) -> None:
    rows.close()
    for indexed in copies.values():
        if indexed.copy is not None:
            indexed.copy.close()
