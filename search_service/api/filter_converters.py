"""Convert messages of filters to plain values."""

from typing import Any, cast

from imagesearch.search.v1 import filter_pb2

from grpc_kit.errors import InvalidArgumentError
from search_service.core.filters import (
    MAX_ALL_BYTES,
    MAX_DEPTH,
    And,
    Equals,
    Exists,
    Filter,
    FilterValue,
    In,
    Not,
    OnAttribute,
    Or,
    Prefix,
    Range,
    TextRange,
)

# More bytes than any valid filter has: its texts, and some bytes for each value and condition.
MAX_BYTES = 2 * MAX_ALL_BYTES


def filter_from(message: filter_pb2.Filter, field: str = "filter", depth: int = 1) -> Filter:
    """Return a filter. Raises InvalidArgumentError if a part is empty, or the filter is too deep or too large."""
    if depth == 1 and message.ByteSize() > MAX_BYTES:
        # Before the conversion: plain values take much more memory.
        raise InvalidArgumentError(
            "FILTER_INVALID", f"{field} has {message.ByteSize()} bytes; it must have at most {MAX_BYTES}", field=field
        )
    if depth > MAX_DEPTH:
        raise InvalidArgumentError(
            "FILTER_INVALID", f"filter is nested more than {MAX_DEPTH} levels deep", field="filter"
        )
    kind = message.WhichOneof("condition")
    match kind:
        case "and" | "or":
            filters = tuple(
                filter_from(part, f"{field}.{kind}.filters[{position}]", depth + 1)
                # `and` and `or` are keywords of Python.
                for position, part in enumerate(getattr(message, kind).filters)
            )
            return And(filters) if kind == "and" else Or(filters)
        case "not":
            return Not(filter_from(getattr(message, kind), f"{field}.not", depth + 1))
        case None:
            raise InvalidArgumentError(
                "FILTER_INVALID",
                f"{field} is empty; it must be one of and, or, not, equals, in, range, integer_range, text_range, "
                "prefix, exists",
                field=field,
            )
    return _condition_from(getattr(message, kind), f"{field}.{kind}")


def _condition_from(condition: Any, field: str) -> OnAttribute:
    match condition:
        case filter_pb2.Equals():
            return Equals(condition.attribute, _value_from(condition.value, f"{field}.value"))
        case filter_pb2.In():
            values = [_value_from(value, f"{field}.values[{place}]") for place, value in enumerate(condition.values)]
            return In(condition.attribute, tuple(values))
        case filter_pb2.Range() | filter_pb2.IntegerRange():
            stated = {field.name: bound for field, bound in condition.ListFields() if field.name != "attribute"}
            return Range(condition.attribute, **stated)
        case filter_pb2.TextRange():
            stated = {field.name: bound for field, bound in condition.ListFields() if field.name != "attribute"}
            return TextRange(condition.attribute, **stated)
        case filter_pb2.Prefix():
            return Prefix(condition.attribute, condition.prefix)
        case _:
            return Exists(condition.attribute)


def _value_from(message: filter_pb2.FilterValue, field: str) -> FilterValue:
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidArgumentError(
            "FILTER_INVALID", f"{field} is missing; it must be a string, a number or a boolean", field=field
        )
    return cast("FilterValue", getattr(message, kind))
