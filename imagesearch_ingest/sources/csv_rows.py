"""Read the rows of CSV and TSV files."""

from collections.abc import Iterator, Sequence

from imagesearch_client.types import AttributeValue
from imagesearch_ingest.sources.attribute_values import suggest_option
from imagesearch_ingest.sources.csv_records import find_delimiter, read_records, row_error
from imagesearch_ingest.sources.csv_types import (
    NULLS,
    TEXT,
    TYPES,
    ColumnFacts,
    convert_cell,
    count_of_cells,
    quoted_cell,
)
from imagesearch_ingest.sources.items import SourceError
from imagesearch_ingest.sources.local_files import is_utf8
from imagesearch_ingest.sources.manifest_columns import InvalidRow, ManifestRow, assign_columns
from imagesearch_ingest.sources.source_file import SourceFile
from imagesearch_ingest.sources.source_options import SourceOptions

# Maximum characters of a used cell. All attributes of an image together may have 32 KiB.
LONGEST_CELL = 2**17


class CsvRows:
    """The rows of a UTF-8 file with a header.

    Spaces around names and cells are ignored, and a cell such as `null` is empty, except in columns with the given type
    text.
    """

    def __init__(self, source_file: SourceFile, options: SourceOptions) -> None:
        """Read the header. Raises SourceError and OSError."""
        self._source_file = source_file
        if unknown := sorted(set(options.types.values()) - set(TYPES)):
            raise SourceError(f"{', '.join(unknown)} is not a type of a column; use one of {', '.join(TYPES)}")
        self._header = self._read_header()
        names = [name for name in self._header if name]
        self._columns = assign_columns(names, options, source_file.file_name)
        self._path = self._header.index(self._columns.path)
        self._id = None if self._columns.id is None else self._header.index(self._columns.id)
        self._attributes = [(self._header.index(column), name) for column, name in self._columns.attributes.items()]
        self._types = {self._header.index(column): kind for column, kind in options.types.items()}
        self._unnamed = [index for index, name in enumerate(self._header) if not name]
        self.remarks: Sequence[str] = ()
        """Remarks about the columns for users, after the rows were read."""

    def __iter__(self) -> Iterator[ManifestRow | InvalidRow]:
        """Yield the rows, after reading the file once to infer the types."""
        types = self._infer()
        for number, cells in self._cells():
            yield cells if isinstance(cells, InvalidRow) else self._row(number, cells, types)

    def count(self) -> int | None:
        """Return the approximate number of rows: a cell may have several lines."""
        lines = self._source_file.count_lines()
        return None if lines is None else max(lines - 1, 0)

    def _read_header(self) -> list[str]:
        name = self._source_file.file_name
        usual = "\t" if name.lower().endswith(".tsv") else ","
        try:
            with self._source_file.open() as file:
                self._delimiter, self._skips_spaces = find_delimiter(file, usual)
        except ValueError as error:
            raise SourceError(f"{name} has no readable header: {error}") from None
        header = next(self._records(), (1, []))[1]
        if isinstance(header, str):
            raise SourceError(f"{name} has no readable header: {header}")
        if any(not is_utf8(cell) or "\0" in cell for cell in header):
            raise SourceError(f"{name} is not UTF-8, or not a CSV file; save it as CSV in UTF-8")
        return [cell.strip() for cell in header]

    def _records(self) -> Iterator[tuple[int, list[str] | str]]:
        with self._source_file.open() as file:
            yield from read_records(file, self._delimiter, skips_spaces=self._skips_spaces)

    def _cells(self) -> Iterator[tuple[int, list[str] | InvalidRow]]:
        """Yield each row after the header, padded with empty cells to the length of the header."""
        width = len(self._header)
        for number, found in self._records():
            if number == 1 or not found:
                continue
            fault = found if isinstance(found, str) else row_error(found, width)
            if fault or isinstance(found, str):
                yield number, InvalidRow(number, fault)
            else:
                yield number, [*found[:width], *[""] * (width - len(found))]

    def _infer(self) -> dict[int, str]:
        facts = {index: ColumnFacts(self._header[index]) for index, _ in self._attributes if index not in self._types}
        # By index: the number of cells, and the first row and cell.
        unnamed: dict[int, tuple[int, int, str]] = {}
        if facts or self._unnamed:
            for number, cells in self._cells():
                if isinstance(cells, InvalidRow):
                    continue
                for index, column in facts.items():
                    column.add(number, cells[index])
                for index in self._unnamed:
                    if cells[index].strip():
                        count, row, cell = unnamed.get(index, (0, number, cells[index]))
                        unnamed[index] = (count + 1, row, cell)
        name = self._source_file.file_name
        remarks = [remark for column in facts.values() if (remark := column.remark())]
        remarks += [
            f"column {index + 1} has no name and is ignored; {count_of_cells(count)}, "
            f"first {quoted_cell(cell)} in row {row}"
            for index, (count, row, cell) in unnamed.items()
        ]
        self.remarks = [f"{name}: {remark}" for remark in remarks]
        return {index: column.type for index, column in facts.items()} | self._types

    def _row(self, number: int, cells: list[str], types: dict[int, str]) -> ManifestRow | InvalidRow:
        attributes: dict[str, AttributeValue] = {}
        for index, name in self._attributes:
            cell = cells[index]
            if self._types.get(index) != TEXT:
                cell = _value(cell)
            if not cell:
                continue
            try:
                if len(cell) > LONGEST_CELL:
                    raise ValueError(
                        f"the cell has {len(cell)} characters; the limit is {LONGEST_CELL}; "
                        f"{suggest_option('--map', self._header[index])} leaves the column out"
                    )
                attributes[name] = convert_cell(cell, types.get(index, TEXT))
            except ValueError as error:
                return InvalidRow(number, f"{self._header[index]}: {error}")
        path, image_id = _value(cells[self._path]), None if self._id is None else _value(cells[self._id])
        if max(len(path), len(image_id or "")) > LONGEST_CELL:
            return InvalidRow(number, f"its path or id has more than {LONGEST_CELL} characters")
        return ManifestRow(number, path, image_id, self._id is not None, attributes if self._attributes else None)


def _value(cell: str) -> str:
    """Return a cell without surrounding spaces; an empty string for a null value."""
    text = cell.strip()
    return "" if text in NULLS else text
