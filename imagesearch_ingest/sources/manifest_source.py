"""Lists of images: plain ones of paths, and manifests whose rows have ids and attributes too."""

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
    """What a format's reader gives."""

    remarks: Sequence[str]
    """What users should know of the columns, after the rows were read."""

    def __iter__(self) -> Iterator[ManifestRow | InvalidRow]:
        """The rows, one by one."""

    def count(self) -> int | None:
        """About how many there are."""


class ListSource:
    """A list of paths and URLs, one a line; empty lines and those that begin with # are none."""

    def __init__(self, path: str, options: SourceOptions, standard_input: BinaryIO | None = None) -> None:
        """Takes a list, or with "-" the standard input, which can be read only once. Raises SourceError."""
        self._location = None if path == STANDARD_INPUT else SourceFile(path)
        self.name = "standard input" if self._location is None else self._location.name
        self._shown = self.name if self._location is None else self._location.file_name
        self._by_content = options.by_content
        self._places = PathResolver(
            options.root or ("." if self._location is None else self._location.folder), options.max_bytes
        )
        self._standard_input = standard_input
        self._is_read = False
        if self._location is not None:
            _opened(self._location).close()

    def __iter__(self) -> Iterator[Item | Fault]:
        """The images of its lines."""
        try:
            if self._location is None:
                yield from self._items(self._stream())
            else:
                with self._location.open() as file:
                    yield from self._items(file)
        except OSError as error:
            yield _broken_off(self._shown, error)

    def count(self) -> int | None:
        """About how many there are: lines that are none are counted too."""
        return None if self._location is None else self._location.count_lines()

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
                yield _item(text, None, where, self._places, self._by_content)


class ManifestSource:
    """A CSV, JSON Lines or Parquet file with a row for each image."""

    def __init__(
        self, location: SourceFile, read_rows: Callable[[SourceFile, SourceOptions], Rows], options: SourceOptions
    ) -> None:
        """Looks at what columns there are. Raises SourceError."""
        self.name = location.name
        self._shown = location.file_name
        self._by_content = options.by_content
        self._max_bytes = options.max_bytes
        self._places = PathResolver(options.root or location.folder, options.max_bytes)
        try:
            self._rows = read_rows(location, options)
        except OSError as error:
            raise SourceError(f"{location.name} cannot be read: {error.strerror or error}") from None

    def __iter__(self) -> Iterator[Item | Fault]:
        """The images of its rows."""
        try:
            for row in self._rows:
                yield self._found(row)
        except OSError as error:
            yield _broken_off(self._shown, error)

    def count(self) -> int | None:
        """About how many rows there are."""
        return self._rows.count()

    @property
    def remarks(self) -> Sequence[str]:
        """What users should know of the columns, after the rows were read."""
        return self._rows.remarks

    def _found(self, row: ManifestRow | InvalidRow) -> Item | Fault:
        where = f"{self._shown}, row {row.number}"
        if isinstance(row, InvalidRow):
            return Fault(where, "ROW_INVALID", row.message)
        if row.content is None and (not isinstance(row.path, str) or not row.path.strip()):
            return Fault(where, "ROW_INVALID", "it has no path")
        image_id: str | None = None
        if row.has_id and not self._by_content:
            image_id = _id_text(row.id)
            if not image_id:
                return Fault(where, "ROW_INVALID", "it has no id, which is a text or a whole number")
        if row.content is not None:
            return self._held(row, image_id, row.content)
        return _item(str(row.path), image_id, where, self._places, self._by_content, row)

    def _held(self, row: ManifestRow, image_id: str | None, content: bytes) -> Item:
        """An image whose file is in its row."""
        # The others need no pyarrow.
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


def open_csv(location: SourceFile, options: SourceOptions) -> ManifestSource:
    """A CSV or TSV file. Raises SourceError."""
    return ManifestSource(location, CsvRows, options)


def open_json_lines(location: SourceFile, options: SourceOptions) -> ManifestSource:
    """A JSON Lines file. Raises SourceError."""
    return ManifestSource(location, JsonRows, options)


def open_parquet(location: SourceFile, options: SourceOptions) -> ManifestSource:
    """A Parquet file. Raises SourceError."""
    # It takes a while, and only this kind of source needs it.
    from imagesearch_ingest.sources.parquet_rows import ParquetRows  # noqa: PLC0415

    return ManifestSource(location, ParquetRows, options)


def _item(
    path: str, image_id: str | None, where: str, places: PathResolver, by_content: bool, row: ManifestRow | None = None
) -> Item | Fault:
    try:
        place = places.find(path)
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


def _opened(location: SourceFile) -> BinaryIO:
    try:
        return location.open()
    except OSError as error:
        raise SourceError(f"{location.name} cannot be read: {error.strerror or error}") from None


def _broken_off(name: str, error: OSError) -> Fault:
    return Fault(name, "MANIFEST_UNREADABLE", f"it cannot be read on: {error.strerror or error}")
