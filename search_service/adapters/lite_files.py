"""Milvus Lite's files: whether another process has them open, and what a kill left of them."""

import fcntl
import os
from pathlib import Path

import numpy as np
import structlog

log = structlog.stdlib.get_logger()


def check_unused(uri: str) -> None:
    """Raise OSError if another process has Milvus Lite's folder open. Changes nothing; a server's address passes."""
    try:
        lock = os.open(Path(uri) / "LOCK", os.O_RDONLY)
    except OSError:
        return
    try:
        # Milvus Lite (3.2.2) holds an exclusive lock on this file while it is open.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(
            f"Milvus Lite cannot use {uri}: it is open in another process. Stop that process, or set SEARCH_MILVUS_URI "
            "to another path that ends in .db"
        ) from None
    finally:
        os.close(lock)


def remove_broken_indexes(folder: Path) -> None:
    """Removes indexes that a kill left unfinished; Milvus Lite makes them again of the vectors, which are elsewhere.

    It writes them in place (3.2.2), and does not load a collection that has half of one. Only exact indexes, NumPy's
    format, are looked at: they are the ones that this service makes.
    """
    for path in folder.glob("collections/*/partitions/*/indexes/*.flat.idx"):
        try:
            # The header says how long the file should be; no vector is read.
            np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError):
            log.warning("removing an index that was not written to its end", path=str(path))
            path.unlink(missing_ok=True)
