"""Reads the rows of label files: CSV, TSV and JSON Lines."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TypeAlias

from imagesearch_analysis.evaluation.task import TaskError
from imagesearch_ingest.sources.attribute_values import json_object
from imagesearch_ingest.sources.csv_records import find_delimiter, read_records, row_error

Row: TypeAlias = Mapping[str, tuple[str, ...]]
"""The values of each column: none if the cell is empty, several only from a JSON list."""

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")


def read_table(path: Path) -> list[Row]:
    """Return the rows of a file in UTF-8. Raises TaskError, which names the file and the row."""
    suffix = path.suffix.lower()
    if suffix not in (*DELIMITERS, *JSON_LINES):
        raise TaskError(f"{path} has an unknown suffix; it must be {', '.join((*DELIMITERS, *JSON_LINES))}")
    try:
        if suffix in DELIMITERS:
            rows = list(_csv_rows(path, DELIMITERS[suffix]))
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = list(_json_rows(path, file))
    except OSError as error:
        raise TaskError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise TaskError(f"{path} is not UTF-8; save it in UTF-8") from None
    if not rows:
        raise TaskError(f"{path} has no rows")
    return rows


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Return all columns of the rows, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _csv_rows(path: Path, usual_delimiter: str) -> Iterator[Row]:
    """Return the rows of a CSV file with the rules of manifests: no spaces around cells, no columns without a name."""
    try:
        with path.open("rb") as file:
            delimiter, skips_spaces = find_delimiter(file, usual_delimiter)
    except ValueError as error:
        raise TaskError(f"{path}, row 1: {error}") from None
    header: list[str] = []
    with path.open("rb") as file:
        for number, cells in read_records(file, delimiter, skips_spaces=skips_spaces):
            fault = cells if isinstance(cells, str) else row_error(cells, len(header) if number > 1 else len(cells))
            if fault or isinstance(cells, str):
                raise TaskError(f"{path}, row {number}: {fault}; save it as CSV in UTF-8")
            values = [cell.strip() for cell in cells]
            if number > 1 and cells:
                yield {
                    name: (value,) if value else () for name, value in zip_longest(header, values, fillvalue="") if name
                }
            elif number == 1:
                header = values
                names = [name for name in header if name]
                if len(set(names)) < len(names):
                    raise TaskError(
                        f"{path} has two columns with one name; rename one. The header is {delimiter.join(header):.200}"
                    )


def _json_rows(path: Path, lines: Iterator[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield {name: _texts(name, value) for name, value in json_object(line.encode()).items()}
        except ValueError as error:
            raise TaskError(f"{path}, line {number}: {error}") from None


def _texts(name: str, value: object) -> tuple[str, ...]:
    """Return the texts of a JSON value; numbers and truth values as JSON writes them."""
    if value is None:
        return ()
    if isinstance(value, list):
        return tuple(text for part in value for text in _texts(name, part))
    if isinstance(value, bool):
        return (str(value).lower(),)
    if isinstance(value, str | int | float):
        return (str(value),) if value != "" else ()
    raise ValueError(f"{name} is an object; a label is a text, a number, a truth value, or a list of these")
