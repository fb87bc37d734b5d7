"""Returns free memory to the operating system."""

import asyncio
import ctypes
import gc
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

INTERVAL_SECONDS = 10.0
# Parameters of mallopt(3), as in glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# Blocks of this many bytes or more are mapped separately, and unmapped when they are freed.
LARGE_BYTES = 1024 * 1024
# Free bytes that a heap keeps at its end for further blocks.
KEPT_BYTES = 16 * 1024 * 1024


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes; 0 if the system is not Linux."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def freeze_loaded_objects() -> None:
    """Exclude all current objects from garbage collection: they live as long as the process.

    Otherwise, full collections are rare and slow, because TensorFlow's modules contain very many objects.
    """
    gc.collect()
    gc.freeze()


def unmap_large_blocks() -> None:
    """Make glibc return the memory of large blocks, such as images, to the system when they are freed.

    By default, glibc raises its threshold with each such block, up to 32 MiB. It then keeps the blocks in fragmented
    heaps, and images use several times their size. With another C library, this function does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


async def trim_after_work(worked: Callable[[], Awaitable[None]], interval_seconds: float = INTERVAL_SECONDS) -> None:
    """Collect garbage and return free memory to the system, once per interval under load and once after the load.

    An idle process does not wake up. Without malloc_trim(3), each thread's arena keeps the free memory below a block
    in use. After some images of a hundred megabytes, that is half a gigabyte. Without glibc, this function only
    collects garbage.

    Args:
        worked: returns as soon as work was done after its previous return.
        interval_seconds: time from a return of `worked` to the collection.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while True:
        await worked()
        await asyncio.sleep(interval_seconds)
        gc.collect()
        if trim is not None:
            await asyncio.to_thread(trim, 0)
