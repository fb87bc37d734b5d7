"""The types of CSV columns, which say nothing of them: they are found out from all that is in them."""

import math
import re
from collections.abc import Iterable, Sequence

from imagesearch_client.sources.values import MAX_EXACT, checked_text, is_integer
from imagesearch_client.types import AttributeValue

TEXT, INT, FLOAT, BOOL = TYPES = ("text", "int", "float", "bool")
# No plus signs, and no zeros before the number, which article numbers and postal codes have.
DECIMAL = re.compile(r"-?(?P<whole>0|[1-9][0-9]*)(\.[0-9]+)?(?P<exponent>[eE][+-]?[0-9]{1,3})?")
# What a column may be written like whose type is said.
ANY_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,30}")
ANY_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
BOOLS = {"true": True, "false": False}


def infer(rows: Iterable[Sequence[str]], width: int) -> list[str]:
    """The type of each of `width` columns: the first of int, float and bool that every cell is, or else text."""
    candidates = [[INT, FLOAT, BOOL] for _ in range(width)]
    is_empty = [True] * width
    for row in rows:
        for index, cell in enumerate(row[:width]):
            if cell and candidates[index]:
                is_empty[index] = False
                candidates[index] = [kind for kind in candidates[index] if _is(cell, kind)]
    return [TEXT if empty or not kinds else kinds[0] for kinds, empty in zip(candidates, is_empty, strict=True)]


def _is(cell: str, kind: str) -> bool:
    if kind == INT:
        return is_integer(cell)
    if kind == BOOL:
        return cell.lower() in BOOLS
    found = DECIMAL.fullmatch(cell)
    if found is None or not math.isfinite(float(cell)):
        return False
    # As a float the next whole number is the same one.
    return found["exponent"] is not None or int(found["whole"]) <= MAX_EXACT


def convert(cell: str, kind: str) -> AttributeValue:
    """The cell as a value of the type. Raises ValueError."""
    if kind == TEXT:
        return checked_text(cell)
    text = cell.strip()
    if kind == BOOL and text.lower() in BOOLS:
        return BOOLS[text.lower()]
    if kind == INT and ANY_WHOLE_NUMBER.fullmatch(text) and is_integer(str(int(text))):
        return int(text)
    if kind == FLOAT and ANY_NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    raise ValueError(f"{shown_cell(cell)} is no {kind}")


def shown_cell(cell: str) -> str:
    """A cell's text, quoted and not too long."""
    return f"{cell!r:.100}"
