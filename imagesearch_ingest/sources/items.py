"""The entries that a source lists: items, faults and skipped files."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeAlias

from imagesearch_client.types import AttributeValue, Embedding, Region, RegionEmbedding

ReadFile: TypeAlias = Callable[[int], bytes]
"""Read a file from its beginning, at most this many bytes. Safe to call from any thread. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source, before it is read."""

    id: str
    """The image's id; empty if the SHA-256 of the content becomes the id."""
    uri: str
    """An absolute path, or a URL that fsspec can open."""
    content: ReadFile | Embedding
    """A function that reads the file, or the vector that was computed from it earlier."""
    attributes: Mapping[str, AttributeValue] | None = None
    """All attributes of the image; None if the source has no attributes, so that stored ones are kept."""
    size: int | None = None
    """Bytes of the file; None if the source would have to read the file to know."""
    stamp: str = ""
    """Changes when the file changes, such as the modification time; empty if the source has none."""
    held: int = 0
    """Bytes of the file that the item keeps in memory, because the file can be read only once."""
    content_sha256: str = ""
    """SHA-256 of the file from which a ready vector was computed; empty if unknown."""
    region: Region | None = None
    """The part of the file from which a ready vector was computed; None is the whole image."""
    regions: tuple[RegionEmbedding, ...] = ()
    """The regions of a ready vector."""

    @property
    def key(self) -> str:
        """Return the key that identifies the item across runs."""
        return self.id or self.uri


@dataclass(frozen=True, slots=True)
class Fault:
    """A part of a source that cannot be listed as an item, such as an invalid row or an unreadable folder."""

    where: str
    """The place of the fault, such as a path, or "products.csv, row 12"."""
    reason: str
    message: str
    may_hide_items: bool = True
    """Whether items may be missing from the listing because of this fault. Pruning then removes nothing."""


class SkipReason(Enum):
    """Why a source skips a file."""

    UNSUPPORTED = "unsupported"
    """The file looks like an image, but its format is not supported."""
    SYSTEM_FILE = "system file"
    """A system or a program made the file beside the images, such as a thumbnail."""
    NOT_AN_IMAGE = "not an image"
    REPEATED = "repeated"
    """The source has listed the same image before, with the same content."""


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that a source skips."""

    where: str
    """The path or URL of the file."""
    reason: SkipReason
    suffix: str = ""
    """Lower-case suffix of an unsupported file; empty if it has none."""
    message: str = ""
    """Why the file is unsupported, for people."""
    key: str = ""
    """The key that the file would have as an item. An image stored from it earlier is not pruned."""


SourceEntry: TypeAlias = Item | Fault | SkippedFile
"""One entry of a source's listing."""


class Source(Protocol):
    """A collection of images. Iterating lists all entries one by one, and can be repeated."""

    name: str
    """The name in the ledger: an absolute path or a URL."""

    def __iter__(self) -> Iterator[SourceEntry]:
        """Yield items, faults and skipped files. Reads as little as possible, and keeps nothing in memory."""

    def count(self) -> int | None:
        """Return the approximate number of items; None if counting takes as long as reading them all."""


class SourceError(Exception):
    """A source that cannot be used at all. The message says what is wrong and what to do."""
