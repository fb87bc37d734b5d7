"""Conditions on the attributes of images: plain data, checked here, compiled by the store."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from grpc_kit.errors import InvalidArgumentError
from search_service.core.checks import ATTRIBUTE_NAME, shown

MAX_DEPTH = 16
MAX_CONDITIONS = 256
MAX_VALUES = 1000
MAX_VALUE_BYTES = 4096

# Of all parts of a filter together.
MAX_ALL_VALUES = 10_000
MAX_ALL_BYTES = 1024 * 1024

FilterValue: TypeAlias = str | bool | int | float


def _identity(value: object) -> object:
    """Return what tells values apart that Python takes for equal: True and 1, 1 and 1.0, 0.0 and -0.0."""
    if isinstance(value, tuple):
        return tuple(map(_identity, value))
    return (type(value), repr(value)) if isinstance(value, bool | int | float) else value


class _ByMeaning:
    """Two conditions are equal only if they mean the same."""

    def _identity(self) -> tuple[object, ...]:
        return tuple(_identity(value) for value in vars(self).values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByMeaning) and type(self) is type(other) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((type(self), self._identity()))


@dataclass(frozen=True, eq=False)
class Equals(_ByMeaning):
    """The attribute has this value; for a list: the list holds it.

    Numbers are compared by value, and no bool is one.
    """

    attribute: str
    value: FilterValue


@dataclass(frozen=True, eq=False)
class In(_ByMeaning):
    """The attribute has one of these values; for a list: the list holds one of them."""

    attribute: str
    values: tuple[FilterValue, ...]


@dataclass(frozen=True, eq=False)
class Range(_ByMeaning):
    """The attribute is a number between the bounds that are set. Numbers are compared by value, exactly."""

    attribute: str
    gte: int | float | None = None
    gt: int | float | None = None
    lte: int | float | None = None
    lt: int | float | None = None


@dataclass(frozen=True)
class TextRange:
    """The attribute is a string between the bounds that are set. Strings are compared by their code points."""

    attribute: str
    gte: str | None = None
    gt: str | None = None
    lte: str | None = None
    lt: str | None = None


@dataclass(frozen=True)
class Prefix:
    """The attribute is a string that begins so."""

    attribute: str
    prefix: str


@dataclass(frozen=True)
class Exists:
    """The image has the attribute."""

    attribute: str


@dataclass(frozen=True)
class IdAfter:
    """The image's id comes after this one, by its code points. The service's own: callers page by tokens."""

    id: str


@dataclass(frozen=True)
class IdIn:
    """The image's id is one of these. The service's own."""

    ids: tuple[str, ...]


@dataclass(frozen=True)
class UpdatedWithin:
    """Anything of the image last changed in this span, both ends included. The service's own."""

    begin: datetime
    end: datetime


@dataclass(frozen=True)
class And:
    """All of these are true."""

    filters: "tuple[Filter, ...]"


@dataclass(frozen=True)
class Or:
    """At least one of these is true."""

    filters: "tuple[Filter, ...]"


@dataclass(frozen=True)
class Not:
    """This is not true."""

    filter: "Filter"


OnAttribute: TypeAlias = Equals | In | Range | TextRange | Prefix | Exists
Filter: TypeAlias = OnAttribute | IdAfter | IdIn | UpdatedWithin | And | Or | Not


def both(one: Filter | None, other: Filter | None) -> Filter | None:
    """True for what fits both; None fits everything."""
    if one is None or other is None:
        return one or other
    return And((one, other))


def size_of(condition: Filter) -> int:
    """Return the number of conditions and values of a filter."""
    return sum(1 + len(_values_of(part)) for part, _, _ in _parts(condition, "", 1))


def leaves_of(condition: Filter) -> list[Filter]:
    """Return the conditions of a filter that hold no others."""
    return [part for part, _, _ in _parts(condition, "", 1) if not isinstance(part, And | Or | Not)]


def _values_of(part: Filter) -> Sequence[FilterValue]:
    match part:
        case Equals(_, value):
            return (value,)
        case In(_, values):
            return values
        case TextRange():
            return tuple(_bounds_of(part).values())
        case Prefix(_, prefix):
            return (prefix,)
        case IdIn(ids):
            return ids
    return ()


def check_filter(condition: Filter, field: str = "filter") -> None:
    """Raises InvalidArgumentError, with the path of the part at fault, where a filter is not one that is taken."""
    count = size = 0
    for number, (part, path, depth) in enumerate(_parts(condition, field, 1), start=1):
        values = _values_of(part)
        count += len(values)
        size += sum(len(value.encode()) for value in values if isinstance(value, str))
        if count > MAX_ALL_VALUES or size > MAX_ALL_BYTES:
            raise _invalid(
                field, f"holds more than {MAX_ALL_VALUES} values or {MAX_ALL_BYTES} bytes of text in all its parts"
            )
        if depth > MAX_DEPTH:
            raise _invalid(field, f"nests deeper than {MAX_DEPTH}")
        if number > MAX_CONDITIONS:
            raise _invalid(field, f"holds more than {MAX_CONDITIONS} conditions")
        _check(part, path)


def _parts(condition: Filter, path: str, depth: int) -> "Iterator[tuple[Filter, str, int]]":
    """The condition and all that it is made of, with their paths and how deep they are nested."""
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
    match part:
        case And(()) | Or(()):
            raise _invalid(f"{path}.filters", "is empty; it should hold a filter")
        case Equals() | In() | Range() | TextRange() | Prefix() | Exists():
            if not ATTRIBUTE_NAME.fullmatch(part.attribute):
                raise _invalid(
                    f"{path}.attribute",
                    f"is {shown(part.attribute)}; it should be a letter, then at most 127 letters, digits, underscores",
                )
            _check_condition(part, path)


def _check_condition(part: OnAttribute, path: str) -> None:
    match part:
        case Equals(_, value):
            _check_value(value, f"{path}.value")
        case In(_, values):
            if not 1 <= len(values) <= MAX_VALUES:
                raise _invalid(f"{path}.values", f"has {len(values)}; it should have 1 to {MAX_VALUES}")
            for position, value in enumerate(values):
                _check_value(value, f"{path}.values[{position}]")
        case Range() | TextRange():
            _check_range(part, path)
        case Prefix(_, prefix):
            if not prefix:
                raise _invalid(f"{path}.prefix", "is empty; Exists is true for any value")
            _check_value(prefix, f"{path}.prefix")


def _bounds_of(part: Range | TextRange) -> dict[str, FilterValue]:
    bounds = {name: getattr(part, name) for name in ("gte", "gt", "lte", "lt")}
    return {name: bound for name, bound in bounds.items() if bound is not None}


def _check_range(part: Range | TextRange, path: str) -> None:
    stated = _bounds_of(part)
    if not stated:
        raise _invalid(path, "has no bound; it should have one of gte, gt, lte, lt")
    for name, bound in stated.items():
        _check_value(bound, f"{path}.{name}")
    for one, other in (("gte", "gt"), ("lte", "lt")):
        if one in stated and other in stated:
            raise _invalid(path, f"has both {one} and {other}; one of them should be left out")


def _check_value(value: FilterValue, path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise _invalid(path, f"is {value}; it should be finite")
    if isinstance(value, str) and len(value.encode()) > MAX_VALUE_BYTES:
        raise _invalid(path, f"has {len(value.encode())} bytes; at most {MAX_VALUE_BYTES} are taken")


def _invalid(field: str, problem: str) -> InvalidArgumentError:
    return InvalidArgumentError("FILTER_INVALID", f"{field} {problem}", field=field)
