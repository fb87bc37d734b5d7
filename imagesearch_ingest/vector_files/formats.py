"""The formats that vectors are written to and read from, told by the suffix of the file."""

import zipfile
import zlib
from pathlib import Path

import pyarrow as pa

from imagesearch_ingest.atomic_file import atomic_write
from imagesearch_ingest.sources.items import SourceError
from imagesearch_ingest.vector_files.hdf5_file import Hdf5Table, write_hdf5
from imagesearch_ingest.vector_files.npz_file import NpzTable, write_npz
from imagesearch_ingest.vector_files.parquet_file import write_parquet
from imagesearch_ingest.vector_files.parquet_table import ParquetTable
from imagesearch_ingest.vector_files.rows import Batches, Columns, Facts, Table, Writer

WRITERS: dict[str, Writer] = {"parquet": write_parquet, "hdf5": write_hdf5, "npz": write_npz}
SUFFIXES = {".parquet": "parquet", ".h5": "hdf5", ".hdf5": "hdf5", ".npz": "npz"}
# What the libraries raise of a file that is cut off, or no such file at all.
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
    """parquet, hdf5 or npz. Raises ValueError, which names the suffixes that there are."""
    try:
        return SUFFIXES[path.suffix.lower()]
    except KeyError:
        raise ValueError(f"{path.name!r:.120} should end with {', '.join(SUFFIXES)}") from None


def write_vectors(target: Path, facts: Facts, batches: Batches) -> int:
    """Writes a file, whole or not at all; gives its bytes.

    Raises ValueError of its name, OSError, and RowError for what the format cannot hold.
    """
    write = WRITERS[format_of(target)]
    with atomic_write(target) as partial:
        write(str(partial), facts, batches)
    return target.stat().st_size


def open_vectors(path: Path, columns: Columns) -> Table:
    """A file to be read. Raises SourceError."""
    try:
        match format_of(path):
            case "parquet":
                return ParquetTable(path, columns)
            case "hdf5":
                return Hdf5Table(path, columns)
        return NpzTable(path, columns)
    except FileNotFoundError:
        raise SourceError(f"{path}: there is no such file") from None
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from None
    except UNREADABLE as error:
        raise SourceError(f"{path}: cannot be read, it may be cut off or no such file at all: {error}") from None
