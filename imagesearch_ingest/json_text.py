"""Write JSON as the commands do, to the standard output and to files."""

import json
import math
from typing import Any

THOUSANDTH = 1e-3


def json_text(value: object, *, readable: bool = False, indent: int | None = None) -> str:
    """Return a value as JSON; with `readable` non-ASCII characters are not escaped.

    Numbers that are not finite become null: JSON has no such numbers, and most programs cannot read Python's spelling.
    """
    options: dict[str, Any] = {"ensure_ascii": not readable, "indent": indent, "default": list}
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, **options)


def rounded(value: float) -> float:
    """Return a number rounded to 6 decimals, or to 6 significant digits below 0.001, so that it does not become 0."""
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
