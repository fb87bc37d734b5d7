"""What columns of Parquet files can be attributes, and their values: one rule for manifests and files of vectors."""

import datetime as dt
import decimal
from typing import Any, TypeAlias

import pyarrow as pa

from imagesearch_client.dates import date_text
from imagesearch_ingest.sources.attribute_values import MAX_EXACT, is_missing

ArrowType: TypeAlias = Any
ArrowArray: TypeAlias = Any
# Column by column, what can be done about one that cannot be an attribute.
ALLOWED_TYPES = "texts, numbers, true, false, dates and lists of texts are attributes"


class InvalidValue:
    """A value that cannot be an attribute, such as a date in the year 20,000."""

    def __init__(self, message: str) -> None:
        """Takes what is wrong with it."""
        self.message = message


def inner_type(kind: ArrowType) -> ArrowType:
    """The type of the values of a column, which may be a dictionary of them."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_text_type(kind: ArrowType) -> bool:
    """Whether values are texts."""
    kind = inner_type(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes_type(kind: ArrowType) -> bool:
    """Whether values are bytes."""
    kind = inner_type(kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def is_list_type(kind: ArrowType) -> bool:
    """Whether values are lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_image_type(kind: ArrowType) -> bool:
    """Whether values are images: their bytes, or bytes and path, as Hugging Face's datasets have them."""
    return is_bytes_type(kind) or (
        pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and is_bytes_type(kind.field("bytes").type)
    )


def is_attribute_type(kind: ArrowType) -> bool:
    """Whether values can be attributes."""
    kind = inner_type(kind)
    if is_list_type(kind):
        return is_text_type(kind.value_type)
    types = pa.types
    simple = (types.is_boolean, types.is_integer, types.is_floating, types.is_decimal, types.is_null)
    return is_text_type(kind) or any(fits(kind) for fits in (*simple, types.is_date, types.is_timestamp))


def values_of(column: ArrowArray) -> list[object]:
    """The values as attributes have them; None if there is none, and Unusable if it cannot be one."""
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        # Python's times have no nanoseconds.
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
    elif pa.types.is_float16(kind):
        column = column.cast(pa.float32())
    try:
        found = list(column.to_pylist())
    except (ValueError, OverflowError, pa.ArrowException):
        found = [_one(value) for value in column]
    return [_attribute(value) for value in found]


def _one(value: Any) -> object:
    try:
        return value.as_py()
    except (ValueError, OverflowError, pa.ArrowException) as error:
        return InvalidValue(str(error))


def _attribute(value: object) -> object:
    if is_missing(value):
        return None
    try:
        if isinstance(value, decimal.Decimal):
            return _number(value)
        return date_text(value) if isinstance(value, dt.date) else value
    except (ValueError, OverflowError) as error:
        return InvalidValue(str(error))


def _number(value: decimal.Decimal) -> int | float | None:
    """The number of a column of decimals: a whole one where the column has whole numbers. Raises ValueError."""
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent >= 0:
        return int(value)
    if abs(value) > MAX_EXACT:
        raise ValueError(f"{value} would be rounded: a number with a fraction has 53 bits; a text keeps it")
    return float(value)
