"""Sidecars in an archive: members such as a.json beside a.jpg that hold the attributes of images, as in webdataset."""

import posixpath
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from imagesearch_client.types import AttributeValue
from imagesearch_ingest.sources.attribute_values import attributes_from, is_integer, json_object
from imagesearch_ingest.sources.local_files import printable

# Suffixes of members that hold attributes.
SIDECAR_SUFFIXES = frozenset({"json", "cls", "txt", "caption"})
MAX_SIDECAR_BYTES = 2**20
# Names that a remark shows.
SHOWN_NAMES = 5
SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE sidecars (
    base BLOB, suffix TEXT, member BLOB, content BLOB, position INTEGER, size INTEGER, error TEXT,
    is_used INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (base, suffix)
);
CREATE TABLE images (
    number INTEGER PRIMARY KEY, base BLOB UNIQUE, name BLOB, content BLOB, position INTEGER, size INTEGER, stamp TEXT
);
CREATE TABLE loaded (base BLOB PRIMARY KEY) WITHOUT ROWID;
BEGIN;
"""


def split_sidecar_name(member: str) -> tuple[str, str] | None:
    """Return the base and the lower-case suffix of a sidecar's name; None if the member is not a sidecar."""
    base, _, suffix = _normalized(member).rpartition(".")
    return (base, suffix.lower()) if posixpath.basename(base) and suffix.lower() in SIDECAR_SUFFIXES else None


def sidecar_bases(image: str) -> list[str]:
    """Return the bases of an image's sidecars, the most specific last: a, a.b and a.b.jpg for a.b.jpg."""
    name = _normalized(image)
    folder, own = posixpath.split(name)
    key = own.partition(".")[0]
    keys = [posixpath.join(folder, key)] if key else []
    return list(dict.fromkeys([*keys, posixpath.splitext(name)[0], name]))


def _normalized(member: str) -> str:
    return posixpath.normpath(member).lstrip("/")


@dataclass(frozen=True)
class MemberContent:
    """The content of a member, or its position in the archive, or why it cannot be used."""

    content: bytes | None = None
    position: int = 0
    size: int = 0
    error: str = ""


@dataclass
class Sidecars:
    """The sidecars and images of one archive, in a temporary database. Memory does not grow with their number."""

    names: Mapping[str, str]
    """Attribute names by field name, for fields to rename."""
    read: Callable[[int, int], bytes]
    """Read bytes of the archive: position and size."""
    has_any: bool = False
    """Whether the archive has a sidecar."""
    has_loaded: bool = False
    """Whether an image is loaded already."""
    # SQLite keeps a database without a name in a temporary file, with a small cache in memory.
    _rows: sqlite3.Connection = field(
        default_factory=lambda: sqlite3.connect("", check_same_thread=False, isolation_level=None)
    )

    def __post_init__(self) -> None:
        self._rows.executescript(SCHEMA)

    def close(self) -> None:
        """Remove the temporary file."""
        self._rows.close()

    def add(self, member: str, content: MemberContent) -> None:
        """Add a sidecar. If there is one of the same name with other content, neither can be used."""
        self.has_any = True
        base, suffix = split_sidecar_name(member) or (member, "")
        values = (_key(base), suffix, _key(member), content.content, content.position, content.size, content.error)
        added = self._rows.execute(
            "INSERT OR IGNORE INTO sidecars (base, suffix, member, content, position, size, error) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        if added.rowcount:
            return
        known = self._rows.execute(
            "SELECT content, position, size, error FROM sidecars WHERE base = ? AND suffix = ?", values[:2]
        ).fetchone()
        if self._bytes_of(MemberContent(*known)) != self._bytes_of(content):
            self._rows.execute(
                "UPDATE sidecars SET error = 'the archive has two of it with different content' "
                "WHERE base = ? AND suffix = ?",
                values[:2],
            )

    def is_late(self, member: str) -> bool:
        """Return whether an image of this sidecar has been loaded without it."""
        if not self.has_loaded:
            return False
        base, _ = split_sidecar_name(member) or (member, "")
        return self._rows.execute("SELECT 1 FROM loaded WHERE base = ?", (_key(base),)).fetchone() is not None

    def add_image(self, image: str, content: MemberContent, stamp: str) -> bool:
        """Add an image. Return False if it was added before; raise ValueError if that one has other content."""
        values = (_key(_normalized(image)), _key(image), content.content, content.position, content.size, stamp)
        added = self._rows.execute(
            "INSERT OR IGNORE INTO images (base, name, content, position, size, stamp) VALUES (?, ?, ?, ?, ?, ?)",
            values,
        )
        if added.rowcount:
            return True
        known = self._rows.execute("SELECT content, position, size FROM images WHERE base = ?", values[:1]).fetchone()
        if known[2] != content.size or self._bytes_of(MemberContent(*known)) != self._bytes_of(content):
            raise ValueError("the archive has two members of this name with different content; the first one is loaded")
        return False

    def images(self) -> Iterator[tuple[str, int, int, str]]:
        """Yield name, position, size and stamp of the images that can be read in place, in the archive's order."""
        found = self._rows.execute(
            "SELECT name, position, size, stamp FROM images WHERE content IS NULL ORDER BY number"
        )
        for name, position, size, stamp in found:
            yield name.decode(), position, size, stamp

    def mark_loaded(self, image: str) -> None:
        """Note that an image is loaded, so that later sidecars of it are late."""
        self.has_loaded = True
        rows = [(_key(base),) for base in sidecar_bases(image)]
        self._rows.executemany("INSERT OR IGNORE INTO loaded VALUES (?)", rows)

    def attributes_of(self, image: str) -> dict[str, AttributeValue] | None:
        """Return the attributes of an image; None if it has no sidecar. Raises ValueError."""
        if not self.has_any:
            return None
        bases = [_key(base) for base in sidecar_bases(image)]
        condition = f"base IN ({', '.join('?' * len(bases))})"
        found = self._rows.execute(
            f"SELECT base, suffix, content, position, size, error FROM sidecars WHERE {condition}",  # noqa: S608 - constants
            bases,
        ).fetchall()
        if not found:
            return None
        self._rows.execute(f"UPDATE sidecars SET is_used = 1 WHERE {condition}", bases)  # noqa: S608 - constants
        attributes: dict[str, AttributeValue] = {}
        for _, suffix, *content in sorted(found, key=lambda row: (bases.index(row[0]), row[1] != "json", row[1])):
            try:
                attributes |= self._attributes_from(suffix, MemberContent(*content))
            except ValueError as error:
                raise ValueError(f"the .{suffix} beside the image: {error}") from None
        return attributes

    def remark(self) -> str:
        """Return a remark about sidecars without an image; an empty string if there are none."""
        (count,) = self._rows.execute("SELECT count(*) FROM sidecars WHERE NOT is_used").fetchone()
        if not count:
            return ""
        rows = self._rows.execute(
            "SELECT member FROM sidecars WHERE NOT is_used ORDER BY member LIMIT ?", (SHOWN_NAMES,)
        )
        names = ", ".join(repr(printable(member.decode(errors="surrogateescape"))) for (member,) in rows)
        members = "1 member with attributes belongs" if count == 1 else f"{count} members with attributes belong"
        return f"{members} to no image: {names}{', ...' * (count > SHOWN_NAMES)}"

    def _bytes_of(self, content: MemberContent) -> bytes:
        if content.error:
            return content.error.encode()
        return self.read(content.position, content.size) if content.content is None else content.content

    def _attributes_from(self, suffix: str, content: MemberContent) -> dict[str, AttributeValue]:
        if content.error:
            raise ValueError(content.error)
        found = self._bytes_of(content)
        if suffix == "json":
            return attributes_from(json_object(found), self.names)
        try:
            text = found.decode().strip()
        except UnicodeDecodeError:
            raise ValueError("it is not UTF-8") from None
        if not text:
            return {}
        return {suffix: int(text) if suffix == "cls" and is_integer(text) else text}


def _key(name: str) -> bytes:
    return name.encode(errors="surrogateescape")
