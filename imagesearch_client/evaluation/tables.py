"""The rows of files of labels: CSV, TSV and JSON Lines."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from imagesearch_client.evaluation.task import TaskError
from imagesearch_client.sources.values import json_object

Row: TypeAlias = Mapping[str, tuple[str, ...]]
"""The values of each column; several only in JSON, none where the row leaves it empty."""

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")


def read_table(path: Path) -> list[Row]:
    """The rows of a file in UTF-8. Raises TaskError, which names the file and the row."""
    suffix = path.suffix.lower()
    if suffix not in (*DELIMITERS, *JSON_LINES):
        raise TaskError(f"{path} should end in {', '.join((*DELIMITERS, *JSON_LINES))}, to say what it is")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(_json_rows(path, file) if suffix in JSON_LINES else _csv_rows(path, file, DELIMITERS[suffix]))
    except OSError as error:
        raise TaskError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise TaskError(f"{path} is not UTF-8; save it in UTF-8") from None
    if not rows:
        raise TaskError(f"{path} has no rows")
    return rows


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Every column that a row has, in the order in which they come."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _csv_rows(path: Path, lines: Iterator[str], delimiter: str) -> Iterator[Row]:
    # Strict: else a quote without its other one would take the rest of the file for one cell.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise TaskError(f"{path} has two columns of one name; its header is {delimiter.join(header):.200}")
        for cells in reader:
            if len(cells) > len(header):
                raise TaskError(f"{path}, line {reader.line_num}: {len(cells)} cells, and the header has {len(header)}")
            if cells:
                yield {
                    name: (value,) if value else ()
                    for name, value in zip(header, (*cells, *[""] * (len(header) - len(cells))), strict=True)
                }
    except csv.Error as error:
        raise TaskError(f"{path}, line {reader.line_num}: {error}") from None


def _json_rows(path: Path, lines: Iterator[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield {name: _texts(name, value) for name, value in json_object(line.encode()).items()}
        except ValueError as error:
            raise TaskError(f"{path}, line {number}: {error}") from None


def _texts(name: str, value: object) -> tuple[str, ...]:
    """The texts that a value of JSON says; numbers and truth values as JSON writes them."""
    if value is None:
        return ()
    if isinstance(value, list):
        return tuple(text for part in value for text in _texts(name, part))
    if isinstance(value, bool):
        return (str(value).lower(),)
    if isinstance(value, str | int | float):
        return (str(value),) if value != "" else ()
    raise ValueError(f"{name}: an object is no label; texts, numbers and lists of them are")
