"""Stored images by the column, as files of vectors hold them, and what must be known of all before they are written."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import datetime
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from imagesearch_client.types import AttributeValue, Image, Region

Vectors: TypeAlias = NDArray[np.float32]
Attributes: TypeAlias = Mapping[str, AttributeValue]

FORMAT_VERSION = "1"
# Names of attributes that get a column of their own. Beyond them all go into one: with other names for every image a
# file would have millions of columns.
MAX_COLUMNS = 1000
# What an attribute is whose values are not all of one type.
MIXED = "mixed"


class RowError(Exception):
    """A row that a format cannot hold; says which one, and which format can."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Some stored images: every column has as many values."""

    ids: Sequence[str]
    uris: Sequence[str]
    content_sha256: Sequence[str]
    vectors: Vectors
    """float32[rows, dimension], or float32[rows, 0] where they are not asked for."""
    regions: Sequence[Region | None]
    create_times: Sequence[datetime]
    update_times: Sequence[datetime]
    attributes: Sequence[Attributes]

    def __len__(self) -> int:
        return len(self.ids)

    def text_size(self) -> int:
        """About how many characters its texts and attributes have."""
        return sum(sum(map(len, column(self))) for column in TEXTS.values())

    @classmethod
    def of(cls, images: Sequence[Image], dimension: int) -> Self:
        """Of images with their vectors. Raises ValueError where one has none, or one of another length."""
        vectors = np.empty((len(images), dimension), np.float32)
        for row, image in enumerate(images):
            if image.embedding is None or len(image.embedding.values) != dimension:
                raise ValueError(f"{image.id!r:.80} has no vector of {dimension} numbers")
            vectors[row] = image.embedding.values
        return cls(
            [image.id for image in images],
            [image.uri for image in images],
            [image.content_sha256 for image in images],
            vectors,
            [image.region for image in images],
            [image.create_time for image in images],
            [image.update_time for image in images],
            [image.attributes for image in images],
        )

    @classmethod
    def joined(cls, parts: Sequence["Rows"], dimension: int) -> Self:
        """Several, one after the other."""

        def flat(name: str) -> list[Any]:
            return [value for part in parts for value in getattr(part, name)]

        vectors = np.concatenate([np.empty((0, dimension), np.float32), *(part.vectors for part in parts)])
        return cls(
            flat("ids"),
            flat("uris"),
            flat("content_sha256"),
            vectors,
            flat("regions"),
            flat("create_times"),
            flat("update_times"),
            flat("attributes"),
        )


# The columns that formats without types of their own hold as texts.
TEXTS: Mapping[str, Callable[[Rows], Iterable[str]]] = {
    "ids": lambda rows: rows.ids,
    "uris": lambda rows: rows.uris,
    "content_sha256": lambda rows: rows.content_sha256,
    "attributes": lambda rows: map(attributes_json, rows.attributes),
    "create_times": lambda rows: (time.isoformat() for time in rows.create_times),
    "update_times": lambda rows: (time.isoformat() for time in rows.update_times),
}


def regions_array(regions: Iterable[Region | None]) -> Vectors:
    """float32[rows, 4]; four NaN where there is none."""
    numbers = [(np.nan,) * 4 if region is None else astuple(region) for region in regions]
    return np.array(numbers, np.float32).reshape(-1, 4)


def regions_from(numbers: NDArray[Any]) -> list[list[float] | None]:
    """The other way round."""
    return [None if np.isnan(region).all() else region.tolist() for region in numbers.astype(np.float64)]


def kind_of(value: AttributeValue) -> str:
    """The type of a value, by name; True is no whole number, and 1 is not 1.0."""
    match value:
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float"
        case str():
            return "text"
    return "texts"


def attributes_json(attributes: Attributes) -> str:
    """The attributes as a JSON text, which keeps the difference of 1 and 1.0."""
    return json.dumps(dict(attributes), ensure_ascii=False, separators=(",", ":"))


@dataclass(slots=True)
class Summary:
    """What is to be known of all rows before the first one is written."""

    rows: int = 0
    kinds: dict[str, str] = field(default_factory=dict)
    """Of each attribute the type that all its values have, or MIXED; of the first MAX_COLUMNS names."""
    rest: bool = False
    """Whether there are attributes beyond these."""
    widths: dict[str, int] = field(default_factory=dict)
    """Characters of the longest text of each column of texts."""

    def add(self, rows: Rows) -> None:
        """Takes more rows into account."""
        self.rows += len(rows)
        for attributes in rows.attributes:
            self._add_attributes(attributes)
        for name, column in TEXTS.items():
            self.widths[name] = max(self.widths.get(name, 0), max(map(len, column(rows)), default=0))

    def _add_attributes(self, attributes: Attributes) -> None:
        for name, value in attributes.items():
            kind = kind_of(value)
            known = self.kinds.get(name)
            if known is None and len(self.kinds) >= MAX_COLUMNS:
                self.rest = True
            elif known is None:
                self.kinds[name] = kind
            elif known != kind:
                self.kinds[name] = MIXED

    def as_json(self) -> dict[str, Any]:
        """The summary as JSON has it."""
        return {"rows": self.rows, "kinds": self.kinds, "rest": self.rest, "widths": self.widths}


@dataclass(frozen=True, slots=True)
class Facts:
    """Of a whole file, known before its first row."""

    summary: Summary
    dimension: int
    notes: Mapping[str, str]
    """Such as the fingerprint, the metric and where the rows are from."""


Batches: TypeAlias = Callable[[bool], Iterable[Rows]]
"""Gives all rows, some at a time, as often as it is called: with their vectors or without."""

Writer: TypeAlias = Callable[[str, Facts, Batches], None]
"""Writes all rows to a path, as many as the facts say. Raises OSError and RowError."""


@dataclass(frozen=True, slots=True)
class RawRows:
    """Some rows as a file from anywhere holds them: only their number is known to be right."""

    vectors: Vectors
    """float32[rows, dimension]; anything in the rows of `unusable`."""
    unusable: Mapping[int, str]
    """What is wrong with vectors that are none, by their row of these."""
    ids: Sequence[Any]
    uris: Sequence[Any] | None
    content_sha256: Sequence[Any] | None
    regions: Sequence[Any] | None
    """Each four numbers, or None."""
    attributes: Sequence[Mapping[str, Any] | str | bytes] | None
    """Each by name, or as a JSON text."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a file are what; an empty name leaves it to the file's own names."""

    vector: str = ""
    id: str = ""
    uri: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """New names of attributes; an empty one leaves the column out."""


class Table(Protocol):
    """A file of vectors that is open to be read."""

    rows: int
    dimension: int
    notes: Mapping[str, str]

    def batches(self, size: int) -> Iterable[RawRows]:
        """All rows, at most `size` at a time. Raises OSError, ValueError."""

    def close(self) -> None:
        """Closes the file."""
