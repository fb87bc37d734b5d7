"""Milvus Lite's files after the process was killed."""

from pathlib import Path

import numpy as np
import structlog

log = structlog.stdlib.get_logger()


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
