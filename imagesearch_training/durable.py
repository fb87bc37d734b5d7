"""Files and folders that outlast a power cut."""

import os
from pathlib import Path


def rename(written: Path, path: Path) -> None:
    """Gives a file, or a folder with all that is in it, another name; both content and name are on the disk then.

    A file of that name is replaced. Raises OSError.
    """
    # The name must not reach the disk before the content does.
    for part in (*written.rglob("*"), written):
        sync(part)
    written.replace(path)
    for folder in {written.parent, path.parent}:
        sync(folder)


def sync(path: Path) -> None:
    """Waits until a file's content, or the names in a folder, are on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
