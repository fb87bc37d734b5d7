"""The results of the demo as a table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich import box
from rich.table import Table
from rich.text import Text

from demo.photographs import EDITS
from imagesearch_client import Hit

# Marks a search in which the original is not the first hit.
MISS = "✗"


@dataclass(frozen=True)
class Outcome:
    """The result of the search with one edited copy."""

    original: str
    """Id of the original."""
    edit: str
    hits: Sequence[Hit]
    """The hits, the best first."""

    @property
    def found(self) -> bool:
        """Return whether the original is the first hit."""
        return bool(self.hits) and self.hits[0].image.id == self.original

    @property
    def score(self) -> str:
        """Return the score of the original, or a dash if it is no hit."""
        scores = [hit.score for hit in self.hits if hit.image.id == self.original]
        return f"{scores[0]:.3f}" if scores else "-"


def table_of(outcomes: Iterable[Outcome]) -> Table:
    """Return a row for each photograph, with the score of the original for each edit."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    # A long name is wrapped and never shortened, because another file may have the same beginning.
    table.add_column("original", overflow="fold")
    for edit in EDITS:
        table.add_column(edit, justify="right", no_wrap=True)
    for original, group in groupby(outcomes, key=lambda outcome: outcome.original):
        cells = {
            outcome.edit: Text(outcome.score) if outcome.found else Text(f"{MISS} {outcome.score}", style="bold red")
            for outcome in group
        }
        table.add_row(Text(original), *(cells.get(edit, Text()) for edit in EDITS))
    return table


def misses_of(outcomes: Iterable[Outcome]) -> list[str]:
    """Return a line for each search whose first hit is not the original."""
    return [
        f"{MISS} {outcome.original}, {outcome.edit}: "
        + (f"{outcome.hits[0].image.id} is first with {outcome.hits[0].score:.3f}" if outcome.hits else "no hits")
        for outcome in outcomes
        if not outcome.found
    ]
