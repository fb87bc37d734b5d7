"""Whether a disk has room for what a command is about to write."""

import shutil
from pathlib import Path

# Left to others, and for what an estimate misses; less if less is written.
SPARE_BYTES = 64 * 2**20


def lack_of_space(folder: Path, size: int) -> str:
    """What is wrong if about `size` bytes do not fit into a folder; empty if they do. Raises OSError."""
    free = shutil.disk_usage(folder).free
    needed = size + min(size, SPARE_BYTES)
    if needed <= free:
        return ""
    return f"about {needed / 1e6:,.1f} MB are needed in {folder}, where {free / 1e6:,.1f} MB are free"
