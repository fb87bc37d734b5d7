"""Read local files, and detect their changes."""

import errno
import os
import stat

from imagesearch_ingest.sources.items import Fault


def read_file(path: str, limit: int) -> bytes:
    """Return the beginning of a file, at most `limit` bytes. Raises OSError."""
    # The path may have become a directory, a pipe or a device since it was listed.
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", path)
        return file.read(limit)


def _open_without_waiting(path: str, flags: int) -> int:
    # Opening a pipe would wait for a writer otherwise.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def file_state(path: str) -> tuple[int | None, str]:
    """Return a file's size and its modification time as a stamp; None and "" if there is no regular file."""
    try:
        state = os.stat(path)  # noqa: PTH116 - paths are plain strings here, for speed
    except (OSError, ValueError):
        return None, ""
    return (state.st_size, str(state.st_mtime_ns)) if stat.S_ISREG(state.st_mode) else (None, "")


def is_utf8(value: str) -> bool:
    """Return whether a string can be sent. Python keeps undecodable bytes of a name as lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(value: str) -> str:
    r"""Return the string with undecodable bytes escaped, such as \udc80."""
    return value.encode(errors="backslashreplace").decode()


def name_not_utf8(name: str) -> Fault:
    """Return the fault of a file whose name is not UTF-8."""
    return Fault(printable(name), "NAME_NOT_UTF8", "the name is not UTF-8; rename the file", may_hide_items=False)
