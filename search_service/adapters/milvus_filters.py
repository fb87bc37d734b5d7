"""Filters as Milvus expressions. The only place where a caller's text becomes part of one, each time as a literal.

Milvus Lite and a Milvus server get the cheapest form that each of them answers rightly; both leave out chained ranges
and `like` (whose "_" is a wildcard on one of them only). An attribute is looked up by the key of its type (see
`typed_key`), so that the backends' ways to compare a number with a bool or a text never matter. Whole numbers are
compared as whole numbers: a server compares as doubles if one side is a float.
"""

import asyncio
import json
import math
from collections.abc import Sequence

from search_service.adapters.milvus_rows import LIST, as_whole, micros_of, typed_key
from search_service.core.filters import (
    And,
    Equals,
    Exists,
    Filter,
    FilterValue,
    IdAfter,
    IdIn,
    In,
    Not,
    OnAttribute,
    Or,
    Prefix,
    Range,
    TextRange,
    UpdatedWithin,
    leaves_of,
    size_of,
)

# Milvus Lite refuses other escapes, and a line end within a text.
ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
LAST_CHARACTER = 0x10FFFF
SURROGATES = range(0xD800, 0xE000)
# A server's parser refuses this one whole number, and takes the next one, and this one as a float.
LOWEST, NEXT_LOWEST, LOWEST_FLOAT = -(2**63), -(2**63) + 1, -(2.0**63)
# The highest whole number of 64 bits, and the first float beyond them: the highest 512 are rounded to it.
HIGHEST, FIRST_FLOAT = 2**63 - 1, 2.0**63
EXACT_IN_DOUBLES = 2**53
# Milvus Lite, measured on two cores: seconds to read a row, seconds for a test of an attribute, and the part of such a
# test that a listed value costs.
LITE_ROW_SECONDS, LITE_TEST_SECONDS, LITE_LISTED = 40e-6, 4e-6, 0.06
# Conditions and values of a filter that is written on the event loop: that takes less than a millisecond.
WRITTEN_AT_ONCE = 256


class Expressions:
    """Writes filters as expressions for one kind of Milvus."""

    def __init__(self, *, is_lite: bool) -> None:
        """For Milvus Lite or for a server."""
        self._is_lite = is_lite

    async def of(self, condition: Filter | None) -> str:
        """Return the expression that is true for the images that fit; empty for all.

        A large one is written in a thread.
        """
        if condition is None or size_of(condition) <= WRITTEN_AT_ONCE:
            return self.write(condition)
        return await asyncio.to_thread(self.write, condition)

    def write(self, condition: Filter | None) -> str:
        """As `of`, at once."""
        return "" if condition is None else self._expression(condition, negated=False)

    def _expression(self, condition: Filter, *, negated: bool) -> str:
        match condition:
            case Not(inner):
                return self._expression(inner, negated=not negated)
            case And(filters) | Or(filters):
                # If the whole is negated, each part is, and "and" becomes "or" (De Morgan).
                by_and = isinstance(condition, And) is not negated
                parts = [self._expression(part, negated=negated) for part in filters]
                return _joined("and" if by_and else "or", parts)
            case IdAfter() | IdIn() | UpdatedWithin():
                return _on_field(condition, negated=negated)
        tests = self._tests(condition)
        if not negated:
            return _joined("or", [f"({test})" for _, test in tests])
        # What `not` says of a key that is missing differs between the backends.
        return _joined("and", [f"((not (exists {key})) or (not ({test})))" for key, test in tests])

    def _tests(self, condition: OnAttribute) -> list[tuple[str, str]]:
        """Return tests of which one has to be true, each after the one key that it looks at."""
        match condition:
            case Equals(attribute, value):
                return self._in(attribute, [value])
            case In(attribute, values):
                return self._in(attribute, values)
            case Range():
                return [_range(condition, is_lite=self._is_lite)]
            case TextRange():
                return [_text_range(condition)]
            case Prefix(attribute, prefix):
                key = _key(attribute, str)
                end = following(prefix)
                below = f" and {key} < {literal(end)}" if end else ""
                return [(key, f"{key} >= {literal(prefix)}{below}")]
            case Exists(attribute):
                return [(key, f"exists {key}") for key in (_key(attribute, kind) for kind in (str, bool, float, LIST))]

    def _in(self, attribute: str, values: Sequence[FilterValue]) -> list[tuple[str, str]]:
        """Return tests for one of several values."""
        texts = sorted({value for value in values if isinstance(value, str)})
        # To Python True is 1.
        bools = sorted({value for value in values if isinstance(value, bool)})
        numbers = {as_whole(value) for value in values if not isinstance(value, str | bool)}
        tests = [(key := _key(attribute, bool), f"{key} == {literal(value)}") for value in bools]
        if texts:
            key = _key(attribute, str)
            tests += [(key, test) for test in self._one_of(key, texts)]
            key = _key(attribute, LIST)
            tests.append((key, _holds_one_of(key, texts)))
        if numbers:
            key = _key(attribute, float)
            tests += [(key, test) for test in self._one_of(key, sorted(numbers))]
        return tests

    def _one_of(self, key: str, values: Sequence[str] | Sequence[int | float]) -> list[str]:
        """Return tests of which one is true if the key has one of some ordered values of one kind."""
        if self._is_lite:
            return [
                f"{key} == {literal(values[0])}" if len(values) == 1 else f"(exists {key}) and {_tree(key, values)}"
            ]
        tests = []
        if LOWEST in values:
            tests.append(f"{key} < {NEXT_LOWEST} and {key} >= {literal(LOWEST_FLOAT)}")
        if FIRST_FLOAT in values:
            tests.append(_is_first_float(key))
        for kind in (str, int, float):
            # A list of one type: a server takes no others.
            some = [value for value in values if type(value) is kind and value not in (LOWEST, FIRST_FLOAT)]
            if len(some) == 1 and not _is_large(some[0]):
                tests.append(f"{key} == {literal(some[0])}")
            elif some:
                tests.append(f"{key} in [{_literals(some)}]")
        return tests


def seconds_on_lite(condition: Filter, rows: int) -> float:
    """Return about how long Milvus Lite takes for a filter: it reads a row, and its attributes again for each test."""
    tests = sum(_tests_on_lite(part) for part in leaves_of(condition))
    return rows * (LITE_ROW_SECONDS + tests * LITE_TEST_SECONDS)


def _tests_on_lite(part: Filter) -> float:
    match part:
        case In(_, values):
            # A search tree over them, and each text again for a row that has a list.
            return 2 + 1.5 * math.log2(len(values)) + len(values) * LITE_LISTED
        case Exists():
            return 4
    return 2


def ids_expression(ids: Sequence[str]) -> str:
    """The Milvus expression that is true for these ids."""
    return f"id in [{_literals(ids)}]"


def literal(value: FilterValue) -> str:
    """A value as it stands in an expression."""
    if isinstance(value, str):
        return f'"{value.translate(ESCAPES)}"'
    return json.dumps(value)


def _literals(values: Sequence[FilterValue]) -> str:
    return ", ".join(map(literal, values))


def _is_large(value: FilterValue) -> bool:
    """Return whether a server's == would take it for its neighbours, which its `in` does not."""
    return isinstance(value, int) and abs(value) >= EXACT_IN_DOUBLES


def _tree(key: str, values: Sequence[FilterValue]) -> str:
    """Return a search tree over ordered values: Milvus Lite compares a row with a few of them instead of with each."""
    if len(values) == 1:
        return f"({key} == {literal(values[0])})"
    middle = len(values) // 2
    lower, upper, between = _tree(key, values[:middle]), _tree(key, values[middle:]), literal(values[middle])
    return f"((({key} < {between}) and {lower}) or (({key} >= {between}) and {upper}))"


def _holds_one_of(key: str, texts: Sequence[str]) -> str:
    if len(texts) == 1:
        return f"json_contains({key}, {literal(texts[0])})"
    return f"json_contains_any({key}, [{_literals(texts)}])"


def _on_field(condition: IdAfter | IdIn | UpdatedWithin, *, negated: bool) -> str:
    if isinstance(condition, IdAfter):
        test = f"id > {literal(condition.id)}"
    elif isinstance(condition, IdIn):
        test = ids_expression(condition.ids)
    else:
        test = f"update_time >= {micros_of(condition.begin)} and update_time <= {micros_of(condition.end)}"
    return f"(not ({test}))" if negated else f"({test})"


def _joined(operator: str, parts: Sequence[str]) -> str:
    """Halves of halves: Milvus Lite reads a chain with one level of recursion for each of its parts."""
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return f"({_joined(operator, parts[:middle])} {operator} {_joined(operator, parts[middle:])})"


def _range(condition: Range, *, is_lite: bool) -> tuple[str, str]:
    key = _key(condition.attribute, float)
    bounds = ((">=", condition.gte), (">", condition.gt), ("<=", condition.lte), ("<", condition.lt))
    write = _bound if is_lite else _bound_on_server
    stated = [write(key, operator, as_whole(bound)) for operator, bound in bounds if bound is not None]
    return key, " and ".join(stated)


def _text_range(condition: TextRange) -> tuple[str, str]:
    key = _key(condition.attribute, str)
    bounds = ((">=", condition.gte), (">", condition.gt), ("<=", condition.lte), ("<", condition.lt))
    return key, " and ".join(f"{key} {operator} {literal(bound)}" for operator, bound in bounds if bound is not None)


def _bound_on_server(key: str, operator: str, bound: float) -> str:
    """Return the test of a bound. A server rounds some bounds to FIRST_FLOAT; they need another test."""
    if float(bound) == FIRST_FLOAT:
        is_first = _is_first_float(key)
        match operator, bound:
            case (">", int()) | (">=", float()):
                return f"({key} > {literal(bound)} or ({is_first}))"
            case ("<=", int()) | ("<", float()):
                return f"({key} <= {literal(min(bound, HIGHEST))} and not ({is_first}))"
    return _bound(key, operator, bound)


def _is_first_float(key: str) -> str:
    """Return a test that is true only for a stored 2.0^63.

    A server compares it with whole numbers as doubles, so that it equals both of these; no whole number is both.
    """
    return f"{key} >= {HIGHEST} and {key} <= {HIGHEST - 1}"


def _bound(key: str, operator: str, bound: float) -> str:
    if bound != LOWEST:
        return f"{key} {operator} {literal(bound)}"
    match operator:
        case ">":
            return f"{key} >= {NEXT_LOWEST}"
        case "<=":
            return f"{key} < {NEXT_LOWEST}"
        case _:
            return f"{key} {operator} {literal(LOWEST_FLOAT)}"


def _key(attribute: str, kind: type) -> str:
    return f"attributes[{literal(typed_key(attribute, kind))}]"


def following(prefix: str) -> str:
    """The first text, by code points, after all those that begin with `prefix`; empty where there is none."""
    for position in range(len(prefix) - 1, -1, -1):
        point = ord(prefix[position]) + 1
        if point in SURROGATES:
            point = SURROGATES.stop
        if point <= LAST_CHARACTER:
            return prefix[:position] + chr(point)
    return ""
