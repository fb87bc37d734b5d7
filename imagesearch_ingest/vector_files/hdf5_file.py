"""Reads and writes vectors in HDF5: a dataset for each column, with attributes as JSON texts."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from imagesearch_ingest.sources.items import SourceError
from imagesearch_ingest.vector_files.column_names import attribute_names, find_columns
from imagesearch_ingest.vector_files.rows import (
    TEXTS,
    Batches,
    ColumnNames,
    FileInfo,
    RawRows,
    RowError,
    Rows,
    regions_array,
    regions_from,
)

CHUNK_BYTES = 1024 * 1024
TEXT_CHUNK = 1024


def write_hdf5(path: str, info: FileInfo, batches: Batches) -> None:
    """Write a file. Raises OSError, and RowError for a text with the character NUL."""
    _check_texts(info.notes.values())
    try:
        with h5py.File(path, "w") as file:
            file.attrs.update(info.notes)
            _make_datasets(file, info)
            begin = 0
            for rows in batches(True):
                _write_rows(file, rows, begin)
                begin += len(rows)
    except RuntimeError as error:
        # h5py raises RuntimeError if the last bytes cannot be written to disk.
        raise OSError(f"HDF5: {error}") from None


def _make_datasets(file: Any, info: FileInfo) -> None:
    count, dimension = info.summary.rows, info.dimension
    chunk = max(1, min(CHUNK_BYTES // (4 * dimension), 10_000))
    # With a growing size, a chunk may be larger than the dataset, which may be empty.
    file.create_dataset("features", (count, dimension), "f4", maxshape=(None, dimension), chunks=(chunk, dimension))
    file.create_dataset("regions", (count, 4), "f4", maxshape=(None, 4), chunks=(TEXT_CHUNK, 4), compression="gzip")
    for name in TEXTS:
        file.create_dataset(name, (count,), h5py.string_dtype(), maxshape=(None,), chunks=(TEXT_CHUNK,))


def _write_rows(file: Any, rows: Rows, begin: int) -> None:
    end = begin + len(rows)
    file["features"][begin:end] = rows.vectors
    file["regions"][begin:end] = regions_array(rows.regions)
    for name, column in TEXTS.items():
        texts = list(column(rows))
        _check_texts(texts)
        file[name][begin:end] = np.array(texts, object)


def _check_texts(texts: Iterable[str]) -> None:
    for text in texts:
        if "\0" in text:
            raise RowError(f"{text!r:.80} contains the character NUL, which HDF5 cannot store; use Parquet")


class Hdf5Table:
    """An open HDF5 file of vectors, exported or from elsewhere."""

    def __init__(self, path: Path, columns: ColumnNames) -> None:
        """Open the file. Raises SourceError, OSError, and all other errors of h5py for damaged files."""
        self._file = h5py.File(path, "r")
        try:
            self._open(columns)
        except BaseException:
            self._file.close()
            raise

    def _open(self, columns: ColumnNames) -> None:
        self.notes: Mapping[str, str] = {
            name: value for name, value in self._file.attrs.items() if isinstance(value, str)
        }
        present = list(self._file)
        names = find_columns(present, columns)
        vector, image_id, uri = names
        self._vectors = self._dataset(vector)
        if self._vectors.ndim != 2 or self._vectors.dtype.kind != "f":  # noqa: PLR2004
            raise SourceError(
                f"{vector!r} is {self._vectors.dtype} with shape {self._vectors.shape}; it must be floats with shape "
                "(rows, dimension)"
            )
        self.rows, self.dimension = map(int, self._vectors.shape)
        self._ids = self._column(image_id)
        self._uris = self._column(uri) if uri else None
        self._sha256 = self._column("content_sha256") if "content_sha256" in present else None
        self._regions = None
        if "regions" in present and self._dataset("regions").shape == (self.rows, 4):
            self._regions = self._dataset("regions")
        self._json, self._attributes = None, dict[str, Any]()
        if "attributes" in present and self._is_group("attributes"):
            found = {name: f"attributes/{name}" for name in self._file["attributes"]}
            attributes = attribute_names(found, columns.renamed)
            self._attributes = {name: self._attribute(found[column]) for column, name in attributes.items()}
        elif "attributes" in present and "attributes" not in names:
            self._json = self._column("attributes")

    def _is_group(self, name: str) -> bool:
        self._check_link(name)
        return isinstance(self._file[name], h5py.Group)

    def _check_link(self, name: str) -> None:
        # A link could point to any file on this machine, and the import would publish its content.
        if not isinstance(self._file.get(name, getlink=True), h5py.HardLink):
            raise SourceError(f"{name!r} is a link; the data must be in the file itself")

    def _dataset(self, name: str) -> Any:
        self._check_link(name)
        dataset = self._file[name]
        if not isinstance(dataset, h5py.Dataset):
            raise SourceError(f"{name!r} is a {type(dataset).__name__.lower()}; it must be a dataset")
        if dataset.external or dataset.is_virtual:
            raise SourceError(f"{name!r} stores its values in other files; the data must be in the file itself")
        return dataset

    def _column(self, name: str) -> Any:
        dataset = self._dataset(name)
        if dataset.shape != (self.rows,):
            raise SourceError(
                f"{name!r} has the shape {dataset.shape}; it must be ({self.rows},), because there are {self.rows} "
                "vectors"
            )
        if dataset.dtype.kind not in "iuS" and h5py.check_string_dtype(dataset.dtype) is None:
            raise SourceError(f"{name!r} is {dataset.dtype}; it must be texts or integers")
        return dataset

    def _attribute(self, name: str) -> Any:
        dataset = self._dataset(name)
        if dataset.dtype.kind in "fb" and dataset.shape == (self.rows,):
            return dataset
        return self._column(name)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def batches(self, size: int) -> Iterator[RawRows]:
        """Return all rows, at most `size` at a time."""
        for begin in range(0, self.rows, size):
            rows = slice(begin, min(begin + size, self.rows))
            with np.errstate(over="ignore"):
                vectors = self._vectors[rows].astype(np.float32, copy=False)
            yield RawRows(
                vectors,
                {},
                self._ids[rows].tolist(),
                self._uris[rows].tolist() if self._uris is not None else None,
                self._sha256[rows].tolist() if self._sha256 is not None else None,
                regions_from(self._regions[rows]) if self._regions is not None else None,
                self._attributes_of(rows),
            )

    def _attributes_of(self, rows: slice) -> list[Any] | None:
        if self._json is not None:
            texts: list[Any] = self._json[rows].tolist()
            return texts
        if not self._attributes:
            return None
        names = list(self._attributes)
        columns = [self._attributes[name][rows].tolist() for name in names]
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
