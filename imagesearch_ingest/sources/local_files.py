"""Files of this machine: how they are read, and what tells that one has changed."""

import errno
import os
import stat

from imagesearch_ingest.sources.items import Fault


def read_file(path: str, limit: int) -> bytes:
    """The file's content from its beginning, at most so many bytes. Raises OSError."""
    # A path may have become a directory, a pipe or a device since it was listed.
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "is no regular file", path)
        return file.read(limit)


def _open_at_once(path: str, flags: int) -> int:
    # To open a pipe would else wait for its writer.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def file_state(path: str) -> tuple[int | None, str]:
    """The file's size, and its time of change as a stamp; None and nothing where there is no such file."""
    try:
        state = os.stat(path)  # noqa: PTH116 - paths are plain texts here, for speed
    except (OSError, ValueError):
        return None, ""
    return (state.st_size, str(state.st_mtime_ns)) if stat.S_ISREG(state.st_mode) else (None, "")


def is_utf8(value: str) -> bool:
    """Whether it can be sent: Python keeps the odd bytes of a name that is not UTF-8 as lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(value: str) -> str:
    r"""The text with its odd bytes as \udc80 and the like."""
    return value.encode(errors="backslashreplace").decode()


def name_not_utf8(name: str) -> Fault:
    """What is said of a file whose name is not UTF-8."""
    return Fault(printable(name), "NAME_NOT_UTF8", "the name is not UTF-8, and so can be no id", hides=False)
