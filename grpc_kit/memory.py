"""How the C library keeps memory that is free."""

import ctypes

# From malloc.h of glibc.
M_MMAP_THRESHOLD = -3
# Bytes from which a block is mapped by itself, and goes back to the system as soon as it is free.
MAPPED_BYTES = 256 * 1024


def return_large_blocks() -> None:
    """Have glibc return each large block to the system as soon as it is free.

    By default it raises the threshold to the size of the largest block that was freed, up to 32 MiB. Messages with
    images then share the heap with small objects, which keep most of it resident for good. Where the C library is
    another one, it is left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
