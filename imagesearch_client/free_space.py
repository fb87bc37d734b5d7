"""Whether a disk has room for what a command is about to write."""

import shutil
from pathlib import Path

# Left to others, and for what an estimate misses.
SPARE_BYTES = 64 * 2**20


def lack_of_space(folder: Path, size: int) -> str:
    """What is wrong if about `size` bytes do not fit into a folder; empty if they do. Raises OSError."""
    free = shutil.disk_usage(folder).free
    if size + SPARE_BYTES <= free:
        return ""
    return f"about {size / 1e9:.2f} GB are needed in {folder}, where {free / 1e9:.2f} GB are free"
