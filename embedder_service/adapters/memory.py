"""Memory that is free, and that Python or the C library keep."""

import asyncio
import ctypes
import gc
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

INTERVAL_SECONDS = 10.0


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


async def give_back_after_work(
    worked: Callable[[], Awaitable[None]], interval_seconds: float = INTERVAL_SECONDS
) -> None:
    """Collect garbage and have glibc return free memory to the system, again and again while there is work.

    An idle process does not even wake up. Under load this happens once per interval, and a last time after its end.

    Each thread's arena keeps what was freed below something that is still used (malloc_trim(3)): after some images of
    a hundred megabytes that is half a gigabyte. Where the C library is another one, it is left alone.

    Args:
        worked: returns when there was work since its last return.
        interval_seconds: from a return of `worked` to the collection.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while True:
        await worked()
        await asyncio.sleep(interval_seconds)
        gc.collect()
        if trim is not None:
            await asyncio.to_thread(trim, 0)
