"""Where manifests and archives are, and where the rows of manifests point."""

import os
import posixpath
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from imagesearch_client.sources.files import file_state, read_file
from imagesearch_client.sources.items import Read, SourceError
from imagesearch_client.sources.remote import RemoteStream, connect, file_name, is_url, protocol_of, read_url

# Read at a time of remote files, and of files whose lines are counted.
BLOCK = 2**20


class Location:
    """A file that is a source, on this machine or elsewhere."""

    def __init__(self, text: str) -> None:
        """Takes a path or a URL."""
        text = local_path(text)
        self.is_remote = is_url(text)
        self.name = text if self.is_remote else os.path.abspath(text)  # noqa: PTH100 - Path.absolute keeps ".."
        self.file_name = file_name(text) if self.is_remote else os.path.basename(self.name)  # noqa: PTH119 - a text

    @property
    def folder(self) -> str:
        """Where it lies, as a path or a URL."""
        return self.name.rpartition("/")[0] if self.is_remote else os.path.dirname(self.name)  # noqa: PTH120 - a text

    def open(self) -> BufferedReader:
        """Its bytes. Raises OSError, and SourceError where its file system cannot be used."""
        if self.is_remote:
            return BufferedReader(RemoteStream(self.name), BLOCK)
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
    return unquote(urlsplit(text).path) if protocol_of(text) == "file" and is_url(text) else text


@dataclass(frozen=True, slots=True)
class Place:
    """A file that a row points to."""

    id: str
    """What the file is called where the row has no other id."""
    uri: str
    content: Read
    size: int | None
    stamp: str


class Places:
    """Finds the files that the rows of one manifest point to."""

    def __init__(self, root: str) -> None:
        """Relative paths begin at `root`, a path or a URL."""
        root = local_path(root)
        self._is_remote = is_url(root)
        self._root = root.rstrip("/") if self._is_remote else os.path.abspath(root)  # noqa: PTH100 - as above
        self._connected: set[str] = set()

    def find(self, text: str) -> Place:
        """The file that a path or URL names. Raises ValueError where it can name none."""
        text = local_path(text)
        if "\0" in text:
            raise ValueError("the path has a NUL byte")
        if is_url(text):
            return self._remote(text, text)
        if os.path.isabs(text):  # noqa: PTH117 - a text
            path = os.path.normpath(text) if ".." not in text else text
            below = self._root.rstrip("/") + "/"
            is_below = not self._is_remote and path.startswith(below)
            return self._local(path.removeprefix(below) if is_below else text, path)
        image_id = posixpath.normpath(text.replace(os.sep, "/"))
        if self._is_remote:
            return self._remote(image_id, f"{self._root}/{image_id}")
        # Behind a link to a folder ".." is another one than the path says, so that it stays in the path.
        return self._local(image_id, os.path.join(self._root, text if ".." in text else image_id))  # noqa: PTH118

    def _local(self, image_id: str, path: str) -> Place:
        size, stamp = file_state(path)
        return Place(image_id, path, partial(read_file, path), size, stamp)

    def _remote(self, image_id: str, url: str) -> Place:
        # Sessions are made here, in one thread; where that fails, reading says so.
        if (protocol := protocol_of(url)) not in self._connected:
            self._connected.add(protocol)
            with suppress(SourceError):
                connect(url)
        return Place(image_id, url, partial(read_url, url), None, "")


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
