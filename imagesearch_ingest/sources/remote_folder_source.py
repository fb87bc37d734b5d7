"""List folders of object stores and web servers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import unquote

from imagesearch_ingest.sources import http_client
from imagesearch_ingest.sources.file_errors import one_line, without_password
from imagesearch_ingest.sources.image_formats import HEADER_BYTES, skipped_file
from imagesearch_ingest.sources.items import Fault, Item, SourceEntry
from imagesearch_ingest.sources.remote_files import WEB, FileSystem, connect, protocol_of, read_path, stamp_of
from imagesearch_ingest.sources.source_retries import with_retries

# Objects per page of a listing.
PAGE = 1000
# Maximum depth of folders: a web server that follows links may show folders without end.
MAX_DEPTH = 100

# The key, the size and the stamp of each object.
Objects: TypeAlias = Iterator[tuple[str, int | None, str]]


@dataclass(frozen=True, slots=True)
class _File:
    """A file in a listing."""

    path: str
    """The path in the file system."""
    below: str
    """The path relative to the folder."""
    size: int | None
    stamp: str


class RemoteFolderSource:
    """Every image below a URL. Object stores are listed in pages, other file systems folder by folder."""

    def __init__(self, url: str, by_content: bool = False, any_name: bool = False) -> None:
        """Set the URL. Raises SourceError if its file system cannot be used.

        `any_name` accepts files of any name whose content is an image. It costs one request per file.
        """
        self._is_web = protocol_of(url) in WEB
        # A web server may need a query for the index page.
        url, mark, query = url.partition("#")[0].partition("?") if self._is_web else (url, "", "")
        url = url if url.endswith("/") else url + "/"
        self.name = without_password(url)
        self._by_content = by_content
        self._any_name = any_name
        self._system, self._root = connect(url)
        self._first = self._root + mark + query

    def __iter__(self) -> Iterator[SourceEntry]:
        """Yield the items, the faults and the skipped files."""
        is_empty = True
        for found in self._listing():
            is_empty = False
            if isinstance(found, Fault):
                yield found
            elif not found.path.endswith("/"):
                # A key that ends with a slash stands for a folder.
                yield self._entry(found)
        if is_empty:
            # Object stores have no folders, so a mistyped name looks like an empty folder.
            yield Fault(self.name, "FOLDER_UNREADABLE", "it contains no files; check the URL")

    def count(self) -> None:
        """Return None: counting takes as long as listing."""
        return

    def _entry(self, file: _File) -> SourceEntry:
        def header() -> bytes:
            try:
                return read_path(self._system, file.path, uri, HEADER_BYTES)
            except OSError:
                # Assume an image. Reading it reports the error.
                return b"\xff\xd8\xff"

        uri = self.name + file.below
        name = unquote(file.below.partition("?")[0]) if self._is_web else file.below
        found = skipped_file(uri, name, header if self._any_name else None, any_name=self._any_name)
        if found is None:
            return self._item(file)
        image_id = unquote(file.below) if self._is_web else file.below
        return replace(found, key=uri if self._by_content else image_id)

    def _item(self, file: _File) -> Item | Fault:
        image_id, uri = file.below, self.name + file.below
        if self._is_web:
            try:
                image_id = unquote(image_id, errors="strict")
            except UnicodeDecodeError:
                return Fault(uri, "NAME_NOT_UTF8", "the name is not UTF-8; rename the file", may_hide_items=False)
        content = partial(read_path, self._system, file.path, uri)
        return Item("" if self._by_content else image_id, uri, content, size=file.size, stamp=file.stamp)

    def _listing(self) -> Iterator[_File | Fault]:
        protocol = protocol_of(self.name)
        if protocol in ("s3", "s3a"):
            return self._pages(_s3_pages)
        if protocol in ("gs", "gcs"):
            return self._pages(_gcs_pages)
        return _walk(self._system, self._root, self._first, http_client.list_folder if self._is_web else _list_folder)

    def _pages(self, pages: Callable[[FileSystem, str, str], Objects]) -> Iterator[_File | Fault]:
        # Keys may begin with a slash, and may contain two slashes in a row.
        bucket, _, prefix = self.name.partition("://")[2].partition("/")
        try:
            for key, size, stamp in pages(self._system, bucket, prefix):
                yield _File(f"{bucket}/{key}", key.removeprefix(prefix), size, stamp)
        except OSError as error:
            yield Fault(self.name, "FOLDER_UNREADABLE", f"cannot be listed: {one_line(error)}")


def _s3_pages(system: FileSystem, bucket: str, prefix: str) -> Objects:
    # fsspec's own listing keeps all objects of a folder in memory.
    more: dict[str, str] = {}
    while True:
        call = partial(system.call_s3, "list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=PAGE, **more)
        page = with_retries(f"s3://{bucket}/{prefix}", call)
        for found in page.get("Contents", ()):
            yield found["Key"], found["Size"], stamp_of(found)
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _gcs_pages(system: FileSystem, bucket: str, prefix: str) -> Objects:
    more: dict[str, str] = {}
    while True:
        call = partial(system.call, "GET", "b/{}/o", bucket, prefix=prefix, maxResults=PAGE, json_out=True, **more)
        page = with_retries(f"gs://{bucket}/{prefix}", call)
        for found in page.get("items", ()):
            yield found["name"], int(found.get("size", 0)), stamp_of(found)
        if not page.get("nextPageToken"):
            return
        more = {"pageToken": page["nextPageToken"]}


def _list_folder(system: FileSystem, folder: str) -> list[dict[str, Any]]:
    return list(system.ls(folder, detail=True))


def _walk(
    system: FileSystem, root: str, first: str, list_folder: Callable[[FileSystem, str], list[dict[str, Any]]]
) -> Iterator[_File | Fault]:
    # fsspec's own walk ignores a subfolder that cannot be listed.
    prefix = root if root.endswith("/") else root + "/"
    folders = [(first, 0)]
    while folders:
        folder, depth = folders.pop()
        try:
            entries = with_retries(folder, partial(list_folder, system, folder))
        except OSError as error:
            yield Fault(without_password(folder), "FOLDER_UNREADABLE", f"cannot be listed: {one_line(error)}")
            continue
        below: list[tuple[str, int]] = []
        for entry in sorted(entries, key=lambda entry: str(entry["name"])):
            path = entry["name"]
            # The links of a web page may lead anywhere.
            steps = list(http_client.steps_of(path.removeprefix(prefix)))
            if not path.startswith(prefix) or path == folder or "." in steps or ".." in steps:
                continue
            if entry["type"] == "directory":
                below.append((path, depth + 1))
            else:
                yield _File(path, path.removeprefix(prefix), entry.get("size"), stamp_of(entry))
        if below and depth == MAX_DEPTH:
            yield Fault(folder, "FOLDER_UNREADABLE", f"it is more than {MAX_DEPTH} folders deep and was not listed")
        else:
            folders += reversed(below)
