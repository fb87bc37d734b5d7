"""The files of Milvus Lite: detect another process that uses them, and repair them after a kill."""

import fcntl
import os
from pathlib import Path

import numpy as np
import structlog

log = structlog.stdlib.get_logger()


def check_unused(uri: str) -> None:
    """Raise OSError if another process has the folder of Milvus Lite open. Addresses of servers pass."""
    try:
        lock = os.open(Path(uri) / "LOCK", os.O_RDONLY)
    except OSError:
        return
    try:
        # Milvus Lite 3.2.2 holds an exclusive lock on this file while it is open.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(
            f"Milvus Lite cannot use {uri}: it is open in another process. Stop that process, or set SEARCH_MILVUS_URI "
            "to another path that ends in .db"
        ) from None
    finally:
        os.close(lock)


def remove_broken_indexes(folder: Path) -> None:
    """Delete index files that a kill cut off. Milvus Lite builds them again from the vectors, which are in other files.

    Milvus Lite 3.2.2 writes an index in place, and cannot load a collection with half an index. This checks only exact
    indexes, which are NumPy files: this service makes no others.
    """
    for path in folder.glob("collections/*/partitions/*/indexes/*.flat.idx"):
        try:
            # This compares the size in the header with the size of the file, and reads no vector.
            np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError):
            log.warning("deleting an index file that was cut off", path=str(path))
            path.unlink(missing_ok=True)
