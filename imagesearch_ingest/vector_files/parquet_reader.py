"""Reads vectors from Parquet files, exported or from elsewhere."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imagesearch_ingest.sources.attribute_values import suggest_option
from imagesearch_ingest.sources.items import SourceError
from imagesearch_ingest.sources.parquet_values import (
    ALLOWED_TYPES,
    is_attribute_type,
    is_bytes_type,
    is_list_type,
    is_text_type,
    values_of,
)
from imagesearch_ingest.vector_files.column_names import attribute_names, find_columns
from imagesearch_ingest.vector_files.parquet_writer import JSON_MARK, NOTES_KEY, REST
from imagesearch_ingest.vector_files.region_columns import COLUMN as REGIONS
from imagesearch_ingest.vector_files.region_columns import RegionColumns, arrow_type
from imagesearch_ingest.vector_files.rows import ColumnNames, RawRows, Vectors

READ_BUFFER = 1024 * 1024


class ParquetTable:
    """An open Parquet file of vectors."""

    def __init__(self, path: Path, columns: ColumnNames) -> None:
        """Open the file. Raises SourceError, OSError, ValueError, and all other errors of pyarrow for damaged files."""
        # Read nothing ahead: a row group may be larger than the memory.
        self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_BUFFER)
        try:
            self._open(columns)
        except BaseException:
            self.close()
            raise

    def _open(self, columns: ColumnNames) -> None:
        schema = self._file.schema_arrow
        self.notes: Mapping[str, str] = _notes(schema)
        self.rows = int(self._file.metadata.num_rows)
        self._vector, self._id, self._uri = find_columns(schema.names, columns)
        # In files from elsewhere, a column of the same name may mean something else, such as a region of the world.
        self._fixed = {field.name for field in schema if _is_fixed_column(field)} - {self._vector, self._id, self._uri}
        used = {self._vector, self._id, self._uri} | self._fixed
        if self.notes:
            # An export contains times for people. The service sets its own times.
            used |= {"create_time", "update_time"}
        self._fields = {field.name: field for field in schema if field.name not in used}
        self._rest = REST if _is_json(self._fields.get(REST)) else None
        if self._rest:
            del self._fields[REST]
        self._attributes = attribute_names(self._fields, columns.renamed)
        self._check_types(schema)
        self.dimension = self._find_dimension(schema.field(self._vector).type)

    def close(self) -> None:
        """Close the file."""
        self._file.close(force=True)

    def _check_types(self, schema: Any) -> None:
        vector, image_id = schema.field(self._vector).type, schema.field(self._id).type
        if not is_list_type(vector) or not pa.types.is_floating(vector.value_type):
            raise SourceError(f"{self._vector!r} is {vector}; it must be lists of floats")
        if not (is_text_type(image_id) or is_bytes_type(image_id) or pa.types.is_integer(image_id)):
            raise SourceError(f"{self._id!r} is {image_id}; it must be texts or integers")
        if self._uri and not is_text_type(schema.field(self._uri).type):
            raise SourceError(f"{self._uri!r} is {schema.field(self._uri).type}; it must be texts")
        for name in self._attributes:
            kind = self._fields[name].type
            if not is_attribute_type(kind):
                raise SourceError(
                    f"column {name!r} is {kind}: {ALLOWED_TYPES}; {suggest_option('--map', name)} leaves it out"
                )

    def _find_dimension(self, kind: Any) -> int:
        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        for batch in self._file.iter_batches(1024, columns=[self._vector]):
            longest = pc.max(pc.list_value_length(batch.column(self._vector).drop_null().slice(0, 1))).as_py()
            if longest:
                return int(longest)
        return 0

    def batches(self, size: int) -> Iterator[RawRows]:
        """Return all rows, at most `size` at a time."""
        fixed = [self._vector, self._id, self._uri, *self._fixed]
        names = [name for name in (*fixed, *self._attributes, self._rest) if name is not None]
        for batch in self._file.iter_batches(size, columns=names):
            vectors, problems = _vectors(batch.column(self._vector), self.dimension)
            yield RawRows(
                vectors,
                problems,
                _values(batch.column(self._id)),
                _values(batch.column(self._uri)) if self._uri else None,
                _values(batch.column("content_sha256")) if "content_sha256" in self._fixed else None,
                batch.column("region").to_pylist() if "region" in self._fixed else None,
                self._attributes_of(batch),
                RegionColumns.from_arrow(batch.column(REGIONS)) if REGIONS in self._fixed else None,
            )

    def _attributes_of(self, batch: Any) -> list[dict[str, Any]] | None:
        if not self._attributes and not self._rest and not self.notes:
            return None
        found: list[dict[str, Any]] = [{} for _ in range(batch.num_rows)]
        for column, name in self._attributes.items():
            is_json = _is_json(self._fields[column])
            for row, value in enumerate(values_of(batch.column(column))):
                if value is not None:
                    found[row][name] = json.loads(str(value)) if is_json else value
        if self._rest:
            for row, text in enumerate(batch.column(self._rest).to_pylist()):
                found[row] |= json.loads(text or "{}")
        return found


def _vectors(column: Any, dimension: int) -> tuple[Vectors, dict[int, str]]:
    """Return the vectors of a batch, and the problems of rows without a usable vector."""
    lengths = pc.list_value_length(column)
    if column.null_count == 0 and dimension and pc.all(pc.equal(lengths, dimension)).as_py():
        return _numbers(column.flatten(), dimension), {}
    vectors = np.zeros((len(column), dimension), np.float32)
    problems: dict[int, str] = {}
    for row, length in enumerate(lengths.to_pylist()):
        if length is None or not column[row].is_valid:
            problems[row] = "there is no vector"
        elif length != dimension or not dimension:
            problems[row] = f"the vector has {length} components; it must have {dimension}, as the vectors before it"
        else:
            vectors[row] = _numbers(column[row].values, dimension)[0]
    return vectors, problems


def _numbers(flat: Any, dimension: int) -> Vectors:
    # A double beyond the range of float32 becomes infinite, and is reported with other infinite numbers.
    with np.errstate(over="ignore"):
        numbers: Vectors = flat.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return numbers.reshape(-1, dimension)


def _values(column: Any) -> list[Any]:
    """Return the values, with texts as bytes: invalid UTF-8 must only reject its row, not the file."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type):
        column = column.cast(pa.binary())
    elif is_text_type(column.type):
        column = column.cast(pa.large_binary())
    values: list[Any] = column.to_pylist()
    return values


def _notes(schema: Any) -> Mapping[str, str]:
    text = (schema.metadata or {}).get(NOTES_KEY)
    if text is None:
        return {}
    notes = json.loads(text)
    return {str(name): str(value) for name, value in notes.items()} if isinstance(notes, dict) else {}


def _is_fixed_column(field: Any) -> bool:
    if field.name == "region":
        return is_list_type(field.type) and bool(pa.types.is_floating(field.type.value_type))
    if field.name == REGIONS:
        return is_list_type(field.type) and field.type == arrow_type(_vector_size(field.type))
    return field.name == "content_sha256" and is_text_type(field.type)


def _vector_size(regions: Any) -> int:
    """Return the dimension of the vectors in the type of a column of regions; 1 for another type."""
    kind = regions.value_type
    if not pa.types.is_struct(kind) or kind.get_field_index("vector") < 0:
        return 1
    vector = kind.field("vector").type
    return int(vector.list_size) if pa.types.is_fixed_size_list(vector) else 1


def _is_json(field: Any) -> bool:
    return field is not None and bool(field.metadata) and JSON_MARK.items() <= field.metadata.items()
