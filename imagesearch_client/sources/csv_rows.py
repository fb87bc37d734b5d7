"""The rows of CSV and TSV files."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from imagesearch_client.sources.columns import InvalidRow, Row, assign
from imagesearch_client.sources.csv_types import TEXT, TYPES, convert, infer
from imagesearch_client.sources.files import is_text
from imagesearch_client.sources.items import SourceError
from imagesearch_client.sources.locations import Location
from imagesearch_client.sources.options import SourceOptions
from imagesearch_client.types import AttributeValue


class CsvRows:
    """The rows of a file with a header, in UTF-8."""

    def __init__(self, location: Location, options: SourceOptions) -> None:
        """Reads the header. Raises SourceError and OSError."""
        self._location = location
        self._delimiter = "\t" if location.file_name.lower().endswith(".tsv") else ","
        if unknown := sorted(set(options.types.values()) - set(TYPES)):
            raise SourceError(f"{', '.join(unknown)} is no type of a column; {', '.join(TYPES)} are")
        with location.open() as file:
            self._header = self._read_header(file)
        try:
            self._columns = assign(self._header, options, location.file_name)
        except SourceError as error:
            raise SourceError(f"{error}{self._hint()}") from None
        self._path = self._header.index(self._columns.path)
        self._id = None if self._columns.id is None else self._header.index(self._columns.id)
        self._attributes = [(self._header.index(column), name) for column, name in self._columns.attributes.items()]
        self._types = {self._header.index(column): kind for column, kind in options.types.items()}

    def __iter__(self) -> Iterator[Row | InvalidRow]:
        """The rows, after the file was read once for the types."""
        types = self._infer()
        for number, cells in self._cells():
            if isinstance(cells, InvalidRow):
                yield cells
            else:
                yield self._row(number, cells, types)

    def count(self) -> int | None:
        """About how many rows there are: a cell may have several lines."""
        lines = self._location.count_lines()
        return None if lines is None else max(lines - 1, 0)

    def _read_header(self, file: BinaryIO) -> list[str]:
        try:
            header = next(self._reader(file), [])
        except csv.Error as error:
            raise SourceError(f"{self._location.file_name} has no header that can be read: {error}") from None
        if any(not is_text(cell) or "\0" in cell for cell in header):
            raise SourceError(f"{self._location.file_name} is not UTF-8, or is no CSV file; save it as CSV in UTF-8")
        return header

    def _hint(self) -> str:
        if len(self._header) == 1 and any(mark in self._header[0] for mark in ";\t|"):
            return f". Its columns should be separated by {'tabs' if self._delimiter == chr(9) else 'commas'}"
        return ""

    def _reader(self, file: BinaryIO) -> Iterator[list[str]]:
        # Odd bytes are kept until their row is looked at, so that they do not end the run.
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        # Strict: else a quote without its other one would take the rest of the file for one cell.
        return csv.reader(text, delimiter=self._delimiter, strict=True)

    def _cells(self) -> Iterator[tuple[int, list[str] | InvalidRow]]:
        """Each row after the header, numbered as in a spreadsheet."""
        with self._location.open() as file:
            reader = self._reader(file)
            number = 0
            while True:
                number += 1
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    yield number, InvalidRow(number, f"its quotes do not fit: {error}")
                    continue
                if cells is None:
                    return
                if cells and number > 1:
                    fault = self._fault(cells)
                    yield number, InvalidRow(number, fault) if fault else cells

    def _fault(self, cells: Sequence[str]) -> str:
        if len(cells) > len(self._header):
            return f"it has {len(cells)} cells, and the header {len(self._header)}"
        if any("\0" in cell for cell in cells):
            return "it has a NUL byte"
        return "" if all(map(is_text, cells)) else "it is not UTF-8"

    def _infer(self) -> dict[int, str]:
        wanted = [index for index, _ in self._attributes if index not in self._types]
        if not wanted:
            return self._types
        rows = (cells for _, cells in self._cells() if not isinstance(cells, InvalidRow))
        picked = ([cells[index] if index < len(cells) else "" for index in wanted] for cells in rows)
        return {**dict(zip(wanted, infer(picked, len(wanted)), strict=True)), **self._types}

    def _row(self, number: int, cells: list[str], types: dict[int, str]) -> Row | InvalidRow:
        # Missing cells at its end are empty.
        cells += [""] * (len(self._header) - len(cells))
        attributes: dict[str, AttributeValue] = {}
        for index, name in self._attributes:
            if cell := cells[index]:
                try:
                    attributes[name] = convert(cell, types.get(index, TEXT))
                except ValueError as error:
                    return InvalidRow(number, f"{self._header[index]}: {error}")
        return Row(
            number,
            cells[self._path],
            None if self._id is None else cells[self._id],
            self._id is not None,
            attributes if self._attributes else None,
        )
