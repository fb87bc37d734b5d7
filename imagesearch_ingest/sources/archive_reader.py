"""Reads members of tar files by name, in any order and from many threads.

An archive is read from its beginning once. What can be read where it lies is only noted; what can be read in passing
only, as of compressed and of remote archives, is kept in a temporary file.
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

# Members that are noted at a time.
TOGETHER = 1000
# Temporary files that are open at a time.
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
# The position of a member that was too large to be copied.
LEFT_OUT = -1


@dataclass(eq=False)
class _Indexed:
    """An archive whose members are known."""

    location: SourceFile
    number: int
    state: tuple[int | None, str]
    """Tells that a file of this machine was changed since."""
    users: int = 0
    """Threads that need it now, so that it stays."""
    copy: BinaryIO | None = None
    copied: int = 0
    """Bytes of the copy."""
    damage: str = ""
    is_dropped: bool = False


@dataclass(eq=False)
class _Slot:
    """Where one archive's index is or will be; its lock is held while it is made."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    indexed: _Indexed | None = None


class OpenArchive(Protocol):
    """An archive that is open."""

    def members(self) -> Iterator[tarfile.TarInfo]:
        """Its members, one by one."""

    def is_in_place(self, member: tarfile.TarInfo) -> bool:
        """Whether the file holds the member's content as it is."""

    def content(self, member: tarfile.TarInfo) -> bytes:
        """The content of the member that was met last."""


class ArchiveReader:
    """Members of any number of archives. For several threads; memory does not grow with the members."""

    def __init__(self, max_bytes: int = MAX_BYTES, copied_bytes: int | None = None) -> None:
        """Knows no archive yet.

        Args:
            max_bytes: larger members are not copied where an archive can only be read in passing.
            copied_bytes: of all temporary files together, beyond which the one that was not used for longest is
                removed, and made again where it is needed; one archive's may be larger. None is half of what is free
                where temporary files are.
        """
        self._max_bytes = max_bytes
        self._copied_bytes = disk_usage(tempfile.gettempdir()).free // 2 if copied_bytes is None else copied_bytes
        # Held for moments only: of the database, and of who uses which copy.
        self._lock = threading.Lock()
        # A database without a name is a temporary file, of which a little is in memory.
        self._rows = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._rows.executescript(SCHEMA)
        self._slots: dict[str, _Slot] = {}
        # By number, the one that was used last at the end.
        self._copies: OrderedDict[int, _Indexed] = OrderedDict()
        self._numbers = 0
        self._close = weakref.finalize(self, _close, self._rows, self._copies)

    def close(self) -> None:
        """Removes the temporary files. Nothing can be read afterwards."""
        self._close()

    def read(self, uri: str, limit: int) -> bytes:
        """The content of the member that a uri names, at most so many bytes. Raises OSError."""
        return read_from_archive(uri, self._read, limit)

    def _read(self, location: SourceFile, member: str, limit: int) -> bytes:
        indexed, found, descriptor = self._find(location, member)
        try:
            if found is None:
                raise FileNotFoundError(
                    errno.ENOENT, f"{location.file_name} has no such member{indexed.damage}", member
                )
            position, size = found
            if position == LEFT_OUT:
                return raise_too_large(member, limit)
            if descriptor is None:
                return read_member(location.name, position, size, limit)
            return read_at(descriptor, location.name, position, min(size, limit))
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _find(self, location: SourceFile, member: str) -> tuple[_Indexed, tuple[int, int] | None, int | None]:
        """The archive's index, the member's position and size, and the open copy that it is in, if it is in one."""
        while True:
            indexed = self._indexed(location)
            with self._lock:
                indexed.users -= 1
                # The archive may have been changed meanwhile, and another thread may know that already.
                if indexed.is_dropped:
                    continue
                found = self._rows.execute(
                    "SELECT copied, position, size FROM members WHERE archive = ? AND name = ?",
                    (indexed.number, _key(member)),
                ).fetchone()
                if found is None:
                    return indexed, None, None
                is_copied, position, size = found
                # The file stays there until this one is closed, whatever becomes of the copy.
                copy = indexed.copy if is_copied else None
                return indexed, (position, size), None if copy is None else os.dup(copy.fileno())

    def _indexed(self, location: SourceFile) -> _Indexed:
        """The index of an archive, which is made where there is none of it as it is now; it counts one user more."""
        with self._lock:
            slot = self._slots.setdefault(location.name, _Slot())
        state = (None, "") if location.is_remote else file_state(location.name)
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
                indexed = _Indexed(location, self._numbers, state, users=1)
            self._index(indexed)
            slot.indexed = indexed
            return indexed

    def _index(self, indexed: _Indexed) -> None:
        try:
            with self._opened(indexed.location) as archive:
                self._note_members(indexed, archive)
        except SourceError as error:
            raise file_system_error(error, indexed.location.name) from error
        except ERRORS as error:
            if not is_damage(error):
                with self._lock:
                    self._drop(indexed)
                raise
            # What is before the damage can be read, as it can where the archive is loaded.
            indexed.damage = f" before its damage: {printable(error_text(error))}"

    def _opened(self, location: SourceFile) -> AbstractContextManager[OpenArchive]:
        return open_tar(location)

    def _note_members(self, indexed: _Indexed, archive: OpenArchive) -> None:
        found: list[tuple[int, bytes, bool, int, int]] = []
        try:
            for member in archive.members():
                if not member.isreg():
                    continue
                copied, position = self._place(indexed, archive, member)
                found.append((indexed.number, _key(member.name), copied, position, member.size))
                if len(found) == TOGETHER:
                    self._note(found)
        finally:
            self._note(found)
            if indexed.copy is not None:
                indexed.copy.flush()

    def _place(self, indexed: _Indexed, archive: OpenArchive, member: tarfile.TarInfo) -> tuple[bool, int]:
        """Whether a member is in the archive's copy, and where it begins there or in the archive."""
        if archive.is_in_place(member):
            return False, member.offset_data
        if member.size > self._max_bytes:
            return False, LEFT_OUT
        content = archive.content(member)
        if indexed.copy is None:
            # Nothing is left of it when the process ends, however it ends.
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

    def _note(self, found: list[tuple[int, bytes, bool, int, int]]) -> None:
        with self._lock:
            self._rows.execute("BEGIN")
            # Of two members of one name a load takes the first.
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
