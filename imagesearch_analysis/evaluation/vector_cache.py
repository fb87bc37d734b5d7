"""Caches vectors on disk by the content of their images, in one file for each model."""

import re
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.vectors import FLOAT, Floats

SCHEMA = "CREATE TABLE IF NOT EXISTS vectors (sha256 TEXT PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"
# How long a write waits for another process that writes to the same file.
LOCK_SECONDS = 60.0


def is_usable(vector: Floats) -> bool:
    """Return whether a vector, float32[dimension], is finite and not zero."""
    return bool(np.isfinite(vector).all() and vector.any())


class CacheError(AnalysisError):
    """A cache cannot be used; the message names the file and the reason."""


class VectorCache:
    """The vectors of one model. A vector is safe on disk as soon as `put` returns, even if the process is killed."""

    def __init__(self, folder: Path, fingerprint: str, dimension: int) -> None:
        """Open the file of the model, and create it and its folder if necessary. Raises CacheError."""
        self._dimension = dimension
        self.path = folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', fingerprint)}.sqlite"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=LOCK_SECONDS, isolation_level=None)
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
        """Return the SHA-256 digests without a vector, without repetitions."""
        return [digest for digest in dict.fromkeys(digests) if self.get(digest) is None]

    def get(self, digest: str) -> Floats | None:
        """Return the vector of the image with this SHA-256 digest, float32[dimension]; None if the cache has none."""
        try:
            row = self._database.execute("SELECT vector FROM vectors WHERE sha256 = ?", (digest,)).fetchone()
        except sqlite3.Error as error:
            raise self._error(error) from None
        vector = None if row is None else np.frombuffer(row[0], FLOAT)
        return vector if vector is not None and len(vector) == self._dimension and is_usable(vector) else None

    def put(self, digest: str, vector: Floats) -> None:
        """Store the vector of the image with this SHA-256 digest. Raises CacheError."""
        try:
            self._database.execute(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?)", (digest, vector.astype(FLOAT, copy=False).tobytes())
            )
        except sqlite3.Error as error:
            raise self._error(error) from None

    def _error(self, error: Exception) -> CacheError:
        return CacheError(f"cache {self.path} cannot be used: {error}; use --cache to name another folder")
