"""Vectors that were made before, by the content of their images; a file for each model."""

import re
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.evaluation.ranking import Vectors

SCHEMA = "CREATE TABLE IF NOT EXISTS vectors (sha256 TEXT PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"
FLOAT = np.dtype("<f4")
# Seconds to wait for another process that writes to the same file.
PATIENCE = 60.0


def is_usable(vector: Vectors) -> bool:
    """Return whether a vector, float32 [D], is finite and has a direction."""
    return bool(np.isfinite(vector).all() and vector.any())


class CacheError(AnalysisError):
    """A cache that cannot be used; says which file, and why."""


class VectorCache:
    """The vectors of one model. A vector is kept as soon as it is put in, also where the process is killed then."""

    def __init__(self, folder: Path, fingerprint: str, dimension: int) -> None:
        """Opens the model's file in a folder, both of which are made where there are none. Raises CacheError."""
        self._dimension = dimension
        self.path = folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', fingerprint)}.sqlite"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise self._error(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.close()

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those of the contents' SHA-256 that have no vector yet, each once."""
        return [digest for digest in dict.fromkeys(digests) if self.get(digest) is None]

    def get(self, digest: str) -> Vectors | None:
        """The vector of a content, float32 [D]; None where there is none."""
        try:
            row = self._database.execute("SELECT vector FROM vectors WHERE sha256 = ?", (digest,)).fetchone()
        except sqlite3.Error as error:
            raise self._error(error) from None
        vector = None if row is None else np.frombuffer(row[0], FLOAT)
        return vector if vector is not None and len(vector) == self._dimension and is_usable(vector) else None

    def put(self, digest: str, vector: Vectors) -> None:
        """Keeps the vector of a content. Raises CacheError."""
        try:
            self._database.execute(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?)", (digest, vector.astype(FLOAT, copy=False).tobytes())
            )
        except sqlite3.Error as error:
            raise self._error(error) from None

    def _error(self, error: Exception) -> CacheError:
        return CacheError(f"{self.path} cannot be used as a cache: {error}; --cache names another folder")
