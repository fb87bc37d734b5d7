"""Find the files to which paths and URLs lead: in the rows of manifests, and in the uris of stored images."""

import os
import posixpath
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from imagesearch_ingest.sources.archive_reader import ArchiveReader
from imagesearch_ingest.sources.file_errors import without_password
from imagesearch_ingest.sources.http_client import encoded_name, join
from imagesearch_ingest.sources.items import ReadFile, SourceError
from imagesearch_ingest.sources.local_files import file_state, read_file
from imagesearch_ingest.sources.member_uris import MEMBER_PROTOCOLS, PARQUET, TAR
from imagesearch_ingest.sources.remote_files import WEB, connect, is_url, protocol_of, read_url
from imagesearch_ingest.sources.source_file import local_path
from imagesearch_ingest.sources.source_options import MAX_BYTES
from imagesearch_ingest.sources.zip_reader import ZipReader


@dataclass(frozen=True, slots=True)
class ResolvedFile:
    """A file to which a path or URL leads."""

    id: str
    """The id of the image if its row has no other id."""
    uri: str
    content: ReadFile
    size: int | None
    stamp: str


class PathResolver:
    """Finds the files to which the rows of one manifest lead."""

    def __init__(self, root: str, max_bytes: int = MAX_BYTES) -> None:
        """Resolve relative paths against `root`, a path or a URL.

        Members larger than `max_bytes` are not read from archives that can be read only once.
        """
        root = local_path(root)
        self._is_remote = is_url(root)
        self._root = root.removesuffix("/") if self._is_remote else os.path.abspath(root)  # noqa: PTH100 - as above
        self._connected: set[str] = set()
        # By protocol.
        self._archives: dict[str, ArchiveReader | ZipReader] = {}
        self._lock = threading.Lock()
        self._max_bytes = max_bytes

    def close(self) -> None:
        """Close the archives. Nothing in an archive can be read afterwards."""
        for members in self._archives.values():
            members.close()

    def resolve(self, text: str) -> ResolvedFile:
        """Return the file to which a path or URL leads. Thread-safe. Raises ValueError if it is invalid."""
        text = local_path(text)
        if "\0" in text:
            raise ValueError("the path has a NUL byte")
        if is_url(text):
            return self._remote(text, text)
        if os.path.isabs(text):  # noqa: PTH117 - a string
            path = "/" + _normalized(text)
            below = self._root.rstrip("/") + "/"
            is_below = not self._is_remote and path.startswith(below)
            return self._local(path.removeprefix(below) if is_below else text, path)
        if self._is_remote:
            return self._below_remote_root(text.replace(os.sep, "/"))
        image_id = posixpath.normpath(text.replace(os.sep, "/"))
        return self._local(image_id, os.path.join(self._root, _normalized(text)))  # noqa: PTH118

    def _archive_reader(self, protocol: str) -> ArchiveReader | ZipReader:
        if protocol == PARQUET:
            # pyarrow is slow to import, and few uris need it.
            from imagesearch_ingest.sources.parquet_image_reader import ParquetImageReader  # noqa: PLC0415

            return ParquetImageReader(self._max_bytes)
        return ArchiveReader(self._max_bytes) if protocol == TAR else ZipReader()

    def _local(self, image_id: str, path: str) -> ResolvedFile:
        size, stamp = file_state(path)
        return ResolvedFile(image_id, path, partial(read_file, path), size, stamp)

    def _below_remote_root(self, path: str) -> ResolvedFile:
        # Two slashes in a row are part of an object's key and of a web address.
        path = "/".join(step for step in path.split("/") if step != ".")
        if protocol_of(self._root) not in WEB:
            return self._remote(path, f"{self._root}/{path}")
        # The path is a file name, as below a local root, so it is encoded as one.
        return self._remote(path, join(f"{self._root}/", f"./{encoded_name(path)}"))

    def _remote(self, image_id: str, url: str) -> ResolvedFile:
        image_id, uri = without_password(image_id), without_password(url)
        protocol = protocol_of(url)
        with self._lock:
            if protocol in MEMBER_PROTOCOLS:
                if protocol not in self._archives:
                    self._archives[protocol] = self._archive_reader(protocol)
                return ResolvedFile(image_id, uri, partial(self._archives[protocol].read, url), None, "")
            # `connect` creates one session at a time. If it fails, reading the file reports the error.
            if protocol not in self._connected:
                self._connected.add(protocol)
                with suppress(SourceError):
                    connect(url)
        return ResolvedFile(image_id, uri, partial(read_url, url), None, "")


def _normalized(path: str) -> str:
    """Return a path without its first slash and without empty steps and ".".

    ".." stays: after a symbolic link to a folder, it leads to another folder than the text of the path says.
    """
    return "/".join(step for step in path.replace(os.sep, "/").split("/") if step not in ("", ".")) or "."
