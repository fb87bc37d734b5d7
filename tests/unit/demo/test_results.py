"""The table of `make demo`."""

import io
from datetime import UTC, datetime

from rich.console import Console

from demo.results import Outcome, misses_of, table_of
from imagesearch_client import Hit, Image

LONG = "holiday in the mountains/a very long name of a photograph that was taken on the second day of it.jpg"


def hit(name: str, score: float) -> Hit:
    time = datetime(2026, 1, 1, tzinfo=UTC)
    return Hit(Image(name, "", {}, "", time, time), score, 1 - score)


OUTCOMES = [
    Outcome("page.jpg", "crop", [hit("page.jpg", 0.852), hit("coins.jpg", 0.4)]),
    Outcome("page.jpg", "rotate", [hit("brick.jpg", 0.7), hit("page.jpg", 0.6)]),
    Outcome("page.jpg", "recompress", [hit("brick.jpg", 0.8)]),
    Outcome("page.jpg", "recolour", []),
    Outcome(LONG, "crop", [hit(LONG, 0.999)]),
]


def rendered() -> list[str]:
    output = io.StringIO()
    Console(file=output, width=80).print(table_of(OUTCOMES))
    return [line.rstrip() for line in output.getvalue().splitlines()]


def test_the_table_has_a_row_for_each_photograph_and_a_column_for_each_edit() -> None:
    lines = rendered()
    assert [line.split() for line in lines if "original" in line] == [
        ["original", "crop", "rotate", "recompress", "recolour"]
    ]
    assert [line.split() for line in lines if "page.jpg" in line] == [
        ["page.jpg", "0.852", "✗", "0.600", "✗", "-", "✗", "-"]
    ]


def test_long_names_are_wrapped_within_80_columns() -> None:
    lines = rendered()
    assert all(len(line) <= 80 for line in lines)
    first = next(number for number, line in enumerate(lines) if "0.999" in line)
    name = "".join(line.replace("0.999", "") for line in lines[first:])
    assert name.replace(" ", "") == LONG.replace(" ", "")


def test_each_miss_names_the_first_hit() -> None:
    assert misses_of(OUTCOMES) == [
        "✗ page.jpg, rotate: brick.jpg is first with 0.700",
        "✗ page.jpg, recompress: brick.jpg is first with 0.800",
        "✗ page.jpg, recolour: no hits",
    ]
