"""Tables that fit the terminal: columns that do not fit are left out, and words are never cut."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from imagesearch_cli.console import note, out

# A cell has a space on each side and a line beside it; the table has one line more.
BESIDE_CELL, BESIDE_TABLE = 3, 1


@dataclass(frozen=True)
class Column:
    """A column of a table: its title, its cells, and how important it is."""

    title: str
    cells: Sequence[str]
    rank: int
    """Columns with high ranks are left out first; columns of rank 0 always stay."""
    is_number: bool = False

    @property
    def width(self) -> int:
        """Return the width of the widest line, in characters of the terminal."""
        return max(cell_len(line) for text in (self.title, *self.cells) for line in text.split("\n"))


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """Return the columns that fit into `width`, in their order. Columns of rank 0 are always among them."""
    kept = list(columns)
    while sum(column.width + BESIDE_CELL for column in kept) + BESIDE_TABLE > width:
        last = max(kept, key=lambda column: column.rank)
        if not last.rank:
            break
        kept.remove(last)
    return kept


def print_table(columns: Sequence[Column], title: str = "", console: Console = out) -> None:
    """Print a table, and name the columns that do not fit."""
    kept = fitting(columns, console.width)
    table = Table(title=Text(title) if title else None, title_justify="left")
    for column in kept:
        # Only columns of rank 0 can be too wide. A long id continues in the next line.
        table.add_column(
            Text(column.title),
            justify="right" if column.is_number else "left",
            overflow="fold",
            no_wrap=bool(column.rank),
        )
    for row in zip(*(column.cells for column in kept), strict=True):
        table.add_row(*map(Text, row))
    console.print(table)
    if missing := [column.title or "(rank)" for column in columns if column not in kept]:
        note(f"Columns that do not fit the terminal: {', '.join(missing)}.", style="dim")


def print_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Print names and values, one pair a line, and an empty line."""
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        out.print(Text.assemble((f"{name:{width}}", "bold"), "  ", value), soft_wrap=True)
    out.print()
