"""The JSON of the commands is valid, whatever values it contains."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import imagesearch_cli
from imagesearch_cli.hits import Answer, print_answers, shown_number
from imagesearch_client.types import Explanation, Hit, Hits, Image, Index
from imagesearch_ingest.json_text import json_text, rounded
from imagesearch_ingest.load.rejects_file import RejectsFile
from imagesearch_ingest.sources.items import Item

NAN, INFINITY = float("nan"), float("inf")


def strict(text: str) -> Any:
    """Parse a text with a parser that accepts only valid JSON."""
    return json.loads(text, parse_constant=pytest.fail)


def test_numbers_that_are_not_finite_become_null() -> None:
    value = {
        "a": [NAN, (INFINITY, -INFINITY)],
        "b": {"c": NAN},
        "d": 1.5,
        "e": 2**53 + 1,
        "f": True,
        "g": "NaN",
        "h": None,
    }
    expected = {"a": [None, [None, None]], "b": {"c": None}, "d": 1.5, "e": 2**53 + 1, "f": True, "g": "NaN", "h": None}
    for options in ({}, {"readable": True}, {"indent": 1}):
        found = strict(json_text(value, **options))
        assert found == expected
        assert [type(part) for part in found.values()] == [type(part) for part in expected.values()]
    assert strict(json_text(NAN)) is None


def test_small_numbers_do_not_become_zero() -> None:
    numbers = (0.0, 0.12345678, 12.3456789, -0.5, 1.23456789e-7, 4e-16, -3.2e-38, 4.7e37)
    assert [rounded(number) for number in numbers] == [
        0,
        0.123457,
        12.345679,
        -0.5,
        1.23457e-07,
        4e-16,
        -3.2e-38,
        4.7e37,
    ]
    assert [shown_number(number) for number in numbers[:4]] == ["0.0000", "0.1235", "12.3457", "-0.5000"]
    assert [shown_number(number) for number in numbers[4:]] == ["1.235e-07", "4e-16", "-3.2e-38", "4.7e+37"]


def test_finite_values_are_unchanged() -> None:
    value = {"a": [1, 1.0, True, "ä", None], "b": (1e300, -0.0)}
    assert json_text(value) == json.dumps(value)
    assert json_text(value, readable=True, indent=2) == json.dumps(value, ensure_ascii=False, indent=2)


def test_hits_with_nan_scores_are_valid_json(capsys: pytest.CaptureFixture[str]) -> None:
    time = datetime(2026, 1, 1, tzinfo=UTC)
    image = Image("a", "/a.jpg", {"price": 2**53 + 1}, "", time, time)
    answer = Answer("q", Hits([Hit(image, NAN, INFINITY)]), Explanation(Index.FLAT, None, 0.1, 0.1, 0.1))
    print_answers([answer], [], explain=True, as_json=True)
    (hit,) = strict(capsys.readouterr().out)[0]["hits"]
    assert (hit["score"], hit["distance"], hit["attributes"]) == (None, None, {"price": 2**53 + 1})


def test_rejects_are_valid_json(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    with RejectsFile(path) as rejects:
        rejects.write(Item("a", "/ä.jpg", lambda _: b"", {"x": NAN, "tags": ("a", "b")}), "X", "y")
    line = {"uri": "/ä.jpg", "id": "a", "attributes": {"x": None, "tags": ["a", "b"]}, "_reason": "X", "_message": "y"}
    assert strict(path.read_text()) == line
    assert "ä" in path.read_text()


def test_commands_write_json_only_through_json_text() -> None:
    commands = Path(imagesearch_cli.__file__).parent
    assert [path.name for path in commands.glob("*.py") if "json.dump" in path.read_text()] == []
