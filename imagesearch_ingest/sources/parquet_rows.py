"""Read the rows of Parquet files."""

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

# Rows in memory, fewer if they contain images; and bytes per read of each column.
BATCH, IMAGES = 1000, 16
BUFFER = 2**20


class ParquetRows:
    """The rows of a file, with only the used columns."""

    remarks: Sequence[str] = ()

    def __init__(self, source_file: SourceFile, options: SourceOptions) -> None:
        """Read the schema. Raises SourceError and OSError."""
        self._source_file = source_file
        with source_file.open() as file:
            try:
                schema = pq.ParquetFile(file).schema_arrow
            except pa.ArrowException as error:
                raise SourceError(f"{source_file.file_name} is not a readable Parquet file: {error}") from None
        types = dict(zip(schema.names, schema.types, strict=True))
        if not options.path_column:
            options = replace(options, path_column=_image_column(types))
        self._columns = columns = assign_columns(schema.names, options, source_file.file_name)
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
        """Yield the rows, numbered from 1. Raises OSError if the file is damaged."""
        try:
            yield from self._rows()
        except pa.ArrowException as error:
            raise OSError(errno.EIO, " ".join(str(error).split())) from error

    def count(self) -> int | None:
        """Return the number of rows from the metadata; None for a remote file."""
        if self._source_file.is_remote:
            return None
        try:
            return int(pq.read_metadata(self._source_file.name).num_rows)
        except (OSError, pa.ArrowException):
            return None

    def _check(
        self, column: str, types: dict[str, ArrowType], fit: Sequence[Callable[[ArrowType], bool]], message: str
    ) -> None:
        kind = types[column]
        if not any(fits(inner_type(kind)) for fits in fit):
            raise SourceError(f"{self._source_file.file_name}, column {column!r} is {kind}: {message}")

    def _rows(self) -> Iterator[ManifestRow | InvalidRow]:
        columns = self._columns
        wanted = list(dict.fromkeys([columns.path, *([columns.id] if columns.id else []), *columns.attributes]))
        number = 0
        size = IMAGES if self._has_images else BATCH
        # Without pre-buffering: pyarrow would hold all row groups in memory.
        with self._source_file.open() as file, pq.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER) as parquet:
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
    """Return the first column of images with bytes and path, preferably one with a usual name; "" if there is none."""
    found = [name for name, kind in types.items() if pa.types.is_struct(kind) and is_image_type(kind)]
    return next((name for name in PATH_COLUMNS if name in found), found[0] if found else "")


def path_and_bytes(value: object) -> tuple[object, bytes | None]:
    """Return the path and the bytes of a value in a column of images."""
    if isinstance(value, dict):
        content = value.get("bytes")
        return value.get("path"), content if isinstance(content, bytes) else None
    return None, value if isinstance(value, bytes) else None
