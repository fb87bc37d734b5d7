"""Filters: the functions, and the parser of the strings of --where."""

from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from imagesearch_client.filters import (
    Filter,
    all_of,
    any_of,
    equals,
    exists,
    is_in,
    negated,
    number,
    parse,
    prefix,
    text_range,
)


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("category=shoe", equals("category", "shoe")),
        (" category = red shoe ", equals("category", "red shoe")),
        ("size=42", equals("size", 42)),
        ("size=42.5", equals("size", 42.5)),
        ("size=-1e3", equals("size", -1000.0)),
        ('size="42"', equals("size", "42")),
        ('name=" a ="', equals("name", " a =")),
        ("sold=true", equals("sold", True)),
        ('sold="true"', equals("sold", "true")),
        ("kind='a drink'", equals("kind", "a drink")),
        ('kind="=5"', equals("kind", "=5")),
        ("size in 'a','b'", is_in("size", "a", "b")),
        ("name=", equals("name", "")),
        ("id=9223372036854775807", equals("id", 2**63 - 1)),
        ("id=9223372036854775808", equals("id", 2.0**63)),
        ("id=9007199254740993.0", equals("id", 2**53 + 1)),
        ("n>=9.007199254740993e15", number("n", gte=2**53 + 1)),
        ("n in 9007199254740993.0,2.0", is_in("n", 2**53 + 1, 2.0)),
        ("n<1e23", number("n", lt=1e23)),
        ("category!=shoe", negated(equals("category", "shoe"))),
        ("price<100", number("price", lt=100)),
        ("price <= 99.5", number("price", lte=99.5)),
        ("price>1", number("price", gt=1)),
        ("price>=-1", number("price", gte=-1)),
        ("day>=2024-05-01", text_range("day", gte="2024-05-01")),
        ("day < 2024-05-01", text_range("day", lt=date(2024, 5, 1))),
        ("taken<=2024-05-01T10:00:00+02:00", text_range("taken", lte="2024-05-01T08:00:00+00:00")),
        ("taken>2024-05-01 10:00", text_range("taken", gt=datetime(2024, 5, 1, 10))),  # noqa: DTZ001 - as it is written
        ("taken=2024-05-01T10:00+02:00", is_in("taken", "2024-05-01T10:00+02:00", "2024-05-01T08:00:00+00:00")),
        ("taken!=2024-05-01 10:00", negated(is_in("taken", "2024-05-01 10:00", "2024-05-01T10:00:00"))),
        ("day in 2024-05-01,2024-05-02 10:00", is_in("day", "2024-05-01", "2024-05-02 10:00", "2024-05-02T10:00:00")),
        ('taken="2024-05-01 10:00"', equals("taken", "2024-05-01 10:00")),
        ("day=2024-05-01", equals("day", "2024-05-01")),
        ('name>="m"', text_range("name", gte="m")),
        ("name<'2'", text_range("name", lt="2")),
        ("name^=re d", prefix("name", "re d")),
        ("name^=42", prefix("name", "42")),
        ("size in 41, 42.5,xl", is_in("size", 41, 42.5, "xl")),
        ('kind in "Apple, green",Milk,"7"', is_in("kind", "Apple, green", "Milk", "7")),
        ("sale", exists("sale")),
        ("!sale", negated(exists("sale"))),
        ("! price<1", negated(number("price", lt=1))),
        ("index=1", equals("index", 1)),
        ("a=b=c", equals("a", "b=c")),
    ],
)
def test_parse_returns_the_filter_of_a_string(text: str, condition: Filter) -> None:
    assert parse(text) == condition


# As values these would match no image, and with ! every image.
MISTAKES = [
    "price==5",
    "!price==5",
    "price=<5",
    "price=>5",
    'kind="drink',
    "kind!='drink",
    "kind in (drink,text)",
    "kind in [drink]",
    "kind in",
    "kind in a,=b",
    'kind in "a,b',
    "name^==a",
]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        "1x=2",
        "a b",
        "price<cheap",
        "price<",
        "price<true",
        "day>2024-02-30",
        "day>2024-5-1",
        "a-b=1",
        "é=1",
        *MISTAKES,
    ],
)
def test_parse_rejects_other_strings_and_shows_the_syntax(text: str) -> None:
    with pytest.raises(ValueError, match="NAME=VALUE"):
        parse(text)


def test_filters_nest() -> None:
    condition = any_of(all_of(equals("a", 1), negated(exists("b"))), is_in("c", "x", "y"))
    inner = getattr(getattr(condition, "or").filters[0], "and").filters
    assert inner[0].equals.value.integer_value == 1
    assert getattr(inner[1], "not").exists.attribute == "b"
    assert [value.string_value for value in getattr(getattr(condition, "or").filters[1], "in").values] == ["x", "y"]


@pytest.mark.parametrize(
    "text",
    [
        "price<9223372036854775809",
        "price>=-9223372036854775809",
        "ean=12345678901234567891",
        "n in 1,9223372036854775809",
        "n>=9007199254740992.5",
        "n<4503599627370497.75",
        "n>0.99999999999999999999",
        "n<1e-400",
        "n=9007199254740992.5",
    ],
)
def test_parse_rejects_numbers_that_a_float_would_round(text: str) -> None:
    with pytest.raises(ValueError, match="would be rounded;"):
        parse(text)


def test_parse_rejects_numbers_larger_than_any_float() -> None:
    with pytest.raises(ValueError, match="1e400 is too large"):
        parse("n<=1e400")


def test_filters_accept_numbers_of_other_libraries_and_never_round_them() -> None:
    equal: list[tuple[Any, float]] = [
        (np.int64(2**53 + 1), 2**53 + 1),
        (Decimal(2**53), 2.0**53),
        (np.float32(0.1), float(np.float32(0.1))),
    ]
    for bound, same in equal:
        assert number("n", gte=bound) == number("n", gte=same)
        assert equals("n", bound) == equals("n", same)
    assert is_in("day", date(2024, 5, 1)) == is_in("day", "2024-05-01")
    rounded: list[Any] = [Decimal(2**53 + 1), Decimal("0.1"), Fraction(1, 3), np.uint64(2**63 + 1)]
    for bound in rounded:
        with pytest.raises(ValueError, match="would be rounded;"):
            number("n", gte=bound)
        with pytest.raises(ValueError, match="would be rounded;"):
            equals("n", bound)
    no_numbers: list[Any] = [True, np.True_, "3"]
    for bound in no_numbers:
        with pytest.raises(TypeError, match="a bound is a number, and no"):
            number("n", gte=bound)


def test_filters_keep_whole_numbers_of_64_bits_exact() -> None:
    assert equals("n", 2**53 + 1).equals.value.integer_value == 2**53 + 1
    assert parse("n>=9007199254740993").integer_range.gte == 2**53 + 1
    assert number("n", gt=2**53 + 1, lt=2**63 - 1).integer_range.lt == 2**63 - 1
    assert number("n", gt=-(2**63)).integer_range.gt == -(2**63)
    assert number("n", lt=2.0**60).range.lt == 2.0**60
    mixed = getattr(number("n", gte=2**53 + 1, lt=1e17), "and").filters
    assert (mixed[0].integer_range.gte, mixed[1].range.lt) == (2**53 + 1, 1e17)
    assert parse("n<=1e300") == number("n", lte=1e300)
    assert parse('ean="12345678901234567891"') == equals("ean", "12345678901234567891")
    for bound in (2**63 + 1, 10**400):
        with pytest.raises(ValueError, match="would be rounded;"):
            number("n", gte=bound)
