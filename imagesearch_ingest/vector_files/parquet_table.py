"""Parquet files of vectors, from here or from anywhere."""

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
from imagesearch_ingest.vector_files.names import attribute_names, find_columns
from imagesearch_ingest.vector_files.parquet_file import JSON_MARK, NOTES_KEY, REST
from imagesearch_ingest.vector_files.rows import Columns, RawRows, Vectors

READ_BUFFER = 1024 * 1024


class ParquetTable:
    """A Parquet file that is open to be read."""

    def __init__(self, path: Path, columns: Columns) -> None:
        """Opens it. Raises SourceError, OSError, ValueError and what else pyarrow raises of a broken file."""
        # Nothing is read ahead: of a row group there may be more than fits into the memory.
        self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_BUFFER)
        try:
            self._open(columns)
        except BaseException:
            self.close()
            raise

    def _open(self, columns: Columns) -> None:
        schema = self._file.schema_arrow
        self.notes: Mapping[str, str] = _notes(schema)
        self.rows = int(self._file.metadata.num_rows)
        self._vector, self._id, self._uri = find_columns(schema.names, columns)
        # A column of the same name may be something else elsewhere, such as a region of the world.
        self._facts = {field.name for field in schema if _is_fact(field)} - {self._vector, self._id, self._uri}
        used = {self._vector, self._id, self._uri} | self._facts
        if self.notes:
            # The service has its own times, and a file of ours has them for people.
            used |= {"create_time", "update_time"}
        self._fields = {field.name: field for field in schema if field.name not in used}
        self._rest = REST if _is_json(self._fields.get(REST)) else None
        if self._rest:
            del self._fields[REST]
        self._attributes = attribute_names(self._fields, columns.renamed)
        self._check_types(schema)
        self.dimension = self._find_dimension(schema.field(self._vector).type)

    def close(self) -> None:
        """Closes the file."""
        self._file.close(force=True)

    def _check_types(self, schema: Any) -> None:
        vector, image_id = schema.field(self._vector).type, schema.field(self._id).type
        if not is_list_type(vector) or not pa.types.is_floating(vector.value_type):
            raise SourceError(f"{self._vector!r} should be lists of floats, and is {vector}")
        if not (is_text_type(image_id) or is_bytes_type(image_id) or pa.types.is_integer(image_id)):
            raise SourceError(f"{self._id!r} should be texts or whole numbers, and is {image_id}")
        if self._uri and not is_text_type(schema.field(self._uri).type):
            raise SourceError(f"{self._uri!r} should be texts, and is {schema.field(self._uri).type}")
        for name in self._attributes:
            kind = self._fields[name].type
            if not is_attribute_type(kind):
                raise SourceError(
                    f"column {name!r} is {kind}: {ALLOWED_TYPES}; {suggest_option('--map', name)} leaves the column out"
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
        """All rows, at most `size` at a time."""
        facts = [self._vector, self._id, self._uri, *self._facts]
        names = [name for name in (*facts, *self._attributes, self._rest) if name is not None]
        for batch in self._file.iter_batches(size, columns=names):
            vectors, unusable = _vectors(batch.column(self._vector), self.dimension)
            yield RawRows(
                vectors,
                unusable,
                _values(batch.column(self._id)),
                _values(batch.column(self._uri)) if self._uri else None,
                _values(batch.column("content_sha256")) if "content_sha256" in self._facts else None,
                batch.column("region").to_pylist() if "region" in self._facts else None,
                self._attributes_of(batch),
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
    """The vectors of a batch, and what is wrong with those that are none."""
    lengths = pc.list_value_length(column)
    if column.null_count == 0 and dimension and pc.all(pc.equal(lengths, dimension)).as_py():
        return _numbers(column.flatten(), dimension), {}
    vectors = np.zeros((len(column), dimension), np.float32)
    unusable: dict[int, str] = {}
    for row, length in enumerate(lengths.to_pylist()):
        if length is None or not column[row].is_valid:
            unusable[row] = "it has no vector"
        elif length != dimension or not dimension:
            unusable[row] = f"its vector has {length} numbers, and those before it have {dimension}"
        else:
            vectors[row] = _numbers(column[row].values, dimension)[0]
    return vectors, unusable


def _numbers(flat: Any, dimension: int) -> Vectors:
    # A double beyond what a float32 holds becomes infinite, and is found with those that were.
    with np.errstate(over="ignore"):
        numbers: Vectors = flat.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return numbers.reshape(-1, dimension)


def _values(column: Any) -> list[Any]:
    """The values, texts as their bytes: what is no UTF-8 then is a matter of its row, and not of the file."""
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


def _is_fact(field: Any) -> bool:
    if field.name == "region":
        return is_list_type(field.type) and bool(pa.types.is_floating(field.type.value_type))
    return field.name == "content_sha256" and is_text_type(field.type)


def _is_json(field: Any) -> bool:
    return field is not None and bool(field.metadata) and JSON_MARK.items() <= field.metadata.items()
