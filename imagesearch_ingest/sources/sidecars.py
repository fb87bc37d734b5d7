"""What an archive says of its images: members such as a.json beside a.jpg, as webdataset has them, in any order."""

import posixpath
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from imagesearch_client.types import AttributeValue
from imagesearch_ingest.sources.attribute_values import attributes_from, is_integer, json_object
from imagesearch_ingest.sources.local_files import printable

# The last part of the name of a member that gives images their attributes.
SIDECAR_SUFFIXES = frozenset({"json", "cls", "txt", "caption"})
MAX_SIDECAR_BYTES = 2**20
# Names that a remark shows.
SHOWN_NAMES = 5
SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE facts (
    base BLOB, extension TEXT, member BLOB, content BLOB, position INTEGER, size INTEGER, error TEXT,
    is_used INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (base, extension)
);
CREATE TABLE images (
    number INTEGER PRIMARY KEY, base BLOB UNIQUE, name BLOB, content BLOB, position INTEGER, size INTEGER, stamp TEXT
);
CREATE TABLE gone (base BLOB PRIMARY KEY) WITHOUT ROWID;
BEGIN;
"""


def sidecar_of(member: str) -> tuple[str, str] | None:
    """What a member's name says that it is about, and its kind in small letters; None if it gives no attributes."""
    base, _, extension = _normal(member).rpartition(".")
    return (base, extension.lower()) if posixpath.basename(base) and extension.lower() in SIDECAR_SUFFIXES else None


def sidecar_bases(image: str) -> list[str]:
    """What the facts of an image may be named by: a, a.b and a.b.jpg for a.b.jpg; the one that says most comes last."""
    name = _normal(image)
    folder, own = posixpath.split(name)
    key = own.partition(".")[0]
    keys = [posixpath.join(folder, key)] if key else []
    return list(dict.fromkeys([*keys, posixpath.splitext(name)[0], name]))


def _normal(member: str) -> str:
    return posixpath.normpath(member).lstrip("/")


@dataclass(frozen=True)
class Sidecar:
    """What one member says of images: its content, or where that begins in the archive, or what is wrong with it."""

    content: bytes | None = None
    position: int = 0
    size: int = 0
    error: str = ""


@dataclass
class Sidecars:
    """What the members of one archive say of its images. Memory does not grow with their number."""

    names: Mapping[str, str]
    """The attributes that JSON fields become where these have other names."""
    read: Callable[[int, int], bytes]
    """Reads so many bytes of the archive from a position on."""
    has_any: bool = False
    """Whether any member says something."""
    has_gone: bool = False
    """Whether any image is loaded already."""
    # A database without a name is a temporary file, of which a little is in memory.
    _rows: sqlite3.Connection = field(
        default_factory=lambda: sqlite3.connect("", check_same_thread=False, isolation_level=None)
    )

    def __post_init__(self) -> None:
        self._rows.executescript(SCHEMA)

    def close(self) -> None:
        """Removes the temporary file."""
        self._rows.close()

    def add(self, member: str, fact: Sidecar) -> None:
        """Keeps what a member says; of two members of one name both should say the same."""
        self.has_any = True
        base, extension = sidecar_of(member) or (member, "")
        values = (_key(base), extension, _key(member), fact.content, fact.position, fact.size, fact.error)
        added = self._rows.execute(
            "INSERT OR IGNORE INTO facts (base, extension, member, content, position, size, error) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        if added.rowcount:
            return
        known = self._rows.execute(
            "SELECT content, position, size, error FROM facts WHERE base = ? AND extension = ?", values[:2]
        ).fetchone()
        if self._content(Sidecar(*known)) != self._content(fact):
            self._rows.execute(
                "UPDATE facts SET error = 'the archive has two of it, which differ' WHERE base = ? AND extension = ?",
                values[:2],
            )

    def is_late(self, member: str) -> bool:
        """Whether an image that the member says something of has been loaded without it."""
        if not self.has_gone:
            return False
        base, _ = sidecar_of(member) or (member, "")
        return self._rows.execute("SELECT 1 FROM gone WHERE base = ?", (_key(base),)).fetchone() is not None

    def note_image(self, image: str, fact: Sidecar, stamp: str) -> bool:
        """Notes an image; False if it was met before. Raises ValueError if one of its name has other content."""
        values = (_key(_normal(image)), _key(image), fact.content, fact.position, fact.size, stamp)
        added = self._rows.execute(
            "INSERT OR IGNORE INTO images (base, name, content, position, size, stamp) VALUES (?, ?, ?, ?, ?, ?)",
            values,
        )
        if added.rowcount:
            return True
        known = self._rows.execute("SELECT content, position, size FROM images WHERE base = ?", values[:1]).fetchone()
        if known[2] != fact.size or self._content(Sidecar(*known)) != self._content(fact):
            raise ValueError("the archive has two members of this name, which differ; the first one is taken")
        return False

    def images(self) -> Iterator[tuple[str, int, int, str]]:
        """The images that can be read where they lie: name, position, size and stamp, in the order of the archive."""
        found = self._rows.execute(
            "SELECT name, position, size, stamp FROM images WHERE content IS NULL ORDER BY number"
        )
        for name, position, size, stamp in found:
            yield name.decode(), position, size, stamp

    def leave(self, image: str) -> None:
        """Notes that an image is loaded, so that facts which come later are too late."""
        self.has_gone = True
        rows = [(_key(base),) for base in sidecar_bases(image)]
        self._rows.executemany("INSERT OR IGNORE INTO gone VALUES (?)", rows)

    def attributes_of(self, image: str) -> dict[str, AttributeValue] | None:
        """What is said of an image; None if nothing is. Raises ValueError."""
        if not self.has_any:
            return None
        bases = [_key(base) for base in sidecar_bases(image)]
        condition = f"base IN ({', '.join('?' * len(bases))})"
        found = self._rows.execute(
            f"SELECT base, extension, content, position, size, error FROM facts WHERE {condition}",  # noqa: S608 - our own
            bases,
        ).fetchall()
        if not found:
            return None
        self._rows.execute(f"UPDATE facts SET is_used = 1 WHERE {condition}", bases)  # noqa: S608 - our own
        attributes: dict[str, AttributeValue] = {}
        for _, extension, *fact in sorted(found, key=lambda row: (bases.index(row[0]), row[1] != "json", row[1])):
            try:
                attributes |= self._of_sibling(extension, Sidecar(*fact))
            except ValueError as error:
                raise ValueError(f"the .{extension} beside the image: {error}") from None
        return attributes

    def remark(self) -> str:
        """Which members belong to no image; empty if all do."""
        (count,) = self._rows.execute("SELECT count(*) FROM facts WHERE NOT is_used").fetchone()
        if not count:
            return ""
        rows = self._rows.execute("SELECT member FROM facts WHERE NOT is_used ORDER BY member LIMIT ?", (SHOWN_NAMES,))
        names = ", ".join(repr(printable(member.decode(errors="surrogateescape"))) for (member,) in rows)
        members = "1 member belongs" if count == 1 else f"{count} members belong"
        return f"{members} to no image, with names like those of attributes: {names}{', ...' * (count > SHOWN_NAMES)}"

    def _content(self, fact: Sidecar) -> bytes:
        if fact.error:
            return fact.error.encode()
        return self.read(fact.position, fact.size) if fact.content is None else fact.content

    def _of_sibling(self, extension: str, fact: Sidecar) -> dict[str, AttributeValue]:
        if fact.error:
            raise ValueError(fact.error)
        content = self._content(fact)
        if extension == "json":
            return attributes_from(json_object(content), self.names)
        try:
            text = content.decode().strip()
        except UnicodeDecodeError:
            raise ValueError("it is not UTF-8") from None
        if not text:
            return {}
        return {extension: int(text) if extension == "cls" and is_integer(text) else text}


def _key(name: str) -> bytes:
    return name.encode(errors="surrogateescape")
