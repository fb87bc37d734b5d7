"""Decide which columns of Parquet files can be attributes, and convert their values. Vector files use it as well."""

import datetime as dt
import decimal
from typing import Any, TypeAlias

import pyarrow as pa

from imagesearch_client.dates import date_text
from imagesearch_ingest.sources.attribute_values import MAX_EXACT, is_missing

ArrowType: TypeAlias = Any
ArrowArray: TypeAlias = Any
ALLOWED_TYPES = "attributes are texts, numbers, true, false, dates or lists of texts"


class InvalidValue:
    """A value that cannot be an attribute, such as a date in the year 20,000."""

    def __init__(self, message: str) -> None:
        """Set why the value is invalid."""
        self.message = message


def inner_type(kind: ArrowType) -> ArrowType:
    """Return the type of the values of a column, which may be dictionary-encoded."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_text_type(kind: ArrowType) -> bool:
    """Return whether the values are texts."""
    kind = inner_type(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes_type(kind: ArrowType) -> bool:
    """Return whether the values are bytes."""
    kind = inner_type(kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def is_list_type(kind: ArrowType) -> bool:
    """Return whether the values are lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_image_type(kind: ArrowType) -> bool:
    """Return whether the values are images: bytes, or a struct of bytes and path as in Hugging Face datasets."""
    return is_bytes_type(kind) or (
        pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and is_bytes_type(kind.field("bytes").type)
    )


def is_attribute_type(kind: ArrowType) -> bool:
    """Return whether the values can be attributes."""
    kind = inner_type(kind)
    if is_list_type(kind):
        return is_text_type(kind.value_type)
    types = pa.types
    simple = (types.is_boolean, types.is_integer, types.is_floating, types.is_decimal, types.is_null)
    return is_text_type(kind) or any(fits(kind) for fits in (*simple, types.is_date, types.is_timestamp))


def values_of(column: ArrowArray) -> list[object]:
    """Return the values as attribute values: None for a missing value, InvalidValue for an invalid one."""
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
    """Return a decimal as an int if its column has whole numbers, otherwise as a float. Raises ValueError."""
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent >= 0:
        return int(value)
    if abs(value) > MAX_EXACT:
        raise ValueError(f"{value} would be rounded: a number with a fraction has 53 bits; store it as text")
    return float(value)
