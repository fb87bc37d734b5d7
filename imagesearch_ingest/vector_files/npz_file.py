"""Reads and writes vectors in NPZ. `numpy.load` reads whole arrays, so collections must fit into its memory.

An array of texts has four bytes for each character of its longest text. Compression removes nearly all of the padding.
"""

import json
import zipfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from imagesearch_ingest.sources.items import SourceError
from imagesearch_ingest.vector_files.column_names import find_columns, shown
from imagesearch_ingest.vector_files.rows import (
    TEXTS,
    Batches,
    ColumnNames,
    FileInfo,
    RawRows,
    RowError,
    attributes_json,
    regions_array,
    regions_from,
)

SUFFIX = ".npy"
# The bytes of an array that are read or written at a time.
PIECE_BYTES = 4 * 1024 * 1024
Values: TypeAlias = NDArray[Any]


def write_npz(path: str, info: FileInfo, batches: Batches) -> None:
    """Write a file, one array after the other; `batches` is called for each array.

    Raises OSError, and RowError for a text that ends with the character NUL.
    """
    count, widths = info.summary.rows, info.summary.widths
    with zipfile.ZipFile(path, "w", compresslevel=1) as archive:
        # The notes come first, because readers often need only them.
        notes = np.array([attributes_json(info.notes)])
        _write(archive, "notes", notes.shape, notes.dtype, [notes])
        vectors = (rows.vectors for rows in batches(True))
        _write(archive, "features", (count, info.dimension), np.dtype("<f4"), vectors)
        regions = (regions_array(rows.regions) for rows in batches(False))
        _write(archive, "regions", (count, 4), np.dtype("<f4"), regions)
        for name, column in TEXTS.items():
            kind = np.dtype(f"<U{max(1, widths.get(name, 0))}")
            _write(archive, name, (count,), kind, _texts(map(column, batches(False)), kind))


def _write(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], kind: np.dtype[Any], values: Iterable[Values]
) -> None:
    member = zipfile.ZipInfo(name + SUFFIX)
    # Vectors cannot be compressed.
    member.compress_type = zipfile.ZIP_STORED if name == "features" else zipfile.ZIP_DEFLATED
    # The size is known only at the end, and may exceed 4 GiB.
    with archive.open(member, "w", force_zip64=True) as file:
        header = {"descr": npy.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(file, header)
        for piece in values:
            file.write(np.ascontiguousarray(piece, kind).data.cast("B") if piece.size else b"")


def _texts(columns: Iterable[Iterable[str]], kind: np.dtype[Any]) -> Iterator[Values]:
    """Return arrays of texts, with fewer texts if they are long."""
    size = max(1, PIECE_BYTES // kind.itemsize)
    for column in columns:
        texts = list(column)
        for text in texts:
            # NumPy would remove it with the padding.
            if text.endswith("\0"):
                raise RowError(f"{text!r:.80} ends with the character NUL, which NPZ cannot store; use Parquet")
        for begin in range(0, len(texts), size):
            yield np.array(texts[begin : begin + size], kind)


@dataclass(frozen=True, slots=True)
class _Header:
    shape: tuple[int, ...]
    kind: np.dtype[Any]


class NpzTable:
    """An open NPZ file of vectors, exported or from elsewhere. It never unpickles objects."""

    def __init__(self, path: Path, columns: ColumnNames) -> None:
        """Open the file. Raises SourceError, OSError, ValueError, BadZipFile."""
        self._archive = zipfile.ZipFile(path)
        try:
            self._open(columns)
        except BaseException:
            self._archive.close()
            raise

    def _open(self, columns: ColumnNames) -> None:
        present = [name.removesuffix(SUFFIX) for name in self._archive.namelist() if name.endswith(SUFFIX)]
        self.notes: Mapping[str, str] = self._read_notes() if "notes" in present else {}
        if columns.renamed:
            raise SourceError(f"attributes in NPZ are JSON texts, so {shown(columns.renamed)} cannot be renamed")
        self._vector, self._id, self._uri = find_columns(present, columns)
        header = self._header(self._vector)
        if len(header.shape) != 2 or header.kind.kind != "f":  # noqa: PLR2004
            raise SourceError(
                f"{self._vector!r} is {header.kind} with shape {header.shape}; it must be floats with shape (rows, "
                "dimension)"
            )
        self.rows, self.dimension = header.shape
        self._texts = {name for name in ("content_sha256", "attributes") if name in present}
        for name in {self._id, *([self._uri] if self._uri else []), *self._texts}:
            self._check_column(name)
        self._regions = "regions" in present and self._header("regions").shape == (self.rows, 4)

    def _read_notes(self) -> dict[str, str]:
        header = self._header("notes")
        if header.kind.kind != "U" or header.shape != (1,):
            return {}
        notes = json.loads(str(next(self._pieces("notes", 1))[0]))
        return {str(name): str(value) for name, value in notes.items()}

    def _header(self, name: str) -> _Header:
        with self._archive.open(name + SUFFIX) as file:
            return _read_header(file, name)

    def _check_column(self, name: str) -> None:
        header = self._header(name)
        if header.shape != (self.rows,):
            raise SourceError(
                f"{name!r} has the shape {header.shape}; it must be ({self.rows},), because there are {self.rows} "
                "vectors"
            )
        if header.kind.kind not in "iuSU":
            raise SourceError(f"{name!r} is {header.kind}; it must be texts or integers")

    def close(self) -> None:
        """Close the file."""
        self._archive.close()

    def batches(self, size: int) -> Iterator[RawRows]:
        """Return all rows, at most `size` at a time; fewer if texts are long."""
        names = [self._vector, self._id, *([self._uri] if self._uri else []), *self._texts]
        widest = max(self._header(name).kind.itemsize for name in names[1:])
        size = max(1, min(size, PIECE_BYTES // max(1, widest)))
        if self._regions:
            names.append("regions")
        with ExitStack() as stack:
            pieces = {name: stack.enter_context(closing(self._pieces(name, size))) for name in names}
            for vectors in pieces[self._vector]:
                found = {name: next(pieces[name]) for name in names[1:]}
                with np.errstate(over="ignore"):
                    numbers = vectors.astype(np.float32, copy=False)
                texts = {name: found[name].tolist() for name in names[1:] if name != "regions"}
                yield RawRows(
                    numbers,
                    {},
                    texts[self._id],
                    texts[self._uri] if self._uri else None,
                    texts.get("content_sha256"),
                    regions_from(found["regions"]) if self._regions else None,
                    texts.get("attributes"),
                )

    def _pieces(self, name: str, size: int) -> Generator[Values]:
        """Return the rows of an array, at most `size` at a time. Raises ValueError if the file is truncated."""
        with self._archive.open(name + SUFFIX) as file:
            header = _read_header(file, name)
            row = int(np.prod(header.shape[1:], dtype=np.int64)) * header.kind.itemsize
            for begin in range(0, header.shape[0], size):
                count = min(size, header.shape[0] - begin)
                content = file.read(count * row)
                if len(content) < count * row:
                    raise ValueError(f"{name!r} ends before its last row")
                yield np.frombuffer(content, header.kind).reshape(count, *header.shape[1:])


def _read_header(file: IO[bytes], name: str) -> _Header:
    """Read the header of an array, up to its first value. Raises SourceError and ValueError."""
    version = npy.read_magic(file)
    if version == (1, 0):
        shape, fortran_order, kind = npy.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran_order, kind = npy.read_array_header_2_0(file)
    else:
        raise SourceError(f"{name!r} has version {version} of NumPy's format; it must be 1 or 2")
    if kind.hasobject:
        raise SourceError(
            f"{name!r} contains pickled objects, which could run any program; save texts as an array of texts, such as "
            "np.array(ids, dtype=str)"
        )
    if fortran_order and len(shape) > 1:
        raise SourceError(f"{name!r} is stored by columns; use np.ascontiguousarray to save it by rows")
    if kind.itemsize > PIECE_BYTES:
        raise SourceError(f"{name!r} has values of {kind.itemsize} bytes each; at most {PIECE_BYTES} are allowed")
    return _Header(shape, kind)
