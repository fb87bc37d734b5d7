"""A source of images from a file of vectors, exported or from elsewhere."""

import array
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imagesearch_client.types import AttributeValue, Embedding, Region, RegionEmbedding
from imagesearch_ingest.sources.attribute_values import is_missing
from imagesearch_ingest.sources.items import Fault, Item, SourceError
from imagesearch_ingest.sources.parquet_values import InvalidValue
from imagesearch_ingest.vector_files.collection_settings import settings_from
from imagesearch_ingest.vector_files.formats import UNREADABLE, open_vectors
from imagesearch_ingest.vector_files.rows import FORMAT_VERSION, ColumnNames, RawRows, Vectors, VectorTable

BATCH_ROWS = 1024
BATCH_BYTES = 8 * 1024 * 1024
# The largest dimension of a collection.
MAX_DIMENSION = 32768
MAX_INTEGER = 2**63
# The lengths of vectors that the search service accepts. An import checks them before it creates a collection: if the
# service rejected all vectors, an empty collection would stay.
SHORTEST_SQUARE, LONGEST = 1.2e-32, 7e18
SHA256 = re.compile(r"([0-9a-f]{64})?")
CORNERS = 4


@dataclass(frozen=True, slots=True)
class VectorOptions:
    """What a file does not say; empty column names stand for the usual names."""

    fingerprint: str = ""
    """The fingerprint of the model of the vectors."""
    vector: str = ""
    """The column, dataset or array of the vectors."""
    id: str = ""
    """The column of the ids."""
    uri: str = ""
    """The column of the uris."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """New attribute names by column; an empty name leaves the column out."""


class VectorFileSource:
    """A Parquet, HDF5 or NPZ file as a source of images with vectors.

    An attribute with the value NaN counts as missing, because some formats have no other missing number.
    """

    def __init__(self, path: Path, options: VectorOptions) -> None:
        """Check the file without reading its rows.

        Raises SourceError if the file is truncated or has another format, if a column is missing or has a wrong type,
        and if the model of the vectors is unknown.
        """
        self._path = path.absolute()
        self._columns = ColumnNames(options.vector, options.id, options.uri, options.columns)
        self.name = str(self._path)
        with closing(open_vectors(self._path, self._columns)) as table:
            self._rows = table.rows
            self.dimension = table.dimension
            """The number of components of each vector; 0 if no row has a vector."""
            self.notes = table.notes
            """The settings of the exported collection; empty for files from elsewhere."""
        self.fingerprint = self._known_fingerprint(options.fingerprint)
        """The fingerprint of the model of the vectors."""
        self._check()

    def _known_fingerprint(self, declared: str) -> str:
        noted = self.notes.get("fingerprint", "")
        if declared and noted and declared != noted:
            raise SourceError(
                f"{self._path} has vectors of {noted}, but --fingerprint is {declared}; leave out the option"
            )
        if not (declared or noted):
            raise SourceError(
                f"{self._path} does not contain the fingerprint of its model; use --fingerprint to name it"
            )
        return declared or noted

    def _check(self) -> None:
        version = self.notes.get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise SourceError(f"{self._path} has format version {version}; this version reads {FORMAT_VERSION}")
        try:
            settings_from(self.notes)
        except ValueError as error:
            raise SourceError(f"{self._path}: {error}") from None
        if self.dimension > MAX_DIMENSION:
            raise SourceError(
                f"{self._path} has vectors of {self.dimension} components; at most {MAX_DIMENSION} are allowed"
            )

    def count(self) -> int:
        """Return the number of rows."""
        return self._rows

    def __iter__(self) -> Iterator[Item | Fault]:
        """Return the rows in order. Raises SourceError if the file is damaged."""
        vectors = 1 + int(self.notes.get("max_regions", "0"))
        size = max(1, min(BATCH_ROWS, BATCH_BYTES // (4 * max(1, self.dimension) * vectors)))
        with closing(open_vectors(self._path, self._columns)) as table:
            first = 0
            for rows in self._batches(table, size):
                yield from self._items(rows, first)
                first += len(rows.ids)

    def _batches(self, table: VectorTable, size: int) -> Iterator[RawRows]:
        try:
            yield from table.batches(size)
        except UNREADABLE as error:
            raise SourceError(f"{self._path} cannot be read to its end; it may be truncated: {error}") from None

    def _items(self, rows: RawRows, first: int) -> Iterator[Item | Fault]:
        problems = {**_vector_problems(rows.vectors), **rows.problems}
        lengths = np.linalg.norm(rows.vectors.astype(np.float64), axis=1)
        shortest = math.sqrt(max(1, self.dimension) * SHORTEST_SQUARE)
        regions = rows.region_columns.of_rows(self.fingerprint) if rows.region_columns else [()] * len(rows.ids)
        for row in range(len(rows.ids)):
            # People count rows from 1.
            where = f"{self._path.name}, row {first + row + 1}"
            try:
                if row in problems:
                    raise ValueError(problems[row])
                found: Item | Fault = self._item(rows, row, regions[row])
            except ValueError as error:
                found = Fault(where, "ROW_INVALID", str(error))
            else:
                if not shortest <= lengths[row] <= LONGEST:
                    problem = (
                        f"the vector has length {lengths[row]:.2g}; it must be from {shortest:.2g} to {LONGEST:.2g}. "
                        "Scale all vectors by the same factor"
                    )
                    found = Fault(where, "VECTOR_LENGTH_INVALID", problem)
            yield found

    def _item(self, rows: RawRows, row: int, regions: tuple[RegionEmbedding, ...]) -> Item:
        content = rows.vectors[row].astype("<f4", copy=False).tobytes()
        region = None if rows.regions is None else _region(rows.regions[row])
        sha256 = "" if rows.content_sha256 is None else _text(rows.content_sha256[row], "content_sha256")
        if not SHA256.fullmatch(sha256):
            raise ValueError(f"content_sha256 is {sha256!r:.80}; it must be 64 hexadecimal digits in lower case")
        return Item(
            id=_id(rows.ids[row]),
            uri="" if rows.uris is None else _text(rows.uris[row], "uri"),
            # An array is as small as in the file, and becomes a message as fast as a list.
            content=Embedding(array.array("f", rows.vectors[row].tobytes()), self.fingerprint),
            attributes=None if rows.attributes is None else _attributes(rows.attributes[row]),
            stamp=_stamp(content, region, regions),
            content_sha256=sha256,
            region=region,
            regions=regions,
        )


def _stamp(vector: bytes, region: Region | None, regions: Sequence[RegionEmbedding]) -> str:
    """Return what changes when a vector, its part of the image or its regions change."""
    digest = hashlib.blake2b(vector, digest_size=16)
    if region is not None:
        digest.update(repr(region).encode())
    for each in regions:
        digest.update(repr((each.box, each.saliency)).encode())
        digest.update(each.embedding.values.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def _vector_problems(vectors: Vectors) -> dict[int, str]:
    """Return the problem of each row whose vector cannot be stored."""
    infinite = ~np.isfinite(vectors).all(axis=1)
    zero = ~vectors.any(axis=1)
    wrong = {int(row): "the vector is all zero" for row in np.flatnonzero(zero)}
    return wrong | {int(row): "the vector has numbers that are not finite" for row in np.flatnonzero(infinite)}


def _id(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    found = _text(value, "id")
    if not found:
        raise ValueError("there is no id")
    return found


def _text(value: Any, name: str) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                raise ValueError(f"{name} is {value!r:.80}; it must be UTF-8") from None
    raise ValueError(f"{name} is {value!r:.80}; it must be a text")


def _region(numbers: Sequence[Any] | None) -> Region | None:
    if numbers is None:
        return None
    if len(numbers) != CORNERS or any(number is None or not math.isfinite(number) for number in numbers):
        raise ValueError(f"region is {list(numbers)!r:.80}; it must be four numbers x0, y0, x1, y1")
    return Region(*numbers)


def _attributes(found: Mapping[str, Any] | str | bytes) -> dict[str, AttributeValue]:
    if isinstance(found, str | bytes):
        try:
            found = json.loads(_text(found, "attributes") or "{}")
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"attributes are not JSON: {error}") from None
    if not isinstance(found, dict):
        # A ValueError, as all other problems of a row.
        raise ValueError(f"attributes are {found!r:.80}; they must be a JSON object")  # noqa: TRY004
    return {name: _attribute(name, value) for name, value in found.items() if not is_missing(value)}


def _attribute(name: str, value: Any) -> AttributeValue:
    match value:
        case InvalidValue():
            raise ValueError(f"attribute {name!r:.80}: {value.message}")
        case str() | bool():
            return value
        case bytes():
            return _text(value, f"attribute {name!r:.80}")
        case int() if -MAX_INTEGER <= value < MAX_INTEGER:
            return value
        case float() if math.isfinite(value):
            return value
        case list() if all(isinstance(each, str) for each in value):
            return value
    raise ValueError(
        f"attribute {name!r:.80} is {value!r:.80}; it must be a text, true, false, a finite number, a 64-bit integer "
        "or a list of texts"
    )
