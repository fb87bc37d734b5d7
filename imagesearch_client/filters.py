"""Filters: which images count, by their attributes. Plain functions that nest, and the texts that the command takes.

`all_of(equals("category", "shoe"), number("price", lt=100), negated(exists("sold")))`
"""

import math
import numbers
import re
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any, TypeAlias

from imagesearch.search.v1 import filter_pb2

from imagesearch_client.dates import date_text, is_date, read_date

Filter: TypeAlias = filter_pb2.Filter
Value: TypeAlias = str | bool | int | float

CONDITION = re.compile(r"\s*(!?)\s*([A-Za-z][A-Za-z0-9_]*)\s*(?:(\^=|!=|<=|>=|=|<|>)(.*)|\bin\b(.*))?", re.DOTALL)
QUOTED = re.compile(r"""\s*(["'])(.*)\1\s*""", re.DOTALL)
# One of several values, and what ends it; a comma between quotes does not.
PART = re.compile(r"""(\s*"[^"]*"\s*|\s*'[^']*'\s*|[^,]*)(,|$)""", re.DOTALL)
# What no value begins with unless it is quoted: it is a slip, and would fit nothing, or all where it is negated.
SLIPS = ("=", "<", ">", "(", "[", '"', "'")
INTEGER = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
MAX_INTEGER = 2**63


def equals(attribute: str, value: Value | date) -> Filter:
    """The attribute has this value, or is a list that holds it. Numbers are compared by value: 3 equals 3.0.

    A date or time is compared as the text that loads store.
    """
    return Filter(equals=filter_pb2.Equals(attribute=attribute, value=_value(value)))


def is_in(attribute: str, *values: Value | date) -> Filter:
    """The attribute has one of these values, or is a list that holds one of them."""
    # A word of Python's, as a field's name.
    return _named("in", filter_pb2.In(attribute=attribute, values=map(_value, values)))


def number(
    attribute: str,
    *,
    gte: float | None = None,
    gt: float | None = None,
    lte: float | None = None,
    lt: float | None = None,
) -> Filter:
    """The attribute is a number between the bounds; one at least should be given.

    Whole numbers are compared exactly. Raises ValueError for a bound that a float would round, and TypeError for one
    that is no number.
    """
    stated = {"gte": gte, "gt": gt, "lte": lte, "lt": lt}
    bounds = {name: _number(bound) for name, bound in stated.items() if bound is not None}
    whole = {name: bound for name, bound in bounds.items() if _is_int64(bound)}
    others = {name: bound for name, bound in bounds.items() if name not in whole}
    for bound in others.values():
        _check_exact(bound)
    parts = []
    if whole:
        parts.append(Filter(integer_range=filter_pb2.IntegerRange(attribute=attribute, **whole)))  # type: ignore[arg-type]
    if others or not whole:
        parts.append(Filter(range=filter_pb2.Range(attribute=attribute, **others)))
    return all_of(*parts) if len(parts) > 1 else parts[0]


def text_range(
    attribute: str,
    *,
    gte: str | date | None = None,
    gt: str | date | None = None,
    lte: str | date | None = None,
    lt: str | date | None = None,
) -> Filter:
    """The attribute is a text between the bounds; one at least should be given. Texts are compared by code points.

    Dates and times are stored as texts, so `text_range("day", gte=date(2024, 5, 1))` compares dates. A date comes
    before every time of its day.
    """
    bounds = {"gte": gte, "gt": gt, "lte": lte, "lt": lt}
    texts = {name: date_text(bound) if isinstance(bound, date) else bound for name, bound in bounds.items()}
    return Filter(text_range=filter_pb2.TextRange(attribute=attribute, **texts))


def prefix(attribute: str, beginning: str) -> Filter:
    """The attribute is a text that begins so."""
    return Filter(prefix=filter_pb2.Prefix(attribute=attribute, prefix=beginning))


def exists(attribute: str) -> Filter:
    """The image has the attribute."""
    return Filter(exists=filter_pb2.Exists(attribute=attribute))


def all_of(*filters: Filter) -> Filter:
    """All of these are true."""
    return _named("and", filter_pb2.FilterList(filters=map(_checked, filters)))


def any_of(*filters: Filter) -> Filter:
    """At least one of these is true."""
    return _named("or", filter_pb2.FilterList(filters=map(_checked, filters)))


def negated(condition: Filter) -> Filter:
    """This is not true."""
    return _named("not", _checked(condition))


def parse(text: str) -> Filter:
    """The filter that a text such as `price<100` says; see `SYNTAX`. Raises ValueError, which says what would do."""
    found = CONDITION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no condition; {SYNTAX}")
    negation, attribute, operator, value, several = found.groups()
    condition = _condition(attribute, operator, value, several, text)
    return negated(condition) if negation else condition


SYNTAX = (
    'NAME=VALUE, NAME!=VALUE, NAME<BOUND (also <=, >, >=), NAME^=BEGINNING, "NAME in A,B,C", NAME (has it) are, each '
    'with ! before it for its opposite; VALUE is a number, true, false, or a text, which "quotes" make of anything; '
    'BOUND is a number, a date such as 2024-05-01, or a text in "quotes"'
)


def _condition(attribute: str, operator: str | None, value: str | None, several: str | None, text: str) -> Filter:
    parts = split_values(several) if several is not None else [value or ""]
    if any(not QUOTED.fullmatch(part) and part.strip().startswith(SLIPS) for part in parts) or several == "":
        raise ValueError(f"{text!r} is no condition; {SYNTAX}")
    if several is not None:
        return is_in(attribute, *(stated for part in parts for stated in _stated(part)))
    if operator is None or value is None:
        return exists(attribute)
    if operator in BOUNDS:
        return _bounded(attribute, BOUNDS[operator], value, text)
    if operator == "^=":
        return prefix(attribute, unquoted(value))
    first, *others = _stated(value)
    condition = is_in(attribute, first, *others) if others else equals(attribute, first)
    return negated(condition) if operator == "!=" else condition


def _stated(text: str) -> Sequence[Value]:
    """The values that a text may mean: a time as it is written, and also as loads store it."""
    value = read_value(text)
    if isinstance(value, str) and not QUOTED.fullmatch(text) and is_date(value) and read_date(value) != value:
        return value, read_date(value)
    return (value,)


def _bounded(attribute: str, name: str, value: str, text: str) -> Filter:
    bound = read_value(value)
    if isinstance(bound, str) and QUOTED.fullmatch(value):
        return text_range(attribute, **{name: bound})
    if isinstance(bound, str) and is_date(bound):
        return text_range(attribute, **{name: read_date(bound)})
    if isinstance(bound, str | bool):
        raise ValueError(f"{text!r} compares with {value.strip()!r}, which is no number and no date; {SYNTAX}")  # noqa: TRY004 - a wrong text
    return number(attribute, **{name: bound})


def split_values(text: str) -> list[str]:
    """The parts of a text that commas separate, save those between quotes, which the parts keep."""
    parts: list[str] = []
    position, separator = 0, ","
    while separator:
        found = PART.match(text, position)
        assert found is not None  # noqa: S101 - the last alternative takes anything
        part, separator = found.groups()
        parts.append(part)
        position = found.end()
    return parts


def unquoted(text: str) -> str:
    """The text without the quotes and the spaces around it."""
    quoted = QUOTED.fullmatch(text)
    return quoted[2] if quoted else text.strip()


def read_value(text: str) -> Value:
    """The value that a text says: a whole number, a number, true, false, or else the text, less its quotes.

    Raises ValueError for a number that a float would turn into another one.
    """
    if QUOTED.fullmatch(text):
        return unquoted(text)
    text = text.strip()
    if text in ("true", "false"):
        return text == "true"
    if INTEGER.fullmatch(text):
        return int(text)
    return _read_number(text) if NUMBER.fullmatch(text) else text


def _read_number(text: str) -> Value:
    """Return the number that a text with a point or an exponent says. Raises ValueError if a float would mislead.

    A whole number of 64 bits stays whole, as `9007199254740993.0`. A fraction must not become a whole number by
    rounding: it would be found, or passed over, as that one.
    """
    exact, rounded = Decimal(text), float(text)
    if math.isinf(rounded):
        raise ValueError(f'{text} is too large for a number; a text of these digits is between quotes: "{text}"')
    if _is_whole(exact) and _is_int64(int(exact)):
        return int(exact) if int(exact) != int(rounded) else rounded
    if rounded.is_integer() and not _is_whole(exact):
        raise ValueError(_rounded(text))
    return rounded


def _is_whole(number: Decimal) -> bool:
    return number == number.to_integral_value()


def _value(value: Any) -> filter_pb2.FilterValue:
    if isinstance(value, bool):
        return filter_pb2.FilterValue(bool_value=value)
    if isinstance(value, str):
        return filter_pb2.FilterValue(string_value=value)
    if isinstance(value, date):
        return filter_pb2.FilterValue(string_value=date_text(value))
    if isinstance(value, numbers.Real | Decimal):
        number = _number(value)
        if isinstance(number, int) and _is_int64(number):
            return filter_pb2.FilterValue(integer_value=number)
        _check_exact(number)
        return filter_pb2.FilterValue(number_value=number)
    raise TypeError(
        f"a value is a text, a number, True or False, and no {type(value).__name__}; several are is_in('size', 41, 42)"
    )


def _number(value: Any) -> int | float:
    """Return a number of numpy, decimal and so on as one of Python that is equal to it. A bool is no number."""
    # A decimal is no Real, because it is not computed with floats.
    if isinstance(value, bool) or not isinstance(value, numbers.Real | Decimal):
        raise TypeError(f"a bound is a number, and no {type(value).__name__}")
    if isinstance(value, numbers.Integral):
        return int(value)
    number = float(value)
    if number != value and not math.isnan(number):
        raise ValueError(_rounded(str(value)))
    return number


def _is_int64(value: object) -> bool:
    """Return whether a value is a whole number that the contract holds exactly; a bool is no number."""
    return isinstance(value, int) and not isinstance(value, bool) and -MAX_INTEGER <= value < MAX_INTEGER


def _check_exact(number: float | None) -> None:
    """Raises ValueError for a whole number that a float would round: the filter would be of another number."""
    try:
        is_exact = not isinstance(number, int) or int(float(number)) == number
    except OverflowError:
        is_exact = False
    if not is_exact:
        raise ValueError(_rounded(str(number)))


def _rounded(number: str) -> str:
    return f'{number} would be rounded here; a text of these digits is between quotes: "{number}"'


def _checked(condition: Filter) -> Filter:
    if not isinstance(condition, Filter):
        raise TypeError(
            f"a filter is made by equals, number and so on, and no {type(condition).__name__}; several are "
            "any_of(one, other)"
        )
    return condition


def _named(field: str, message: Any) -> Filter:
    return Filter(**{field: message})
