"""The columns of files of vectors, and a summary of all rows that writers need before the first row."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import datetime
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from imagesearch_client.types import AttributeValue, Image, Region
from imagesearch_ingest.vector_files.region_columns import RegionColumns

Vectors: TypeAlias = NDArray[np.float32]
Attributes: TypeAlias = Mapping[str, AttributeValue]

FORMAT_VERSION = "1"
# At most this many attributes have their own column; all others share one. Otherwise a file could have millions of
# columns.
MAX_COLUMNS = 1000
# The type of an attribute whose values have several types.
MIXED = "mixed"


class RowError(Exception):
    """A format cannot store a row; the message names the value and a format that can."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Stored images by column. All columns have the same length."""

    ids: Sequence[str]
    uris: Sequence[str]
    content_sha256: Sequence[str]
    vectors: Vectors
    """float32[rows, dimension]; float32[rows, 0] if the vectors were not requested."""
    regions: Sequence[Region | None]
    create_times: Sequence[datetime]
    update_times: Sequence[datetime]
    attributes: Sequence[Attributes]
    region_columns: RegionColumns | None = None
    """The regions with their vectors; None if the collection has none, or if the vectors were not requested."""

    def __len__(self) -> int:
        return len(self.ids)

    def array_size(self) -> int:
        """Return the bytes of all vectors."""
        return self.vectors.nbytes + (self.region_columns.vectors.nbytes if self.region_columns else 0)

    def text_size(self) -> int:
        """Return the approximate number of characters of all texts and attributes."""
        return sum(sum(map(len, column(self))) for column in TEXTS.values())

    @classmethod
    def from_images(cls, images: Sequence[Image], dimension: int, *, with_regions: bool) -> Self:
        """Return the rows of images. Raises ValueError if an image has no vector of this dimension."""
        vectors = np.empty((len(images), dimension), np.float32)
        for row, image in enumerate(images):
            if image.embedding is None or len(image.embedding.values) != dimension:
                raise ValueError(f"{image.id!r:.80} has no vector of {dimension} components")
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
            RegionColumns.from_images((image.regions for image in images), dimension) if with_regions else None,
        )

    @classmethod
    def concatenate(cls, parts: Sequence["Rows"], dimension: int) -> Self:
        """Return the rows of all parts."""

        def flat(name: str) -> list[Any]:
            return [value for part in parts for value in getattr(part, name)]

        vectors = np.concatenate([np.empty((0, dimension), np.float32), *(part.vectors for part in parts)])
        regions = [part.region_columns for part in parts if part.region_columns is not None]
        return cls(
            flat("ids"),
            flat("uris"),
            flat("content_sha256"),
            vectors,
            flat("regions"),
            flat("create_times"),
            flat("update_times"),
            flat("attributes"),
            RegionColumns.concatenate(regions) if regions else None,
        )


# The columns that HDF5 and NPZ store as texts.
TEXTS: Mapping[str, Callable[[Rows], Iterable[str]]] = {
    "ids": lambda rows: rows.ids,
    "uris": lambda rows: rows.uris,
    "content_sha256": lambda rows: rows.content_sha256,
    "attributes": lambda rows: map(attributes_json, rows.attributes),
    "create_times": lambda rows: (time.isoformat() for time in rows.create_times),
    "update_times": lambda rows: (time.isoformat() for time in rows.update_times),
}


def regions_array(regions: Iterable[Region | None]) -> Vectors:
    """Return float32[rows, 4]: the regions; four NaN for a whole image."""
    numbers = [(np.nan,) * 4 if region is None else astuple(region) for region in regions]
    return np.array(numbers, np.float32).reshape(-1, 4)


def regions_from(numbers: NDArray[Any]) -> list[list[float] | None]:
    """Return the regions of an array of `regions_array`."""
    return [None if np.isnan(region).all() else region.tolist() for region in numbers.astype(np.float64)]


def type_name(value: AttributeValue) -> str:
    """Return the name of the type of a value; bool, int and float differ."""
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
    """Return attributes as a JSON text, in which 1 and 1.0 differ."""
    return json.dumps(dict(attributes), ensure_ascii=False, separators=(",", ":"))


@dataclass(slots=True)
class Summary:
    """The properties of all rows that a writer needs before the first row."""

    rows: int = 0
    kinds: dict[str, str] = field(default_factory=dict)
    """The type of each attribute, or MIXED; at most MAX_COLUMNS attributes."""
    rest: bool = False
    """Whether there are more attributes."""
    widths: dict[str, int] = field(default_factory=dict)
    """The length of the longest text in each column of texts."""

    def add(self, rows: Rows) -> None:
        """Include more rows."""
        self.rows += len(rows)
        for attributes in rows.attributes:
            self._add_attributes(attributes)
        for name, column in TEXTS.items():
            self.widths[name] = max(self.widths.get(name, 0), max(map(len, column(rows)), default=0))

    def _add_attributes(self, attributes: Attributes) -> None:
        for name, value in attributes.items():
            kind = type_name(value)
            known = self.kinds.get(name)
            if known is None and len(self.kinds) >= MAX_COLUMNS:
                self.rest = True
            elif known is None:
                self.kinds[name] = kind
            elif known != kind:
                self.kinds[name] = MIXED

    def as_json(self) -> dict[str, Any]:
        """Return the summary for JSON."""
        return {"rows": self.rows, "kinds": self.kinds, "rest": self.rest, "widths": self.widths}


@dataclass(frozen=True, slots=True)
class FileInfo:
    """The properties of a whole file, known before its first row."""

    summary: Summary
    dimension: int
    notes: Mapping[str, str]
    """The settings of the collection and the origin of the rows, as texts."""

    @property
    def has_regions(self) -> bool:
        """Return whether the images of the collection have regions."""
        return self.notes.get("max_regions", "0") != "0"


Batches: TypeAlias = Callable[[bool], Iterable[Rows]]
"""Returns all rows in batches, with or without vectors; may be called several times."""

Writer: TypeAlias = Callable[[str, FileInfo, Batches], None]
"""Writes all rows to a path. Raises OSError and RowError."""


@dataclass(frozen=True, slots=True)
class RawRows:
    """Rows of a file from elsewhere. Only their number is checked."""

    vectors: Vectors
    """float32[rows, dimension]; undefined in the rows of `problems`."""
    problems: Mapping[int, str]
    """The problem of each row without a usable vector."""
    ids: Sequence[Any]
    uris: Sequence[Any] | None
    content_sha256: Sequence[Any] | None
    regions: Sequence[Any] | None
    """Four numbers for each row, or None."""
    attributes: Sequence[Mapping[str, Any] | str | bytes] | None
    """The attributes of each row by name, or as a JSON text."""
    region_columns: RegionColumns | None = None
    """The regions with their vectors; None if the file has none."""


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """The names of the columns of a file; the usual names are used for empty ones."""

    vector: str = ""
    id: str = ""
    uri: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """New attribute names by column; an empty name leaves the column out."""


class VectorTable(Protocol):
    """An open file of vectors."""

    rows: int
    dimension: int
    notes: Mapping[str, str]

    def batches(self, size: int) -> Iterable[RawRows]:
        """Return all rows, at most `size` at a time. Raises OSError, ValueError."""

    def close(self) -> None:
        """Close the file."""
