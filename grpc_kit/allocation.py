"""Whether memory could not be allocated, for libraries in C that report it as they report bad input.

The C library says so in errno, of which each thread has its own. It stays until the thread meets another error.
"""

import ctypes
import errno
from collections.abc import Callable
from contextlib import suppress


def forget_failures() -> None:
    """Clears what went wrong in this thread before; call this first."""
    if _address is not None:
        _address()[0] = 0


def has_failed() -> bool:
    """Return whether memory was refused to this thread since `forget_failures`; False if the system does not say."""
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
