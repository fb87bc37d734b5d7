"""Where manifests and archives are, and their lines."""

import os
from collections.abc import Iterator
from io import BufferedReader
from typing import BinaryIO
from urllib.parse import unquote

from imagesearch_client.sources.failures import without_password
from imagesearch_client.sources.remote import WEB, file_name, is_url, open_stream, protocol_of

# Read at a time of remote files, and of files whose lines are counted.
BLOCK = 2**20


class Location:
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
        return open(self.name, "rb")  # noqa: PTH123 - a text

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
