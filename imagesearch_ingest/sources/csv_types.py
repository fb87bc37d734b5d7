"""Infer the types of CSV columns from all their cells, because the file does not contain them."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from imagesearch_client.dates import is_date, read_date
from imagesearch_client.types import AttributeValue
from imagesearch_ingest.sources.attribute_values import MAX_EXACT, check_text, is_integer, suggest_option

TEXT, INT, FLOAT, BOOL, DATE = TYPES = ("text", "int", "float", "bool", "date")
# Without plus signs and leading zeros, because article numbers and postal codes have them.
DECIMAL = re.compile(r"-?(?P<whole>0|[1-9][0-9]*)(\.[0-9]+)?(?P<exponent>[eE][+-]?[0-9]{1,3})?")
# Any spelling of numbers, for columns with a given type.
ANY_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,30}")
ANY_NUMBER = re.compile(r"[+-]?(?P<whole>[0-9]+\.?[0-9]*|\.[0-9]+)(?P<exponent>[eE][+-]?[0-9]{1,3})?")
BOOLS = {"true": True, "false": False}
# Null values of common programs.
NULLS = frozenset({"", "null", "NULL", "None", "NaN", "nan"})
# The first characters of all cells that are not text.
BEGINNINGS = frozenset("-0123456789tTfF")


@dataclass
class ColumnFacts:
    """Statistics of the cells of one column."""

    name: str
    cells: int = 0
    """Number of cells with a value."""
    fitting: Counter[str] = field(default_factory=Counter)
    """Number of cells that fit each type."""
    misfits: dict[str, tuple[int, str]] = field(default_factory=dict)
    """The first row and cell that does not fit, by type."""
    nulls: Counter[str] = field(default_factory=Counter)
    """Number of cells by null value."""

    def add(self, row: int, cell: str) -> None:
        """Add a cell."""
        cell = cell.strip()
        if cell in NULLS:
            if cell:
                self.nulls[cell] += 1
            return
        self.cells += 1
        kinds = _kinds_of(cell)
        self.fitting.update(kinds)
        for kind in (INT, FLOAT, BOOL, DATE):
            if kind not in kinds and kind not in self.misfits:
                self.misfits[kind] = (row, quoted_cell(cell))

    @property
    def type(self) -> str:
        """The first of int, float, bool and date that fits every cell; otherwise text."""
        fits = (kind for kind in (INT, FLOAT, BOOL, DATE) if self.cells and self.fitting[kind] == self.cells)
        return next(fits, TEXT)

    def remark(self) -> str:
        """Return a remark about cells that make the column text, or about ignored null values."""
        if self.type != TEXT or not self.cells:
            return ""
        kind, count = max(((kind, self.fitting[kind]) for kind in (INT, FLOAT, BOOL, DATE)), key=lambda pair: pair[1])
        if 2 * count > self.cells:
            row, cell = self.misfits[kind]
            return (
                f"{self.name} is text because of {count_of_cells(self.cells - count)}, first {cell} in row {row}; "
                f"{suggest_option('--column-type', self.name, kind)} rejects rows whose {self.name} is no {kind}"
            )
        if self.nulls:
            words = ", ".join(sorted(self.nulls))
            return (
                f"{self.name} has no value in {count_of_cells(self.nulls.total())} ({words}); "
                f"{suggest_option('--column-type', self.name, TEXT)} keeps such cells as texts"
            )
        return ""


def count_of_cells(count: int) -> str:
    """Return a number of cells in words."""
    return "1 cell" if count == 1 else f"{count} cells"


def _kinds_of(cell: str) -> Sequence[str]:
    if cell[0] not in BEGINNINGS:
        return ()
    if cell.lower() in BOOLS:
        return (BOOL,)
    if is_integer(cell):
        return (INT, FLOAT) if _is_float(cell) else (INT,)
    if _is_float(cell):
        return (FLOAT,)
    return (DATE,) if is_date(cell) else ()


def _is_float(cell: str) -> bool:
    found = DECIMAL.fullmatch(cell)
    if found is None or not math.isfinite(float(cell)):
        return False
    # Larger whole numbers are not exact as floats.
    return found["exponent"] is not None or int(found["whole"]) <= MAX_EXACT


def convert_cell(cell: str, kind: str) -> AttributeValue:
    """Return a cell as a value of the type. Raises ValueError."""
    if kind == TEXT:
        return check_text(cell)
    if kind == DATE:
        return read_date(cell)
    if kind == BOOL and cell.lower() in BOOLS:
        return BOOLS[cell.lower()]
    if kind == INT and ANY_WHOLE_NUMBER.fullmatch(cell) and is_integer(str(int(cell))):
        return int(cell)
    if kind == FLOAT:
        return _float(cell)
    raise ValueError(f"{quoted_cell(cell)} is not {kind}")


def _float(cell: str) -> float:
    found = ANY_NUMBER.fullmatch(cell)
    if found is None or not math.isfinite(float(cell)):
        raise ValueError(f"{quoted_cell(cell)} is not {FLOAT}")
    if found["exponent"] is None and int(found["whole"].partition(".")[0] or "0") > MAX_EXACT:
        raise ValueError(f"{quoted_cell(cell)} would be rounded: a float has 53 bits")
    return float(cell)


def quoted_cell(cell: str) -> str:
    """Return a cell in quotes, shortened to 100 characters."""
    return f"{cell!r:.100}"
