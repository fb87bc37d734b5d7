"""Selects the format of a file of vectors by its suffix."""

import zipfile
import zlib
from pathlib import Path

import pyarrow as pa

from imagesearch_ingest.atomic_file import atomic_write
from imagesearch_ingest.sources.items import SourceError
from imagesearch_ingest.vector_files.hdf5_file import Hdf5Table, write_hdf5
from imagesearch_ingest.vector_files.npz_file import NpzTable, write_npz
from imagesearch_ingest.vector_files.parquet_reader import ParquetTable
from imagesearch_ingest.vector_files.parquet_writer import write_parquet
from imagesearch_ingest.vector_files.rows import Batches, ColumnNames, FileInfo, VectorTable, Writer

WRITERS: dict[str, Writer] = {"parquet": write_parquet, "hdf5": write_hdf5, "npz": write_npz}
SUFFIXES = {".parquet": "parquet", ".h5": "hdf5", ".hdf5": "hdf5", ".npz": "npz"}
# Errors that the libraries raise for truncated files and for files of other formats.
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
    TypeError,
    EOFError,
    pa.ArrowException,
    zipfile.BadZipFile,
    zlib.error,
)


def format_of(path: Path) -> str:
    """Return "parquet", "hdf5" or "npz". Raises ValueError that names the allowed suffixes."""
    try:
        return SUFFIXES[path.suffix.lower()]
    except KeyError:
        raise ValueError(f"{path.name!r:.120} has an unknown suffix; it must be {', '.join(SUFFIXES)}") from None


def write_vectors(target: Path, info: FileInfo, batches: Batches) -> int:
    """Write a file completely or not at all, and return its size in bytes.

    Raises ValueError for an unknown suffix, OSError, and RowError for a row that the format cannot store.
    """
    write = WRITERS[format_of(target)]
    with atomic_write(target) as partial:
        write(str(partial), info, batches)
    return target.stat().st_size


def open_vectors(path: Path, columns: ColumnNames) -> VectorTable:
    """Open a file for reading. Raises SourceError."""
    try:
        match format_of(path):
            case "parquet":
                return ParquetTable(path, columns)
            case "hdf5":
                return Hdf5Table(path, columns)
        return NpzTable(path, columns)
    except FileNotFoundError:
        raise SourceError(f"{path} does not exist") from None
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from None
    except UNREADABLE as error:
        raise SourceError(f"{path} cannot be read; it may be truncated or have another format: {error}") from None
