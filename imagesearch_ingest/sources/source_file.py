"""Where manifests and archives are, and their lines."""

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

# Read at a time of remote files, and of files whose lines are counted.
BLOCK = 2**20
# Read at a time of a file of this machine.
BUFFER = 2**16


class RetryingFile(FileIO):
    """A file of this machine; a network's file system may fail for a moment, and lose what is open."""

    def __init__(self, path: str) -> None:
        """Open it. Raises OSError."""
        super().__init__(path)
        self._path = path
        self._state = file_state(path)

    def readinto(self, buffer: Any) -> int | None:
        """As FileIO's, tried again as the thread's `current` says."""
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
            # The next try says what is wrong.
            return
        try:
            os.dup2(again, self.fileno(), inheritable=False)
        finally:
            os.close(again)
        if file_state(self._path) != self._state:
            raise OSError(errno.EINVAL, "the file was changed while it was read", self._path)
        self.seek(position)


class SourceFile:
    """A file that is a source, on this machine or elsewhere."""

    def __init__(self, text: str) -> None:
        """Takes a path or a URL."""
        text = local_path(text)
        self.is_remote = is_url(text)
        self._url = text
        self.name = without_password(text) if self.is_remote else os.path.abspath(text)  # noqa: PTH100 - keeps ".."
        self.file_name = file_name(text) if self.is_remote else os.path.basename(self.name)  # noqa: PTH119 - a text

    @property
    def folder(self) -> str:
        """Where it lies, as a path or a URL."""
        if not self.is_remote:
            return os.path.dirname(self.name)  # noqa: PTH120 - a text
        is_web = protocol_of(self._url) in WEB
        return (self._url.partition("#")[0].partition("?")[0] if is_web else self._url).rpartition("/")[0]

    def open(self) -> BufferedReader:
        """Its bytes. Raises OSError, and SourceError where its file system cannot be used."""
        if self.is_remote:
            return BufferedReader(open_stream(self._url), BLOCK)
        return BufferedReader(thread_retries.get().run(partial(RetryingFile, self.name)), BUFFER)

    def count_lines(self) -> int | None:
        """How many lines it has; None where they would have to come from elsewhere."""
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
    """The path that a file:// URL says; other texts as they are."""
    if protocol_of(text) != "file" or not is_url(text):
        return text
    # A file has no query and no fragment, whoever has left them unencoded. A host is before the path.
    path = text.partition("://")[2]
    return unquote(path if path.startswith("/") else "/" + path.partition("/")[2], errors="surrogateescape")


def lines_of(file: BinaryIO, longest: int) -> Iterator[tuple[int, bytes | None]]:
    """Its lines without their ends, counted from 1; None for one that is longer than `longest`."""
    number = 0
    while line := file.readline(longest):
        number += 1
        if is_whole := len(line) < longest or line.endswith(b"\n"):
            yield number, line.removesuffix(b"\n").removesuffix(b"\r")
        else:
            yield number, None
        while not is_whole and line and not line.endswith(b"\n"):
            line = file.readline(longest)
