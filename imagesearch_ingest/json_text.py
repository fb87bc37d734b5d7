"""JSON as the commands write it, to the standard output and into files."""

import json
import math
from typing import Any

THOUSANDTH = 1e-3


def json_text(value: object, *, readable: bool = False, indent: int | None = None) -> str:
    """The value as JSON; with `readable` characters beyond ASCII are as they are.

    A number that is not finite is null: JSON has no such numbers, and most programs refuse what Python writes for them.
    """
    options: dict[str, Any] = {"ensure_ascii": not readable, "indent": indent, "default": list}
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, **options)


def rounded(value: float) -> float:
    """Round to 6 decimals. A number below a thousandth has 6 significant digits instead: it must not become 0."""
    return float(f"{value:.6g}") if abs(value) < THOUSANDTH else round(value, 6)


def _finite(value: object) -> object:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {name: _finite(part) for name, part in value.items()}
        case list() | tuple():
            return [_finite(part) for part in value]
    return value
