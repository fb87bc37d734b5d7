"""Writes files and folders so that they survive a power cut."""

import os
from pathlib import Path


def rename(written: Path, path: Path) -> None:
    """Rename a file or a folder. When this returns, content and name are on the disk.

    An existing file at `path` is replaced. Raises OSError.
    """
    # The content must be on the disk before the name.
    for part in (*written.rglob("*"), written):
        sync(part)
    written.replace(path)
    for folder in {written.parent, path.parent}:
        sync(folder)


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
