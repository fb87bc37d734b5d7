"""Detects failed allocations in C libraries that report them as bad input.

The C library sets errno, which is local to each thread. It keeps its value until the thread's next error.
"""

import ctypes
import errno
from collections.abc import Callable
from contextlib import suppress


def clear_failures() -> None:
    """Clear earlier errors of this thread; call this first."""
    if _address is not None:
        _address()[0] = 0


def has_failed() -> bool:
    """Return whether an allocation of this thread failed since `clear_failures`; False if unknown."""
    return _address is not None and _address()[0] == errno.ENOMEM


def _find_errno() -> Callable[[], "ctypes._Pointer[ctypes.c_int]"] | None:
    """Return the C library's function that returns the address of a thread's errno; None if there is none."""
    # The names of glibc and musl, and of macOS.
    for name in ("__errno_location", "__error"):
        with suppress(AttributeError):
            function = getattr(ctypes.CDLL(None), name)
            function.restype = ctypes.POINTER(ctypes.c_int)
            address: Callable[[], ctypes._Pointer[ctypes.c_int]] = function
            return address
    return None


_address = _find_errno()
