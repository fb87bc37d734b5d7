"""Folders of object stores and web servers."""

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

# Objects that a store lists at a time.
PAGE = 1000
# Directories in one another: a web server that follows links may show one without end.
DEPTH = 100

# The key of each object, its size and its stamp.
Objects: TypeAlias = Iterator[tuple[str, int | None, str]]


@dataclass(frozen=True, slots=True)
class _File:
    """A file of a listing."""

    path: str
    """As its file system knows it."""
    below: str
    """Where it is below the folder."""
    size: int | None
    stamp: str


class RemoteFolderSource:
    """Every image below a URL. Stores are listed page by page, other file systems one directory at a time."""

    def __init__(self, url: str, by_content: bool = False, any_name: bool = False) -> None:
        """Takes the images below `url`. Raises SourceError where its file system cannot be used.

        `any_name` takes files of any name whose content is an image, at the cost of a request for each.
        """
        self._is_web = protocol_of(url) in WEB
        # A web server may want a query with the index page.
        url, mark, query = url.partition("#")[0].partition("?") if self._is_web else (url, "", "")
        url = url if url.endswith("/") else url + "/"
        self.name = without_password(url)
        self._by_content = by_content
        self._any_name = any_name
        self._system, self._root = connect(url)
        self._first = self._root + mark + query

    def __iter__(self) -> Iterator[SourceEntry]:
        """Its images, with what the listing says of each, and the files that are none."""
        is_empty = True
        for found in self._listing():
            is_empty = False
            if isinstance(found, Fault):
                yield found
            elif not found.path.endswith("/"):
                # Stores have a key of this kind for a folder.
                yield self._found(found)
        if is_empty:
            # Stores have no folders, so that a slip in its name is a folder with nothing in it.
            yield Fault(self.name, "FOLDER_UNREADABLE", "nothing is listed there")

    def count(self) -> None:
        """To count takes as long as to list."""
        return

    def _found(self, file: _File) -> SourceEntry:
        def beginning() -> bytes:
            try:
                return read_path(self._system, file.path, uri, HEADER_BYTES)
            except OSError:
                # It may be an image, and reading it says what is wrong.
                return b"\xff\xd8\xff"

        uri = self.name + file.below
        name = unquote(file.below.partition("?")[0]) if self._is_web else file.below
        found = skipped_file(uri, name, beginning if self._any_name else None, any_name=self._any_name)
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
                return Fault(uri, "NAME_NOT_UTF8", "the name is not UTF-8, and so can be no id", may_hide_items=False)
        content = partial(read_path, self._system, file.path, uri)
        return Item("" if self._by_content else image_id, uri, content, size=file.size, stamp=file.stamp)

    def _listing(self) -> Iterator[_File | Fault]:
        protocol = protocol_of(self.name)
        if protocol in ("s3", "s3a"):
            return self._pages(_s3_pages)
        if protocol in ("gs", "gcs"):
            return self._pages(_gcs_pages)
        return _walk(self._system, self._root, self._first, http_client.list_folder if self._is_web else _list)

    def _pages(self, pages: Callable[[FileSystem, str, str], Objects]) -> Iterator[_File | Fault]:
        # Keys may begin with a slash, and have two of them in a row.
        bucket, _, prefix = self.name.partition("://")[2].partition("/")
        try:
            for key, size, stamp in pages(self._system, bucket, prefix):
                yield _File(f"{bucket}/{key}", key.removeprefix(prefix), size, stamp)
        except OSError as error:
            yield Fault(self.name, "FOLDER_UNREADABLE", f"cannot be listed: {one_line(error)}")


def _s3_pages(system: FileSystem, bucket: str, prefix: str) -> Objects:
    # fsspec's own listing keeps every object of a folder in memory.
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


def _list(system: FileSystem, folder: str) -> list[dict[str, Any]]:
    return list(system.ls(folder, detail=True))


def _walk(
    system: FileSystem, root: str, first: str, list_folder: Callable[[FileSystem, str], list[dict[str, Any]]]
) -> Iterator[_File | Fault]:
    # fsspec's own walk says nothing of a folder below the first that cannot be listed.
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
        if below and depth == DEPTH:
            yield Fault(folder, "FOLDER_UNREADABLE", f"more than {DEPTH} folders are in one another; not looked into")
        else:
            folders += reversed(below)
