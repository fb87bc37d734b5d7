"""Filters as Milvus expressions. The only place where a caller's text becomes part of one, each time as a literal.

Only forms are used that Milvus Lite and Milvus servers since 2.3 take and take alike: no chained ranges, no `in` on
JSON, no `like` (whose "_" is a wildcard on one of them only). An attribute is looked up by the key of its type (see
`typed_key`), so that the backends' ways to compare a number with a bool or a text never matter.
"""

import json
from collections.abc import Sequence

from search_service.adapters.milvus_rows import LIST, micros_of, typed_key
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
    UpdatedWithin,
)

# Milvus Lite refuses other escapes, and a line end within a text.
ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
LAST_CHARACTER = 0x10FFFF
SURROGATES = range(0xD800, 0xE000)


def expression_of(condition: Filter | None) -> str:
    """The Milvus expression that is true for the images that fit; empty for all."""
    return "" if condition is None else _expression(condition, negated=False)


def ids_expression(ids: Sequence[str]) -> str:
    """The Milvus expression that is true for these ids."""
    return f"id in [{', '.join(literal(image_id) for image_id in ids)}]"


def literal(value: FilterValue) -> str:
    """A value as it stands in an expression."""
    if isinstance(value, str):
        return f'"{value.translate(ESCAPES)}"'
    return json.dumps(value)


def _expression(condition: Filter, *, negated: bool) -> str:
    match condition:
        case Not(inner):
            return _expression(inner, negated=not negated)
        case And(filters) | Or(filters):
            # Where the whole is negated, each part is, and "and" becomes "or" (De Morgan).
            by_and = isinstance(condition, And) is not negated
            return _joined("and" if by_and else "or", [_expression(part, negated=negated) for part in filters])
        case IdAfter() | IdIn() | UpdatedWithin():
            return _on_field(condition, negated=negated)
    tests = _tests(condition)
    if not negated:
        return _joined("or", [f"({test})" for _, test in tests])
    # What `not` says of a key that is missing differs between the backends.
    return _joined("and", [f"((not ({test})) or (not (exists {key})))" for key, test in tests])


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


def _tests(condition: OnAttribute) -> list[tuple[str, str]]:
    """Tests of which one has to be true, each after the one key that it looks at."""
    match condition:
        case Equals(attribute, value):
            return _equals(attribute, value)
        case In(attribute, values):
            return [test for value in values for test in _equals(attribute, value)]
        case Range():
            key = _key(condition.attribute, float)
            bounds = ((">=", condition.gte), (">", condition.gt), ("<=", condition.lte), ("<", condition.lt))
            stated = [f"{key} {operator} {literal(bound)}" for operator, bound in bounds if bound is not None]
            return [(key, " and ".join(stated))]
        case Prefix(attribute, prefix):
            key = _key(attribute, str)
            end = following(prefix)
            below = f" and {key} < {literal(end)}" if end else ""
            return [(key, f"{key} >= {literal(prefix)}{below}")]
        case Exists(attribute):
            return [(key, f"exists {key}") for key in (_key(attribute, kind) for kind in (str, bool, float, LIST))]


def _equals(attribute: str, value: FilterValue) -> list[tuple[str, str]]:
    key = _key(attribute, type(value))
    tests = [(key, f"{key} == {literal(value)}")]
    if isinstance(value, str):
        key = _key(attribute, LIST)
        tests.append((key, f"json_contains({key}, {literal(value)})"))
    return tests


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
