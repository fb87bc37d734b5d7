"""Filters: conditions on the attributes of images. The store translates them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from grpc_kit.errors import InvalidArgumentError
from search_service.core.checks import ATTRIBUTE_NAME, ATTRIBUTE_NAME_RULE, shown

MAX_DEPTH = 16
MAX_CONDITIONS = 256
MAX_VALUES = 1000
MAX_VALUE_BYTES = 4096

# For all parts of a filter together.
MAX_ALL_VALUES = 10_000
MAX_ALL_BYTES = 1024 * 1024

FilterValue: TypeAlias = str | bool | int | float


def _identity(value: object) -> object:
    """Return a value that distinguishes values that are equal in Python: True and 1, 1 and 1.0, 0.0 and -0.0."""
    if isinstance(value, tuple):
        return tuple(map(_identity, value))
    return (type(value), repr(value)) if isinstance(value, bool | int | float) else value


class _ByMeaning:
    """Compare conditions by their meaning."""

    def _identity(self) -> tuple[object, ...]:
        return tuple(_identity(value) for value in vars(self).values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByMeaning) and type(self) is type(other) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((type(self), self._identity()))


@dataclass(frozen=True, eq=False)
class Equals(_ByMeaning):
    """The attribute has this value, or is a list that contains it.

    Numbers are compared by value. A boolean never equals a number.
    """

    attribute: str
    value: FilterValue


@dataclass(frozen=True, eq=False)
class In(_ByMeaning):
    """The attribute has one of these values, or is a list that contains one of them."""

    attribute: str
    values: tuple[FilterValue, ...]


@dataclass(frozen=True, eq=False)
class Range(_ByMeaning):
    """The attribute is a number within the bounds. Numbers are compared exactly."""

    attribute: str
    gte: int | float | None = None
    gt: int | float | None = None
    lte: int | float | None = None
    lt: int | float | None = None


@dataclass(frozen=True)
class TextRange:
    """The attribute is a string within the bounds. Strings are compared by code points."""

    attribute: str
    gte: str | None = None
    gt: str | None = None
    lte: str | None = None
    lt: str | None = None


@dataclass(frozen=True)
class Prefix:
    """The attribute is a string that starts with this prefix."""

    attribute: str
    prefix: str


@dataclass(frozen=True)
class Exists:
    """The image has the attribute."""

    attribute: str


@dataclass(frozen=True)
class IdAfter:
    """The id is greater than this one, by code points. Only for the service; callers page with tokens."""

    id: str


@dataclass(frozen=True)
class IdIn:
    """The id is one of these. Only for the service."""

    ids: tuple[str, ...]


@dataclass(frozen=True)
class UpdatedWithin:
    """The image last changed in this span, including both ends. Only for the service."""

    begin: datetime
    end: datetime


@dataclass(frozen=True)
class And:
    """All filters are true."""

    filters: "tuple[Filter, ...]"


@dataclass(frozen=True)
class Or:
    """At least one filter is true."""

    filters: "tuple[Filter, ...]"


@dataclass(frozen=True)
class Not:
    """The filter is false."""

    filter: "Filter"


OnAttribute: TypeAlias = Equals | In | Range | TextRange | Prefix | Exists
Filter: TypeAlias = OnAttribute | IdAfter | IdIn | UpdatedWithin | And | Or | Not


def both(one: Filter | None, other: Filter | None) -> Filter | None:
    """Return a filter that is true if both are; None is true for every image."""
    if one is None or other is None:
        return one or other
    return And((one, other))


def size_of(condition: Filter) -> int:
    """Return the number of conditions and values of a filter."""
    return sum(1 + len(_values_of(part)) for part, _, _ in _parts(condition, "", 1))


def leaves_of(condition: Filter) -> list[Filter]:
    """Return the conditions in a filter, without And, Or and Not."""
    return [part for part, _, _ in _parts(condition, "", 1) if not isinstance(part, And | Or | Not)]


def _values_of(part: Filter) -> Sequence[FilterValue]:
    match part:
        case Equals(_, value):
            return (value,)
        case In(_, values):
            return values
        case TextRange():
            return tuple(bounds_of(part).values())
        case Prefix(_, prefix):
            return (prefix,)
        case IdIn(ids):
            return ids
    return ()


def check_filter(condition: Filter, field: str = "filter") -> None:
    """Raise InvalidArgumentError with the path of the part at fault if a filter is invalid."""
    count = size = 0
    for number, (part, path, depth) in enumerate(_parts(condition, field, 1), start=1):
        values = _values_of(part)
        count += len(values)
        size += sum(len(value.encode()) for value in values if isinstance(value, str))
        if count > MAX_ALL_VALUES or size > MAX_ALL_BYTES:
            raise _invalid(
                field, f"has more than {MAX_ALL_VALUES} values or {MAX_ALL_BYTES} bytes of text in all its parts"
            )
        if depth > MAX_DEPTH:
            raise _invalid(field, f"is nested more than {MAX_DEPTH} levels deep")
        if number > MAX_CONDITIONS:
            raise _invalid(field, f"has more than {MAX_CONDITIONS} conditions")
        _check(part, path)


def _parts(condition: Filter, path: str, depth: int) -> "Iterator[tuple[Filter, str, int]]":
    """Yield a filter and all filters inside it, with their paths and depths."""
    yield condition, path, depth
    if depth > MAX_DEPTH:
        return
    match condition:
        case And(filters) | Or(filters):
            name = type(condition).__name__.lower()
            for position, inner in enumerate(filters):
                yield from _parts(inner, f"{path}.{name}.filters[{position}]", depth + 1)
        case Not(inner):
            yield from _parts(inner, f"{path}.not", depth + 1)


def _check(part: Filter, path: str) -> None:
    path = f"{path}.{'text_range' if isinstance(part, TextRange) else type(part).__name__.lower()}"
    if isinstance(part, OnAttribute) and not ATTRIBUTE_NAME.fullmatch(part.attribute):
        raise _invalid(f"{path}.attribute", f"is {shown(part.attribute)}; it must be {ATTRIBUTE_NAME_RULE}")
    match part:
        case And(()) | Or(()):
            raise _invalid(f"{path}.filters", "is empty; it must have at least one filter")
        case Equals(_, value):
            _check_value(value, f"{path}.value")
        case In(_, values):
            if not 1 <= len(values) <= MAX_VALUES:
                raise _invalid(f"{path}.values", f"has {len(values)} entries; it must have between 1 and {MAX_VALUES}")
            for position, value in enumerate(values):
                _check_value(value, f"{path}.values[{position}]")
        case Range() | TextRange():
            _check_range(part, path)
        case Prefix(_, prefix):
            if not prefix:
                raise _invalid(f"{path}.prefix", "is empty; use exists for any value")
            _check_value(prefix, f"{path}.prefix")


def bounds_of(part: Range | TextRange) -> dict[str, FilterValue]:
    """Return the bounds that a range has, by name."""
    bounds = {name: getattr(part, name) for name in ("gte", "gt", "lte", "lt")}
    return {name: bound for name, bound in bounds.items() if bound is not None}


def _check_range(part: Range | TextRange, path: str) -> None:
    stated = bounds_of(part)
    if not stated:
        raise _invalid(path, "has no bound; it must have one of gte, gt, lte, lt")
    for name, bound in stated.items():
        _check_value(bound, f"{path}.{name}")
    for one, other in (("gte", "gt"), ("lte", "lt")):
        if one in stated and other in stated:
            raise _invalid(path, f"has both {one} and {other}; leave one of them out")


def _check_value(value: FilterValue, path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise _invalid(path, f"is {value}; it must be finite")
    if isinstance(value, str) and len(value.encode()) > MAX_VALUE_BYTES:
        raise _invalid(path, f"has {len(value.encode())} bytes; it must have at most {MAX_VALUE_BYTES}")


def _invalid(field: str, problem: str) -> InvalidArgumentError:
    return InvalidArgumentError("FILTER_INVALID", f"{field} {problem}", field=field)
