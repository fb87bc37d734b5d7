"""The rows of Parquet files."""

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from imagesearch_client.types import AttributeValue
from imagesearch_ingest.sources.attribute_values import check_value, suggest_option
from imagesearch_ingest.sources.items import SourceError
from imagesearch_ingest.sources.manifest_columns import PATH_COLUMNS, InvalidRow, ManifestRow, assign_columns
from imagesearch_ingest.sources.parquet_values import (
    ALLOWED_TYPES,
    ArrowType,
    InvalidValue,
    inner_type,
    is_attribute_type,
    is_image_type,
    is_text_type,
    values_of,
)
from imagesearch_ingest.sources.source_file import SourceFile
from imagesearch_ingest.sources.source_options import SourceOptions

# Rows that are in memory at a time, fewer where they hold images, and what is read of each column's file at a time.
BATCH, IMAGES = 1000, 16
BUFFER = 2**20


class ParquetRows:
    """The rows of a file, of those columns that are used."""

    remarks: Sequence[str] = ()

    def __init__(self, location: SourceFile, options: SourceOptions) -> None:
        """Reads the schema. Raises SourceError and OSError."""
        self._location = location
        with location.open() as file:
            try:
                schema = pq.ParquetFile(file).schema_arrow
            except pa.ArrowException as error:
                raise SourceError(f"{location.file_name} is no Parquet file that can be read: {error}") from None
        types = dict(zip(schema.names, schema.types, strict=True))
        if not options.path_column:
            options = replace(options, path_column=_image_column(types))
        self._columns = columns = assign_columns(schema.names, options, location.file_name)
        self._has_images = is_image_type(types[columns.path])
        self._check(
            columns.path, types, [is_text_type, is_image_type], "a path or URL is a text, and an image is bytes"
        )
        if columns.id is not None:
            self._check(columns.id, types, [is_text_type, pa.types.is_integer], "an id is a text or a whole number")
        for column in columns.attributes:
            remedy = f"{ALLOWED_TYPES}; {suggest_option('--map', column)} leaves the column out"
            self._check(column, types, [is_attribute_type], remedy)

    def __iter__(self) -> Iterator[ManifestRow | InvalidRow]:
        """The rows, counted from 1. Raises OSError where the file is damaged."""
        try:
            yield from self._rows()
        except pa.ArrowException as error:
            raise OSError(errno.EIO, " ".join(str(error).split())) from error

    def count(self) -> int | None:
        """How many rows there are, as the file says."""
        if self._location.is_remote:
            return None
        try:
            return int(pq.read_metadata(self._location.name).num_rows)
        except (OSError, pa.ArrowException):
            return None

    def _check(
        self, column: str, types: dict[str, ArrowType], fit: Sequence[Callable[[ArrowType], bool]], message: str
    ) -> None:
        kind = types[column]
        if not any(fits(inner_type(kind)) for fits in fit):
            raise SourceError(f"{self._location.file_name}, column {column!r} is {kind}: {message}")

    def _rows(self) -> Iterator[ManifestRow | InvalidRow]:
        columns = self._columns
        wanted = list(dict.fromkeys([columns.path, *([columns.id] if columns.id else []), *columns.attributes]))
        number = 0
        size = IMAGES if self._has_images else BATCH
        # Nothing is read ahead: pyarrow would else hold all row groups at a time.
        with self._location.open() as file, pq.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER) as parquet:
            for batch in parquet.iter_batches(size, columns=wanted, use_threads=False):
                values = {name: values_of(batch.column(name)) for name in wanted}
                for index in range(batch.num_rows):
                    number += 1
                    yield self._row(number, {name: values[name][index] for name in wanted})

    def _row(self, number: int, values: dict[str, object]) -> ManifestRow | InvalidRow:
        attributes: dict[str, AttributeValue] = {}
        for column, value in values.items():
            try:
                if isinstance(value, InvalidValue):
                    raise ValueError(value.message)  # noqa: TRY004 - caught here
                if column in self._columns.attributes and value is not None:
                    attributes[self._columns.attributes[column]] = check_value(value)
            except ValueError as error:
                return InvalidRow(number, f"{column}: {error}")
        path, content = values[self._columns.path], None
        if self._has_images:
            path, content = path_and_bytes(path)
        return ManifestRow(
            number,
            path,
            None if self._columns.id is None else values[self._columns.id],
            self._columns.id is not None,
            attributes if self._columns.attributes else None,
            content,
            self._columns.path,
        )


def _image_column(types: Mapping[str, ArrowType]) -> str:
    """The column of images with bytes and path; of several the first one of a usual name, else the first."""
    found = [name for name, kind in types.items() if pa.types.is_struct(kind) and is_image_type(kind)]
    return next((name for name in PATH_COLUMNS if name in found), found[0] if found else "")


def path_and_bytes(value: object) -> tuple[object, bytes | None]:
    """The path and the bytes that a value of a column of images has."""
    if isinstance(value, dict):
        content = value.get("bytes")
        return value.get("path"), content if isinstance(content, bytes) else None
    return None, value if isinstance(value, bytes) else None
