"""Filters: conditions on the attributes of images. Functions that nest, and a parser for the strings of `--where`.

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
# One of several values, and the comma after it. A comma in quotes belongs to the value.
PART = re.compile(r"""(\s*"[^"]*"\s*|\s*'[^']*'\s*|[^,]*)(,|$)""", re.DOTALL)
# No value begins with these unless it is in quotes: as a value they would be a mistake that matches no image.
MISTAKES = ("=", "<", ">", "(", "[", '"', "'")
INTEGER = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
MAX_INTEGER = 2**63


def equals(attribute: str, value: Value | date) -> Filter:
    """Return a filter for images whose attribute has this value, or is a list with this value.

    Numbers are compared by value: 3 equals 3.0. A date or time is compared as the string that loads store.
    """
    return Filter(equals=filter_pb2.Equals(attribute=attribute, value=_value(value)))


def is_in(attribute: str, *values: Value | date) -> Filter:
    """Return a filter for images whose attribute has one of these values, or is a list with one of them."""
    return _named("in", filter_pb2.In(attribute=attribute, values=map(_value, values)))


def number(
    attribute: str,
    *,
    gte: float | None = None,
    gt: float | None = None,
    lte: float | None = None,
    lt: float | None = None,
) -> Filter:
    """Return a filter for images whose attribute is a number between the bounds. State at least one bound.

    Whole numbers are compared exactly. Raises ValueError for a bound that a float would round, and TypeError for a
    bound that is not a number.
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
    """Return a filter for images whose attribute is a string between the bounds. State at least one bound.

    Strings are compared by code points. Dates and times are stored as strings, so
    `text_range("day", gte=date(2024, 5, 1))` compares dates. A date comes before every time of its day.
    """
    bounds = {"gte": gte, "gt": gt, "lte": lte, "lt": lt}
    texts = {name: date_text(bound) if isinstance(bound, date) else bound for name, bound in bounds.items()}
    return Filter(text_range=filter_pb2.TextRange(attribute=attribute, **texts))


def prefix(attribute: str, beginning: str) -> Filter:
    """Return a filter for images whose attribute is a string with this beginning."""
    return Filter(prefix=filter_pb2.Prefix(attribute=attribute, prefix=beginning))


def exists(attribute: str) -> Filter:
    """Return a filter for images that have the attribute."""
    return Filter(exists=filter_pb2.Exists(attribute=attribute))


def all_of(*filters: Filter) -> Filter:
    """Return a filter for images that match all of these filters."""
    return _named("and", filter_pb2.FilterList(filters=map(_checked, filters)))


def any_of(*filters: Filter) -> Filter:
    """Return a filter for images that match at least one of these filters."""
    return _named("or", filter_pb2.FilterList(filters=map(_checked, filters)))


def negated(condition: Filter) -> Filter:
    """Return a filter for images that do not match this filter."""
    return _named("not", _checked(condition))


def parse(text: str) -> Filter:
    """Return the filter of a string such as `price<100`; see `SYNTAX`. Raises ValueError, which shows the syntax."""
    found = CONDITION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a condition: {SYNTAX}")
    negation, attribute, operator, value, several = found.groups()
    condition = _condition(attribute, operator, value, several, text)
    return negated(condition) if negation else condition


SYNTAX = (
    'write NAME=VALUE, NAME!=VALUE, NAME<BOUND (or <=, >, >=), NAME^=BEGINNING, "NAME in A,B,C", or NAME for images '
    'that have the attribute; ! at the beginning negates. VALUE is a number, true, false or a string; "quotes" make a '
    'string of any VALUE. BOUND is a number, a date such as 2024-05-01, or a string in "quotes"'
)


def _condition(attribute: str, operator: str | None, value: str | None, several: str | None, text: str) -> Filter:
    parts = split_values(several) if several is not None else [value or ""]
    if any(not QUOTED.fullmatch(part) and part.strip().startswith(MISTAKES) for part in parts) or several == "":
        raise ValueError(f"{text!r} is not a condition: {SYNTAX}")
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
    """Return the values that a string can mean: a time as it is written, and as loads store it."""
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
        raise ValueError(f"{text!r} has the bound {value.strip()!r}, which is not a number or a date: {SYNTAX}")  # noqa: TRY004 - the caller passed a string
    return number(attribute, **{name: bound})


def split_values(text: str) -> list[str]:
    """Return the parts between the commas of a string. Quotes stay, and commas in quotes do not separate."""
    parts: list[str] = []
    position, separator = 0, ","
    while separator:
        found = PART.match(text, position)
        assert found is not None  # noqa: S101 - the last alternative of the pattern matches everything
        part, separator = found.groups()
        parts.append(part)
        position = found.end()
    return parts


def unquoted(text: str) -> str:
    """Return a string without the quotes and spaces around it."""
    quoted = QUOTED.fullmatch(text)
    return quoted[2] if quoted else text.strip()


def read_value(text: str) -> Value:
    """Return the value of a string: a whole number, a number, a truth value, or else the string without its quotes.

    Raises ValueError for a number that a float would round.
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
    """Return the number of a string with a point or an exponent. Raises ValueError if a float would mislead.

    A whole number of 64 bits stays whole, as `9007199254740993.0`. A fraction must not be rounded to a whole number,
    because it would then match images with that number.
    """
    exact, rounded = Decimal(text), float(text)
    if math.isinf(rounded):
        raise ValueError(f'{text} is too large for a number; to compare with a string, write it in quotes: "{text}"')
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
        f"a value is a string, a number, True or False, and no {type(value).__name__}; "
        "to compare with several values, use is_in('size', 41, 42)"
    )


def _number(value: Any) -> int | float:
    """Return a number of NumPy, decimal and so on as an equal number of Python. Raises TypeError, ValueError."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real | Decimal):
        raise TypeError(f"a bound is a number, and no {type(value).__name__}")
    if isinstance(value, numbers.Integral):
        return int(value)
    number = float(value)
    if number != value and not math.isnan(number):
        raise ValueError(_rounded(str(value)))
    return number


def _is_int64(value: object) -> bool:
    """Return whether a value is a whole number of 64 bits; a bool is not a number."""
    return isinstance(value, int) and not isinstance(value, bool) and -MAX_INTEGER <= value < MAX_INTEGER


def _check_exact(number: float | None) -> None:
    """Check that a float does not round a number. Raises ValueError."""
    try:
        is_exact = not isinstance(number, int) or int(float(number)) == number
    except OverflowError:
        is_exact = False
    if not is_exact:
        raise ValueError(_rounded(str(number)))


def _rounded(number: str) -> str:
    return f'{number} would be rounded; to compare with a string, write it in quotes: "{number}"'


def _checked(condition: Filter) -> Filter:
    if not isinstance(condition, Filter):
        raise TypeError(
            f"a filter is the result of equals, number and so on, and no {type(condition).__name__}; "
            "to combine filters, use any_of(one, other)"
        )
    return condition


def _named(field: str, message: Any) -> Filter:
    """Return a filter with one field, whose name may be a keyword of Python."""
    return Filter(**{field: message})
