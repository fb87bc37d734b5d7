"""Checks that a disk has room before a command writes."""

import shutil
from pathlib import Path

# Room that stays free for other programs and for errors of the estimate; small files reserve only their own size.
SPARE_BYTES = 64 * 2**20


def space_problem(folder: Path, size: int) -> str:
    """Return why `size` bytes do not fit into a folder; empty if they fit. Raises OSError."""
    free = shutil.disk_usage(folder).free
    needed = size + min(size, SPARE_BYTES)
    if needed <= free:
        return ""
    return f"{folder} needs about {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free"
