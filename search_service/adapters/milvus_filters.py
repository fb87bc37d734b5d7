"""Write filters as Milvus expressions. Texts of callers become literals here and nowhere else.

Milvus Lite and a Milvus server get different forms: the fastest form that each answers correctly. Neither form uses
chained ranges, nor `like`, because "_" is a wildcard on one backend only. Each type of attribute has its own key (see
`typed_key`), because backends compare values of two types differently. Integers are compared with integers: a server
compares as doubles if one side is a float.
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
    bounds_of,
    leaves_of,
    size_of,
)

# Milvus Lite refuses other escapes, and a line break inside a text.
ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
LAST_CHARACTER = 0x10FFFF
OPERATORS = {"gte": ">=", "gt": ">", "lte": "<=", "lt": "<"}
SURROGATES = range(0xD800, 0xE000)
# The parser of a server refuses the lowest integer. It accepts the next one, and the lowest one as a float.
LOWEST, NEXT_LOWEST, LOWEST_FLOAT = -(2**63), -(2**63) + 1, -(2.0**63)
# The highest 64-bit integer, and the first float above all 64-bit integers, to which the highest 512 are rounded.
HIGHEST, FIRST_FLOAT = 2**63 - 1, 2.0**63
EXACT_IN_DOUBLES = 2**53
# Times of Milvus Lite, measured on two cores: seconds to read a row, seconds to test an attribute, and the share of
# such a test for each listed value.
LITE_ROW_SECONDS, LITE_TEST_SECONDS, LITE_LISTED = 40e-6, 4e-6, 0.06
# Filters of up to this size are written on the event loop, in less than a millisecond.
WRITTEN_AT_ONCE = 256


class Expressions:
    """Write filters as expressions for one backend."""

    def __init__(self, *, is_lite: bool) -> None:
        """Write for Milvus Lite, or for a server."""
        self._is_lite = is_lite

    async def of(self, condition: Filter | None) -> str:
        """Return a filter as an expression, empty for no filter. A large filter is written in a thread."""
        if condition is None or size_of(condition) <= WRITTEN_AT_ONCE:
            return self.write(condition)
        return await asyncio.to_thread(self.write, condition)

    def write(self, condition: Filter | None) -> str:
        """Return a filter as an expression, empty for no filter."""
        return "" if condition is None else self._expression(condition, negated=False)

    def _expression(self, condition: Filter, *, negated: bool) -> str:
        match condition:
            case Not(inner):
                return self._expression(inner, negated=not negated)
            case And(filters) | Or(filters):
                # De Morgan: the negation of "and" is "or" over negated parts.
                by_and = isinstance(condition, And) is not negated
                parts = [self._expression(part, negated=negated) for part in filters]
                return _joined("and" if by_and else "or", parts)
            case IdAfter() | IdIn() | UpdatedWithin():
                return _on_field(condition, negated=negated)
        tests = self._tests(condition)
        if not negated:
            return _joined("or", [f"({test})" for _, test in tests])
        # For a missing key, the result of `not` differs between the backends.
        return _joined("and", [f"((not (exists {key})) or (not ({test})))" for key, test in tests])

    def _tests(self, condition: OnAttribute) -> list[tuple[str, str]]:
        """Return tests with their keys; the condition is true if one test is."""
        match condition:
            case Equals(attribute, value):
                return self._in(attribute, [value])
            case In(attribute, values):
                return self._in(attribute, values)
            case Range() | TextRange():
                return [_range(condition, is_lite=self._is_lite)]
            case Prefix(attribute, prefix):
                key = _key(attribute, str)
                end = following(prefix)
                below = f" and {key} < {literal(end)}" if end else ""
                return [(key, f"{key} >= {literal(prefix)}{below}")]
            case Exists(attribute):
                return [(key, f"exists {key}") for key in (_key(attribute, kind) for kind in (str, bool, float, LIST))]

    def _in(self, attribute: str, values: Sequence[FilterValue]) -> list[tuple[str, str]]:
        """Return the tests for a value out of several."""
        texts = sorted({value for value in values if isinstance(value, str)})
        # In Python, True equals 1.
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
        """Return tests for a value out of several sorted values of one type."""
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
            # Servers accept only lists of one type.
            some = [value for value in values if type(value) is kind and value not in (LOWEST, FIRST_FLOAT)]
            if len(some) == 1 and not _is_large(some[0]):
                tests.append(f"{key} == {literal(some[0])}")
            elif some:
                tests.append(f"{key} in [{_literals(some)}]")
        return tests


def seconds_on_lite(condition: Filter, rows: int) -> float:
    """Estimate how long Milvus Lite takes: it reads each row once, and its attributes for each test."""
    tests = sum(_tests_on_lite(part) for part in leaves_of(condition))
    return rows * (LITE_ROW_SECONDS + tests * LITE_TEST_SECONDS)


def _tests_on_lite(part: Filter) -> float:
    match part:
        case In(_, values):
            # A search tree over the values, and each text once more for rows with a list.
            return 2 + 1.5 * math.log2(len(values)) + len(values) * LITE_LISTED
        case Exists():
            return 4
    return 2


def both_expressions(expression: str, other: str) -> str:
    """Return the expression that is true if both are; an empty `other` is always true."""
    return f"({expression}) and ({other})" if other else expression


def ids_expression(ids: Sequence[str]) -> str:
    """Return the expression that is true for these ids."""
    return f"id in [{_literals(ids)}]"


def literal(value: FilterValue) -> str:
    """Return a value as a literal."""
    if isinstance(value, str):
        return f'"{value.translate(ESCAPES)}"'
    return json.dumps(value)


def _literals(values: Sequence[FilterValue]) -> str:
    return ", ".join(map(literal, values))


def _is_large(value: FilterValue) -> bool:
    """Return whether the == of a server confuses the value with its neighbors; `in` does not."""
    return isinstance(value, int) and abs(value) >= EXACT_IN_DOUBLES


def _tree(key: str, values: Sequence[FilterValue]) -> str:
    """Return a search tree over sorted values, so that Milvus Lite compares a row with few of them."""
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
    """Join parts as a balanced tree: Milvus Lite parses a chain with one level of recursion for each part."""
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return f"({_joined(operator, parts[:middle])} {operator} {_joined(operator, parts[middle:])})"


def _range(condition: Range | TextRange, *, is_lite: bool) -> tuple[str, str]:
    is_text = isinstance(condition, TextRange)
    key = _key(condition.attribute, str if is_text else float)
    write = _bound if is_lite or is_text else _bound_on_server
    bounds = {
        name: bound if isinstance(bound, str) else as_whole(bound) for name, bound in bounds_of(condition).items()
    }
    return key, " and ".join(write(key, OPERATORS[name], bound) for name, bound in bounds.items())


def _bound_on_server(key: str, operator: str, bound: FilterValue) -> str:
    """Return the test of a bound. A server rounds some bounds to FIRST_FLOAT, which needs another test."""
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

    A server compares this float with integers as doubles, so it equals both bounds. No integer meets both.
    """
    return f"{key} >= {HIGHEST} and {key} <= {HIGHEST - 1}"


def _bound(key: str, operator: str, bound: FilterValue) -> str:
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
    """Return the first text, by code points, after all texts with a prefix; empty if there is none."""
    for position in range(len(prefix) - 1, -1, -1):
        point = ord(prefix[position]) + 1
        if point in SURROGATES:
            point = SURROGATES.stop
        if point <= LAST_CHARACTER:
            return prefix[:position] + chr(point)
    return ""
