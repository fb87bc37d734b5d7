"""What sources give: items, and what is wrong with some of them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeAlias

from imagesearch_client.types import AttributeValue, Embedding, Region

ReadFile: TypeAlias = Callable[[int], bytes]
"""Reads a file from its beginning, at most so many bytes; it may be called in any thread. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source, before it is read."""

    id: str
    """Its id; empty where the SHA-256 of its content is to be its id."""
    uri: str
    """Where it is from: an absolute path, or a URL that fsspec can open."""
    content: ReadFile | Embedding
    """Its file, or the vector that was made of it before."""
    attributes: Mapping[str, AttributeValue] | None = None
    """Its attributes, all of them; None where the source knows of none, so that those that are stored stay."""
    size: int | None = None
    """Bytes of its file; None where the source cannot tell without reading it."""
    stamp: str = ""
    """Another one when the file has changed, such as its time of change; empty where the source cannot tell."""
    held: int = 0
    """Bytes that the item keeps in memory: of a file that could only be read in passing."""
    content_sha256: str = ""
    """Of the file that a ready vector was made of, where it is known."""
    region: Region | None = None
    """The part of the file that a ready vector was made of; None is the whole."""

    @property
    def key(self) -> str:
        """What it is known by from one run to the next."""
        return self.id or self.uri


@dataclass(frozen=True, slots=True)
class Fault:
    """What a source holds that is no item: a row that cannot be understood, a folder that cannot be listed."""

    where: str
    """Such as a path, or "products.csv, row 12"."""
    reason: str
    message: str
    hides: bool = True
    """Whether items may be hidden behind it, so that those not seen are not known to be gone."""


class SkipReason(Enum):
    """Why a file of a source is no item."""

    NOT_TAKEN = "not taken"
    """It looks like an image, and is of a format that is not taken."""
    LEFT_OUT = "left out"
    """A system or a program made it beside the images, such as a thumbnail."""
    OTHER = "other"
    """It does not look like an image."""
    REPEATED = "repeated"
    """It is an image that the source has listed before, the same in everything."""


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file of a source that is no item, and no fault of the source."""

    where: str
    """Its path or URL."""
    why: SkipReason
    suffix: str = ""
    """Of a file that is not taken: its suffix in small letters, or empty."""
    message: str = ""
    """Of a file that is not taken: the reason, for people."""
    key: str = ""
    """The key of the item that the file would be: an image that was stored from it before is not gone."""


SourceEntry: TypeAlias = Item | Fault | SkippedFile
"""What a source lists."""


class Source(Protocol):
    """Where items come from. Iterating gives them all, one by one and without keeping them; it can be done again."""

    name: str
    """What the ledger knows it by: an absolute path or a URL."""

    def __iter__(self) -> Iterator[SourceEntry]:
        """Its items, what is wrong with some, and files that are none. Reads as little as it can."""

    def count(self) -> int | None:
        """About how many items there are; None where that takes as long as reading them all."""


class SourceError(Exception):
    """A source that cannot be used at all; says what is wrong and what would be right."""
