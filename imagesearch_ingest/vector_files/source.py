"""Files of ready vectors as a source: those that were exported, and those that others made."""

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

from imagesearch_client.types import AttributeValue, Embedding, Region
from imagesearch_ingest.sources.attribute_values import is_missing
from imagesearch_ingest.sources.items import Fault, Item, SourceError
from imagesearch_ingest.sources.parquet_values import InvalidValue
from imagesearch_ingest.vector_files.formats import UNREADABLE, open_vectors
from imagesearch_ingest.vector_files.rows import FORMAT_VERSION, Columns, RawRows, Table, Vectors
from imagesearch_ingest.vector_files.settings import settings_from

BATCH_ROWS = 1024
BATCH_BYTES = 8 * 1024 * 1024
# A collection has no more.
MAX_DIMENSION = 32768
MAX_INTEGER = 2**63
# The lengths of vectors that the search service takes. An import checks them, so that a file whose vectors are all
# refused leaves no empty collection.
SHORTEST_SQUARE, LONGEST = 1.2e-32, 7e18
SHA256 = re.compile(r"([0-9a-f]{64})?")
CORNERS = 4


@dataclass(frozen=True, slots=True)
class VectorOptions:
    """What a file does not say of itself; what is empty is found by the usual names."""

    fingerprint: str = ""
    """Which model made the vectors."""
    vector: str = ""
    """The column, dataset or array of the vectors."""
    id: str = ""
    """That of the ids."""
    uri: str = ""
    """That of the uris."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """New names of attributes, by the columns'; an empty one leaves the column out."""


class VectorFile:
    """A Parquet, HDF5 or NPZ file as a source of images whose vectors were made before.

    Numbers that are NaN are attributes that are not there: so says it who has no other way to.
    """

    def __init__(self, path: Path, options: VectorOptions) -> None:
        """Looks at the file, and reads no rows.

        Raises SourceError where it is cut off or of another format, where a column is missing or of a type that it
        cannot have, and where nothing says which model made the vectors.
        """
        self._path = path.absolute()
        self._columns = Columns(options.vector, options.id, options.uri, options.columns)
        self.name = str(self._path)
        with closing(open_vectors(self._path, self._columns)) as table:
            self._rows = table.rows
            self.dimension = table.dimension
            """Numbers of each vector; 0 where no row has one."""
            self.notes = table.notes
            """What an export says of its collection: all its settings."""
        self.fingerprint = self._known_fingerprint(options.fingerprint)
        """Of the model that made the vectors."""
        self._check()

    def _known_fingerprint(self, declared: str) -> str:
        noted = self.notes.get("fingerprint", "")
        if declared and noted and declared != noted:
            raise SourceError(f"{self._path}: says that its vectors are of {noted}, and the option says {declared}")
        if not (declared or noted):
            raise SourceError(f"{self._path}: does not say which model made its vectors; say it by --fingerprint")
        return declared or noted

    def _check(self) -> None:
        version = self.notes.get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise SourceError(f"{self._path}: is of format version {version}; this program reads {FORMAT_VERSION}")
        try:
            settings_from(self.notes)
        except ValueError as error:
            raise SourceError(f"{self._path}: {error}") from None
        if self.dimension > MAX_DIMENSION:
            raise SourceError(f"{self._path}: has vectors of {self.dimension} numbers; at most {MAX_DIMENSION} can be")

    def count(self) -> int:
        """Its rows."""
        return self._rows

    def __iter__(self) -> Iterator[Item | Fault]:
        """Its rows in order. Raises SourceError where the file turns out to be broken."""
        size = max(1, min(BATCH_ROWS, BATCH_BYTES // (4 * max(1, self.dimension))))
        with closing(open_vectors(self._path, self._columns)) as table:
            first = 0
            for rows in self._batches(table, size):
                yield from self._items(rows, first)
                first += len(rows.ids)

    def _batches(self, table: Table, size: int) -> Iterator[RawRows]:
        try:
            yield from table.batches(size)
        except UNREADABLE as error:
            raise SourceError(f"{self._path}: cannot be read to its end, it may be cut off: {error}") from None

    def _items(self, rows: RawRows, first: int) -> Iterator[Item | Fault]:
        unusable = {**_unusable(rows.vectors), **rows.unusable}
        lengths = np.linalg.norm(rows.vectors.astype(np.float64), axis=1)
        shortest = math.sqrt(max(1, self.dimension) * SHORTEST_SQUARE)
        for row in range(len(rows.ids)):
            # Counted as people count, from 1.
            where = f"{self._path.name}, row {first + row + 1}"
            try:
                if row in unusable:
                    raise ValueError(unusable[row])
                found: Item | Fault = self._item(rows, row)
            except ValueError as error:
                found = Fault(where, "ROW_INVALID", str(error))
            else:
                if not shortest <= lengths[row] <= LONGEST:
                    problem = (
                        f"its vector has length {lengths[row]:.2g}; it must be from {shortest:.2g} to {LONGEST:.2g}. "
                        "Scale all vectors alike"
                    )
                    found = Fault(where, "VECTOR_LENGTH_INVALID", problem)
            yield found

    def _item(self, rows: RawRows, row: int) -> Item:
        content = rows.vectors[row].astype("<f4", copy=False).tobytes()
        region = None if rows.regions is None else _region(rows.regions[row])
        sha256 = "" if rows.content_sha256 is None else _text(rows.content_sha256[row], "content_sha256")
        if not SHA256.fullmatch(sha256):
            raise ValueError(f"its content_sha256 is {sha256!r:.80}, and should be 64 hexadecimal digits in lower case")
        return Item(
            id=_id(rows.ids[row]),
            uri="" if rows.uris is None else _text(rows.uris[row], "uri"),
            # As small as in the file, and taken by a message as fast as a list.
            content=Embedding(array.array("f", rows.vectors[row].tobytes()), self.fingerprint),
            attributes=None if rows.attributes is None else _attributes(rows.attributes[row]),
            stamp=hashlib.blake2b(content + (repr(region).encode() if region else b""), digest_size=16).hexdigest(),
            content_sha256=sha256,
            region=region,
        )


def _unusable(vectors: Vectors) -> dict[int, str]:
    """What is wrong with vectors that cannot be stored, by row."""
    infinite = ~np.isfinite(vectors).all(axis=1)
    zero = ~vectors.any(axis=1)
    wrong = {int(row): "its vector is all zero" for row in np.flatnonzero(zero)}
    return wrong | {int(row): "its vector has numbers that are not finite" for row in np.flatnonzero(infinite)}


def _id(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    found = _text(value, "id")
    if not found:
        raise ValueError("it has no id")
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
                raise ValueError(f"its {name} is {value!r:.80}, which is no UTF-8") from None
    raise ValueError(f"its {name} is {value!r:.80}, and should be a text")


def _region(numbers: Sequence[Any] | None) -> Region | None:
    if numbers is None:
        return None
    if len(numbers) != CORNERS or any(number is None or not math.isfinite(number) for number in numbers):
        raise ValueError(f"its region is {list(numbers)!r:.80}, and should be four numbers x0, y0, x1, y1")
    return Region(*numbers)


def _attributes(found: Mapping[str, Any] | str | bytes) -> dict[str, AttributeValue]:
    if isinstance(found, str | bytes):
        try:
            found = json.loads(_text(found, "attributes") or "{}")
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"its attributes are no JSON: {error}") from None
    if not isinstance(found, dict):
        # A fault of the row, as all others are.
        raise ValueError(f"its attributes are {found!r:.80}, and should be an object of JSON")  # noqa: TRY004
    return {name: _attribute(name, value) for name, value in found.items() if not is_missing(value)}


def _attribute(name: str, value: Any) -> AttributeValue:
    match value:
        case InvalidValue():
            raise ValueError(f"its attribute {name!r:.80}: {value.message}")
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
        f"its attribute {name!r:.80} is {value!r:.80}, and should be a text, true, false, a finite number, a whole "
        "number of 64 bits or a list of texts"
    )
