"""Find the metrics and labels in PromQL expressions. promtool checks the syntax."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

WORDS = frozenset(
    {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "group_left", "group_right"}
)
_STRING = r'"(?:[^"\\]|\\.)*"'
_SELECTOR = re.compile(
    rf"(?<![\w:.])(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{{(?P<matchers>(?:[^\"{{}}]|{_STRING})*)\}})?(?P<call>\s*\()?"
)
_MATCHER = re.compile(rf"(?P<label>[a-zA-Z_]\w*)\s*(?P<how>=~|!~|!=|=)\s*(?P<value>{_STRING})")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_RANGE = re.compile(r"\[[^\]]*\]")


@dataclass(frozen=True)
class Selector:
    """A metric and its label matchers: name, operator, and values; a pattern may have several values."""

    metric: str
    labels: tuple[tuple[str, str, tuple[str, ...]], ...]


def selectors(expr: str) -> Iterator[Selector]:
    """Yield every metric of an expression, with its matchers."""
    plain = _RANGE.sub(" ", _GROUPING.sub(" ", expr))
    for found in _SELECTOR.finditer(plain):
        if found["call"] or found["name"] in WORDS:
            continue
        matchers = _MATCHER.finditer(found["matchers"] or "")
        yield Selector(
            found["name"],
            tuple((each["label"], each["how"], tuple(each["value"][1:-1].split("|"))) for each in matchers),
        )


def groupings(expr: str) -> set[str]:
    """Return every label that an expression groups or joins by."""
    return {label.strip() for found in _GROUPING.finditer(expr) for label in found[1].split(",")} - {""}
