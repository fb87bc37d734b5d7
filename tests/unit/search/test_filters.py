"""Errors of invalid filters, and the conversion of filter messages and literals."""

import pytest
from imagesearch.search.v1 import filter_pb2

from grpc_kit.errors import InvalidArgumentError
from search_service.adapters.milvus_filters import Expressions, following, literal
from search_service.api.filter_converters import filter_from
from search_service.core.filters import (
    And,
    Equals,
    Exists,
    Filter,
    In,
    Not,
    Or,
    Prefix,
    Range,
    TextRange,
    check_filter,
)


@pytest.mark.parametrize(
    ("condition", "field", "said"),
    [
        (Equals("1x", 1), "filter.equals.attribute", "letter"),
        (Equals("x", float("nan")), "filter.equals.value", "finite"),
        (Equals("x", "v" * 4097), "filter.equals.value", "4096"),
        (In("x", ()), "filter.in.values", "between 1 and 1000"),
        (In("x", ("v",) * 1001), "filter.in.values", "between 1 and 1000"),
        (In("x", ("v", float("inf"))), "filter.in.values[1]", "finite"),
        (Range("x"), "filter.range", "gte"),
        (Range("x", gt=1, gte=1), "filter.range", "both gte and gt"),
        (Range("x", lt=1, lte=1), "filter.range", "both lte and lt"),
        (Range("x", lt=float("nan")), "filter.range.lt", "finite"),
        (TextRange("x"), "filter.text_range", "gte"),
        (TextRange("1x", lt="a"), "filter.text_range.attribute", "letter"),
        (TextRange("x", lt="a", lte="b"), "filter.text_range", "both lte and lt"),
        (TextRange("x", gt="v" * 4097), "filter.text_range.gt", "4096"),
        (Prefix("x", ""), "filter.prefix.prefix", "empty"),
        (Exists(""), "filter.exists.attribute", "letter"),
        (And(()), "filter.and.filters", "empty"),
        (Or((Exists("x"), And((Not(Or(())),)))), "filter.or.filters[1].and.filters[0].not.or.filters", "empty"),
        (Or((Exists("x"),) * 256), "filter", "256"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_invalid_filter_is_rejected_with_the_path_of_the_part(condition: Filter, field: str, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said) as refused:
        check_filter(condition)
    assert (refused.value.reason, refused.value.field) == ("FILTER_INVALID", field)


def nested(depth: int) -> filter_pb2.Filter:
    inner = filter_pb2.Filter(exists=filter_pb2.Exists(attribute="x"))
    for _ in range(depth - 1):
        inner = filter_pb2.Filter(**{"not": inner})  # type: ignore[arg-type]
    return inner


def test_filter_may_be_nested_sixteen_levels_deep() -> None:
    check_filter(filter_from(nested(16)))
    for depth in (17, 90):
        with pytest.raises(InvalidArgumentError, match="16") as refused:
            check_filter(filter_from(nested(depth)))
        assert refused.value.reason == "FILTER_INVALID"


def test_filter_messages_are_converted() -> None:
    message = filter_pb2.Filter()
    both = getattr(message, "and").filters
    both.add(equals=filter_pb2.Equals(attribute="s", value=filter_pb2.FilterValue(string_value="v")))
    both.add(equals=filter_pb2.Equals(attribute="n", value=filter_pb2.FilterValue(number_value=2)))
    both.add(equals=filter_pb2.Equals(attribute="b", value=filter_pb2.FilterValue(bool_value=False)))
    both.add(equals=filter_pb2.Equals(attribute="i", value=filter_pb2.FilterValue(integer_value=2**53 + 1)))
    both.add(range=filter_pb2.Range(attribute="r", gte=0, lt=5))
    both.add(text_range=filter_pb2.TextRange(attribute="t", gte="", lt="b"))
    both.add(prefix=filter_pb2.Prefix(attribute="p", prefix="x"))
    in_message = both.add()
    getattr(in_message, "in").attribute = "l"
    getattr(in_message, "in").values.add(string_value="a")
    assert filter_from(message) == And(
        (
            Equals("s", "v"),
            Equals("n", 2.0),
            Equals("b", False),
            Equals("i", 2**53 + 1),
            Range("r", gte=0.0, lt=5.0),
            TextRange("t", gte="", lt="b"),
            Prefix("p", "x"),
            In("l", ("a",)),
        )
    )


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (filter_pb2.Filter(), "filter"),
        (filter_pb2.Filter(equals=filter_pb2.Equals(attribute="x")), "filter.equals.value"),
        (filter_pb2.Filter(**{"not": filter_pb2.Filter()}), "filter.not"),  # type: ignore[arg-type]
    ],
    ids=["nothing", "no value", "nothing inside"],
)
def test_incomplete_filter_message_is_rejected(message: filter_pb2.Filter, field: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        filter_from(message)
    assert (refused.value.reason, refused.value.field) == ("FILTER_INVALID", field)


def test_literals_are_escaped() -> None:
    assert literal('" or id != "') == '"\\" or id != \\""'
    assert literal("a\\") == '"a\\\\"'
    assert literal("a\nb\rc") == '"a\\nb\\rc"'
    assert Expressions(is_lite=True).write(Equals("x", '"')) == (
        '((attributes["s_x"] == "\\"") or (json_contains(attributes["l_x"], "\\"")))'
    )


@pytest.mark.parametrize(
    ("prefix", "after"),
    [("ab", "ac"), ("a\U0010ffff", "b"), ("\U0010ffff", ""), ("\ud7ff", "\ue000"), ("Z", "["), ("é", "ê")],
)
def test_prefix_range_ends_at_the_next_text(prefix: str, after: str) -> None:
    assert following(prefix) == after
