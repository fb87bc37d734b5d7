"""Read the records of a CSV file. A record with unbalanced quotes does not swallow the rows after it."""

import csv
import io
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

from imagesearch_ingest.sources.local_files import is_utf8

# Maximum characters of a cell or a line. Longer ones are not a table, such as a large file without line ends.
LONGEST = 4 * 2**20
DELIMITERS = (",", ";", "\t", "|")


class _Lines:
    """The lines of a text. All lines since the last `mark`, except the first one, can be read again."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._again: deque[str] = deque()
        self._taken: list[str] = []
        self._taken_size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._text.readline(LONGEST)
        if not line:
            raise StopIteration
        self._taken.append(line)
        self._taken_size += len(line)
        if self._taken_size >= LONGEST:
            raise csv.Error(f"a row has {LONGEST} characters or more")
        return line

    def mark(self) -> None:
        self._taken.clear()
        self._taken_size = 0

    def go_back(self) -> None:
        """Go back to the line after the mark."""
        self._again.extendleft(reversed(self._taken[1:]))
        part = self._taken[0] if len(self._taken) == 1 else ""
        while len(part) == LONGEST and not part.endswith(("\n", "\r")):
            # Skip the rest of a line that is too long.
            part = self._text.readline(LONGEST)
        self.mark()


def read_records(file: BinaryIO, delimiter: str, *, skips_spaces: bool) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the number of each record from 1, with its cells, or with a text that says what is wrong."""
    # Python's own limit is small. Undecodable bytes are kept, so that they invalidate only their own row.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST))
    lines = _Lines(io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline=""))
    # Without `strict` an unbalanced quote would make the rest of the file one cell.
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=skips_spaces)
    number = 0
    while True:
        number += 1
        lines.mark()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield number, f"its quotes or line ends are invalid: {error}"
            lines.go_back()
            continue
        if cells is None:
            return
        yield number, cells


def find_delimiter(file: BinaryIO, usual: str) -> tuple[str, bool]:
    """Return the delimiter of the header, and whether spaces follow it. Raises ValueError."""
    _, header = next(read_records(file, usual, skips_spaces=False), (1, []))
    if isinstance(header, str):
        raise ValueError(header)  # noqa: TRY004 - the error message
    if len(header) > 1 or not header:
        return usual, _follows_space(header)
    counts = {mark: header[0].count(mark) for mark in DELIMITERS}
    found = max(counts, key=lambda mark: counts[mark])
    return (found, _follows_space(header[0].split(found))) if counts[found] else (usual, False)


def _follows_space(header: list[str]) -> bool:
    return any(name.startswith(" ") for name in header[1:])


def row_error(cells: list[str], width: int) -> str:
    """Return why the cells of a row are invalid; an empty string if they are valid."""
    if len(cells) > width and any(cell.strip() for cell in cells[width:]):
        return f"it has {len(cells)} cells, but the header has {width}"
    if any("\0" in cell for cell in cells):
        return "it has a NUL byte"
    return "" if all(map(is_utf8, cells)) else "it is not UTF-8"
