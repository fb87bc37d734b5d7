"""Tables fit the terminal: columns are left out, and words are never cut."""

from collections.abc import Sequence

import pytest
from rich.console import Console

from imagesearch_cli.tables import Column, fitting, print_table

IDS = ["shelf/Fruit/Apple/Golden-Delicious_001.jpg", "coffee.jpg"]
COLUMNS = [
    Column("", ["1", "2"], 2, is_number=True),
    Column("score", ["0.9123", "0.8012"], 1, is_number=True),
    Column("distance", ["0.1754", "0.3976"], 3, is_number=True),
    Column("id", IDS, 0),
    Column("kind", ["a long description of this image", "drink"], 4),
]


def printed(columns: Sequence[Column], width: int) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        print_table(columns, console=console)
    return capture.get().splitlines()


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (40, ["id"]),
        (60, ["", "score", "id"]),
        (80, ["", "score", "distance", "id"]),
        (120, ["", "score", "distance", "id", "kind"]),
    ],
)
def test_columns_of_low_importance_are_left_out_first(width: int, titles: list[str]) -> None:
    assert [column.title for column in fitting(COLUMNS, width)] == titles


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal_and_no_text_is_lost(width: int) -> None:
    lines = printed(COLUMNS, width)
    assert all(len(line) <= width for line in lines)
    assert "…" not in "".join(lines)
    # An id that is wider than the terminal continues in the next line.
    ids = "".join(line.split("│")[-3 if width == 120 else -2].strip() for line in lines if line.startswith("│"))
    assert ids == "".join(IDS)


def test_missing_columns_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    printed(COLUMNS, 60)
    assert capsys.readouterr().err == "Columns that do not fit the terminal: distance, kind.\n"


def test_wide_characters_count_as_two() -> None:
    assert Column("id", ["苹果.jpg"], 0).width == 8
