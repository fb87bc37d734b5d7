"""Memory that is free, and that Python or the C library keep."""

import asyncio
import ctypes
import gc
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

INTERVAL_SECONDS = 10.0
# Parameters of mallopt(3), as in glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# Blocks of this many bytes or more are mapped one by one, and unmapped as soon as they are free.
LARGE_BYTES = 1024 * 1024
# Free bytes at the end of a heap that are kept for the next smaller blocks.
KEPT_BYTES = 16 * 1024 * 1024


def resident_bytes() -> int:
    """The memory of this process that is in use now, as Linux counts it; 0 elsewhere."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def settle() -> None:
    """Takes what is in memory now out of the garbage collector's sight: it stays as long as the process.

    The collector looks at everything only when a quarter as much has come: TensorFlow's modules alone would put that
    off for hours, and make it last long.
    """
    gc.collect()
    gc.freeze()


def unmap_large_blocks() -> None:
    """Make glibc return the memory of large blocks, such as images, to the system as soon as they are free.

    By default glibc raises its threshold with each such block, up to 32 MiB, and keeps the blocks in fragmented heaps.
    Images then take several times their size. With another C library this does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


async def give_back_after_work(
    worked: Callable[[], Awaitable[None]], interval_seconds: float = INTERVAL_SECONDS
) -> None:
    """Collect garbage and make glibc return free memory to the system, repeatedly while there is work.

    An idle process does not wake up. Under load this happens once per interval, and once more after the load ends.

    Each thread's arena keeps what was freed below something that is still used (malloc_trim(3)): after some images of
    a hundred megabytes that is half a gigabyte. With another C library this only collects garbage.

    Args:
        worked: returns when there was work since its last return.
        interval_seconds: time from a return of `worked` to the collection.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while True:
        await worked()
        await asyncio.sleep(interval_seconds)
        gc.collect()
        if trim is not None:
            await asyncio.to_thread(trim, 0)
