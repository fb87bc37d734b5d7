"""Open manifests and archives, local or remote, and read their lines."""

import errno
import os
from collections.abc import Iterator
from functools import partial
from io import BufferedReader, FileIO
from typing import Any, BinaryIO
from urllib.parse import unquote

from imagesearch_ingest.sources.file_errors import is_permanent, without_password
from imagesearch_ingest.sources.local_files import file_state
from imagesearch_ingest.sources.remote_files import WEB, file_name, is_url, open_stream, protocol_of
from imagesearch_ingest.sources.source_retries import thread_retries

# Bytes per read of remote files, and of files whose lines are counted.
BLOCK = 2**20
# Bytes per read of local files.
BUFFER = 2**16


class RetryingFile(FileIO):
    """A local file that is read with retries: a network file system may fail for a moment and lose open files."""

    def __init__(self, path: str) -> None:
        """Open the file. Raises OSError."""
        super().__init__(path)
        self._path = path
        self._state = file_state(path)

    def readinto(self, buffer: Any) -> int | None:
        """Read into the buffer, with the retries of the current thread."""
        at = self.tell()

        def attempt() -> int | None:
            try:
                return FileIO.readinto(self, buffer)
            except OSError as error:
                if not is_permanent(error):
                    self._reopen(at)
                raise

        return thread_retries.get().run(attempt)

    def _reopen(self, position: int) -> None:
        try:
            again = os.open(self._path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            # The next attempt reports the error.
            return
        try:
            os.dup2(again, self.fileno(), inheritable=False)
        finally:
            os.close(again)
        if file_state(self._path) != self._state:
            raise OSError(errno.EINVAL, "the file was changed while it was read", self._path)
        self.seek(position)


class SourceFile:
    """A manifest or an archive, local or remote."""

    def __init__(self, text: str) -> None:
        """Set a path or a URL."""
        text = local_path(text)
        self.is_remote = is_url(text)
        self._url = text
        self.name = without_password(text) if self.is_remote else os.path.abspath(text)  # noqa: PTH100 - keeps ".."
        self.file_name = file_name(text) if self.is_remote else os.path.basename(self.name)  # noqa: PTH119 - a string

    @property
    def folder(self) -> str:
        """The folder of the file, as a path or a URL."""
        if not self.is_remote:
            return os.path.dirname(self.name)  # noqa: PTH120 - a string
        is_web = protocol_of(self._url) in WEB
        return (self._url.partition("#")[0].partition("?")[0] if is_web else self._url).rpartition("/")[0]

    def open(self) -> BufferedReader:
        """Open the file. Raises OSError, and SourceError if the file system of the URL cannot be used."""
        if self.is_remote:
            return BufferedReader(open_stream(self._url), BLOCK)
        return BufferedReader(thread_retries.get().run(partial(RetryingFile, self.name)), BUFFER)

    def count_lines(self) -> int | None:
        """Return the number of lines; None for a remote file."""
        if self.is_remote:
            return None
        try:
            with self.open() as file:
                return _count_lines(file)
        except OSError:
            return None


def _count_lines(file: BinaryIO) -> int:
    lines, last = 0, b"\n"
    while block := file.read(BLOCK):
        lines += block.count(b"\n")
        last = block[-1:]
    return lines + (last != b"\n")


def local_path(text: str) -> str:
    """Return the path of a file:// URL; return any other string unchanged."""
    if protocol_of(text) != "file" or not is_url(text):
        return text
    # A local file has neither a query nor a fragment, even if "?" and "#" are not encoded. A host precedes the path.
    path = text.partition("://")[2]
    return unquote(path if path.startswith("/") else "/" + path.partition("/")[2], errors="surrogateescape")


def lines_of(file: BinaryIO, longest: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines without their ends, numbered from 1; None instead of a line longer than `longest`."""
    number = 0
    while line := file.readline(longest):
        number += 1
        if is_whole := len(line) < longest or line.endswith(b"\n"):
            yield number, line.removesuffix(b"\n").removesuffix(b"\r")
        else:
            yield number, None
        while not is_whole and line and not line.endswith(b"\n"):
            line = file.readline(longest)
