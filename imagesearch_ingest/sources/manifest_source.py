"""List the images of manifests: lists of paths, and tables with ids and attributes."""

import hashlib
import posixpath
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import BinaryIO, Protocol

from imagesearch_ingest.sources.csv_rows import CsvRows
from imagesearch_ingest.sources.items import Fault, Item, SourceError
from imagesearch_ingest.sources.json_rows import JsonRows
from imagesearch_ingest.sources.local_files import is_utf8, name_not_utf8
from imagesearch_ingest.sources.manifest_columns import InvalidRow, ManifestRow
from imagesearch_ingest.sources.path_resolver import PathResolver
from imagesearch_ingest.sources.source_file import SourceFile, lines_of
from imagesearch_ingest.sources.source_options import SourceOptions
from imagesearch_ingest.sources.tar_files import raise_too_large

STANDARD_INPUT = "-"
LONGEST_PATH = 2**16


class Rows(Protocol):
    """The reader of one manifest format."""

    remarks: Sequence[str]
    """Remarks about the columns for users, after the rows were read."""

    def __iter__(self) -> Iterator[ManifestRow | InvalidRow]:
        """Yield the rows one by one."""

    def count(self) -> int | None:
        """Return the approximate number of rows; None if unknown."""


class ListSource:
    """A list of paths and URLs, one per line. Empty lines and lines that begin with # are ignored."""

    def __init__(self, path: str, options: SourceOptions, standard_input: BinaryIO | None = None) -> None:
        """Open a list, or standard input for "-", which can be read only once. Raises SourceError."""
        self._source_file = None if path == STANDARD_INPUT else SourceFile(path)
        self.name = "standard input" if self._source_file is None else self._source_file.name
        self._shown = self.name if self._source_file is None else self._source_file.file_name
        self._by_content = options.by_content
        self._resolver = PathResolver(
            options.root or ("." if self._source_file is None else self._source_file.folder), options.max_bytes
        )
        self._standard_input = standard_input
        self._is_read = False
        if self._source_file is not None:
            _opened(self._source_file).close()

    def __iter__(self) -> Iterator[Item | Fault]:
        """Yield the entries of the lines."""
        try:
            if self._source_file is None:
                yield from self._items(self._stream())
            else:
                with self._source_file.open() as file:
                    yield from self._items(file)
        except OSError as error:
            yield _unreadable(self._shown, error)

    def count(self) -> int | None:
        """Return the approximate number of images. It includes ignored lines."""
        return None if self._source_file is None else self._source_file.count_lines()

    def _stream(self) -> BinaryIO:
        if self._is_read:
            raise SourceError("standard input can be read only once; put the list into a file")
        self._is_read = True
        return self._standard_input or sys.stdin.buffer

    def _items(self, file: BinaryIO) -> Iterator[Item | Fault]:
        for number, line in lines_of(file, LONGEST_PATH):
            where = f"{self._shown}, line {number}"
            if line is None:
                yield Fault(where, "ROW_INVALID", f"the line has more than {LONGEST_PATH} bytes")
                continue
            text = line.decode("utf-8-sig" if number == 1 else "utf-8", errors="surrogateescape")
            if text.strip() and not text.startswith("#"):
                yield _item(text, None, where, self._resolver, self._by_content)


class ManifestSource:
    """A CSV, JSON Lines or Parquet file with one row per image."""

    def __init__(
        self, source_file: SourceFile, read_rows: Callable[[SourceFile, SourceOptions], Rows], options: SourceOptions
    ) -> None:
        """Read the columns. Raises SourceError."""
        self.name = source_file.name
        self._shown = source_file.file_name
        self._by_content = options.by_content
        self._max_bytes = options.max_bytes
        self._resolver = PathResolver(options.root or source_file.folder, options.max_bytes)
        try:
            self._rows = read_rows(source_file, options)
        except OSError as error:
            raise SourceError(f"{source_file.name} cannot be read: {error.strerror or error}") from None

    def __iter__(self) -> Iterator[Item | Fault]:
        """Yield the entries of the rows."""
        try:
            for row in self._rows:
                yield self._entry(row)
        except OSError as error:
            yield _unreadable(self._shown, error)

    def count(self) -> int | None:
        """Return the approximate number of rows."""
        return self._rows.count()

    @property
    def remarks(self) -> Sequence[str]:
        """Remarks about the columns for users, after the rows were read."""
        return self._rows.remarks

    def _entry(self, row: ManifestRow | InvalidRow) -> Item | Fault:
        where = f"{self._shown}, row {row.number}"
        if isinstance(row, InvalidRow):
            return Fault(where, "ROW_INVALID", row.message)
        if row.content is None and (not isinstance(row.path, str) or not row.path.strip()):
            return Fault(where, "ROW_INVALID", "it has no path")
        image_id: str | None = None
        if row.has_id and not self._by_content:
            image_id = _id_text(row.id)
            if not image_id:
                return Fault(where, "ROW_INVALID", "it has no id, which must be a text or a whole number")
        if row.content is not None:
            return self._embedded_image(row, image_id, row.content)
        return _item(str(row.path), image_id, where, self._resolver, self._by_content, row)

    def _embedded_image(self, row: ManifestRow, image_id: str | None, content: bytes) -> Item:
        """Return the item of an image whose file is in its row."""
        # Only Parquet files have such rows, and pyarrow is slow to import.
        from imagesearch_ingest.sources.parquet_image_reader import image_uri  # noqa: PLC0415

        if image_id is None:
            name = row.path if isinstance(row.path, str) and row.path.strip() else str(row.number)
            image_id = posixpath.join(self._shown, posixpath.normpath(name).lstrip("/"))
        is_kept = len(content) <= self._max_bytes
        return Item(
            "" if self._by_content else image_id,
            image_uri(row.column, row.number, self.name),
            partial(_read_kept, content) if is_kept else partial(raise_too_large, f"{self._shown}, row {row.number}"),
            row.attributes,
            len(content),
            hashlib.blake2b(content, digest_size=16).hexdigest(),
            held=len(content) if is_kept else 0,
        )


def open_csv(source_file: SourceFile, options: SourceOptions) -> ManifestSource:
    """Open a CSV or TSV file. Raises SourceError."""
    return ManifestSource(source_file, CsvRows, options)


def open_json_lines(source_file: SourceFile, options: SourceOptions) -> ManifestSource:
    """Open a JSON Lines file. Raises SourceError."""
    return ManifestSource(source_file, JsonRows, options)


def open_parquet(source_file: SourceFile, options: SourceOptions) -> ManifestSource:
    """Open a Parquet file. Raises SourceError."""
    # pyarrow is slow to import.
    from imagesearch_ingest.sources.parquet_rows import ParquetRows  # noqa: PLC0415

    return ManifestSource(source_file, ParquetRows, options)


def _item(
    path: str,
    image_id: str | None,
    where: str,
    resolver: PathResolver,
    by_content: bool,
    row: ManifestRow | None = None,
) -> Item | Fault:
    try:
        place = resolver.resolve(path)
    except ValueError as error:
        return Fault(where, "ROW_INVALID", str(error))
    if image_id is None:
        image_id = place.id
    if not is_utf8(place.uri + image_id):
        odd = name_not_utf8(path)
        return Fault(where, odd.reason, odd.message, may_hide_items=False)
    attributes = None if row is None else row.attributes
    return Item("" if by_content else image_id, place.uri, place.content, attributes, place.size, place.stamp)


def _read_kept(content: bytes, limit: int) -> bytes:
    return content[:limit]


def _id_text(value: object) -> str:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _opened(source_file: SourceFile) -> BinaryIO:
    try:
        return source_file.open()
    except OSError as error:
        raise SourceError(f"{source_file.name} cannot be read: {error.strerror or error}") from None


def _unreadable(name: str, error: OSError) -> Fault:
    return Fault(name, "MANIFEST_UNREADABLE", f"the rest of it cannot be read: {error.strerror or error}")
