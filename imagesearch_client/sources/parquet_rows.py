"""The rows of Parquet files."""

import datetime as dt
import decimal
import errno
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from imagesearch_client.sources.columns import InvalidRow, Row, assign
from imagesearch_client.sources.items import SourceError
from imagesearch_client.sources.locations import Location
from imagesearch_client.sources.options import SourceOptions
from imagesearch_client.sources.values import MAX_EXACT, checked
from imagesearch_client.types import AttributeValue

# Rows that are in memory at a time, and what is read of each column's file at a time.
BATCH = 1000
BUFFER = 2**20

ArrowType: TypeAlias = Any
ArrowArray: TypeAlias = Any


class ParquetRows:
    """The rows of a file, of those columns that are used."""

    remarks: Sequence[str] = ()

    def __init__(self, location: Location, options: SourceOptions) -> None:
        """Reads the schema. Raises SourceError and OSError."""
        self._location = location
        with location.open() as file:
            try:
                schema = pq.ParquetFile(file).schema_arrow
            except pa.ArrowException as error:
                raise SourceError(f"{location.file_name} is no Parquet file that can be read: {error}") from None
        types = dict(zip(schema.names, schema.types, strict=True))
        self._columns = columns = assign(schema.names, options, location.file_name)
        self._check(columns.path, types, [_is_text], "a path or URL is a text")
        if columns.id is not None:
            self._check(columns.id, types, [_is_text, pa.types.is_integer], "an id is a text or a whole number")
        for column in columns.attributes:
            self._check(
                column,
                types,
                [_is_attribute],
                "texts, numbers, true, false, dates and lists of texts are attributes; "
                f"--map '{column}=' leaves the column out",
            )

    def __iter__(self) -> Iterator[Row | InvalidRow]:
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

    def _check(self, column: str, types: dict[str, ArrowType], fit: Sequence[Any], message: str) -> None:
        kind = types[column]
        inner = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not any(fits(inner) for fits in fit):
            raise SourceError(f"{self._location.file_name}, column {column!r} is {kind}: {message}")

    def _rows(self) -> Iterator[Row | InvalidRow]:
        columns = self._columns
        wanted = list(dict.fromkeys([columns.path, *([columns.id] if columns.id else []), *columns.attributes]))
        number = 0
        with self._location.open() as file, pq.ParquetFile(file, buffer_size=BUFFER) as parquet:
            for batch in parquet.iter_batches(BATCH, columns=wanted, use_threads=False):
                values = {name: _plain(batch.column(name)) for name in wanted}
                for index in range(batch.num_rows):
                    number += 1
                    yield self._row(number, {name: values[name][index] for name in wanted})

    def _row(self, number: int, values: dict[str, object]) -> Row | InvalidRow:
        attributes: dict[str, AttributeValue] = {}
        for column, value in values.items():
            try:
                if isinstance(value, _Unusable):
                    raise ValueError(value.message)  # noqa: TRY004 - caught here
                if column in self._columns.attributes and value is not None:
                    attributes[self._columns.attributes[column]] = checked(_attribute(value))
            except ValueError as error:
                return InvalidRow(number, f"{column}: {error}")
        image_id = None if self._columns.id is None else values[self._columns.id]
        has_attributes = bool(self._columns.attributes)
        return Row(
            number,
            values[self._columns.path],
            image_id,
            self._columns.id is not None,
            attributes if has_attributes else None,
        )


class _Unusable:
    """A value that Python cannot hold, such as a date in the year 20,000."""

    def __init__(self, message: str) -> None:
        self.message = message


def _is_text(kind: ArrowType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_attribute(kind: ArrowType) -> bool:
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_text(kind.value_type)
    simple = (types.is_boolean, types.is_integer, types.is_floating, types.is_decimal, types.is_null)
    return _is_text(kind) or any(fits(kind) for fits in (*simple, types.is_date, types.is_timestamp))


def _plain(values: ArrowArray) -> list[object]:
    """The values as Python's; one that cannot be so is an _Unusable, and spoils no others."""
    kind = values.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        # Python's times have no nanoseconds.
        values = values.cast(pa.timestamp("us", kind.tz), safe=False)
    elif pa.types.is_float16(kind):
        values = values.cast(pa.float32())
    try:
        return list(values.to_pylist())
    except (ValueError, OverflowError, pa.ArrowException):
        return [_one(value) for value in values]


def _one(value: Any) -> object:
    try:
        return value.as_py()
    except (ValueError, OverflowError, pa.ArrowException) as error:
        return _Unusable(str(error))


def _attribute(value: object) -> object:
    if isinstance(value, decimal.Decimal):
        return _number(value)
    return value.isoformat() if isinstance(value, dt.date) else value


def _number(value: decimal.Decimal) -> int | float:
    """The number of a column of decimals: a whole one where the column has whole numbers. Raises ValueError."""
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent >= 0:
        return int(value)
    if abs(value) > MAX_EXACT:
        raise ValueError(f"{value} would be rounded: a number with a fraction has 53 bits; a text keeps it")
    return float(value)
