"""Folders of object stores and web servers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from imagesearch_client.sources.items import Fault, Found, Item
from imagesearch_client.sources.kinds import BEGINNING, passed
from imagesearch_client.sources.remote import (
    WEB,
    FileSystem,
    brief,
    connect,
    plain_errors,
    protocol_of,
    read_path,
    stamp_of,
)

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


class RemoteFolder:
    """Every image below a URL. Stores are listed page by page, other file systems one directory at a time."""

    def __init__(self, url: str, by_content: bool = False, any_name: bool = False) -> None:
        """Takes the images below `url`. Raises SourceError where its file system cannot be used.

        `any_name` takes files of any name whose content is an image, at the cost of a request for each.
        """
        self.name = url.rstrip("/") + "/"
        self._by_content = by_content
        self._any_name = any_name
        self._system, self._root = connect(self.name)
        self._is_web = protocol_of(self.name) in WEB

    def __iter__(self) -> Iterator[Found]:
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

    def _found(self, file: _File) -> Found:
        def beginning() -> bytes:
            try:
                return read_path(self._system, file.path, uri, BEGINNING)
            except OSError:
                # It may be an image, and reading it says what is wrong.
                return b"\xff\xd8\xff"

        uri = self.name + file.below
        name = unquote(urlsplit(file.below).path) if self._is_web else file.below
        found = passed(uri, name, beginning if self._any_name else None, any_name=self._any_name)
        return self._item(file) if found is None else found

    def _item(self, file: _File) -> Item | Fault:
        image_id, uri = file.below, self.name + file.below
        if self._is_web:
            try:
                image_id = unquote(image_id, errors="strict")
            except UnicodeDecodeError:
                return Fault(uri, "NAME_NOT_UTF8", "the name is not UTF-8, and so can be no id", hides=False)
        content = partial(read_path, self._system, file.path, uri)
        return Item("" if self._by_content else image_id, uri, content, size=file.size, stamp=file.stamp)

    def _listing(self) -> Iterator[_File | Fault]:
        protocol = protocol_of(self.name)
        if protocol in ("s3", "s3a"):
            return self._pages(_s3_pages)
        if protocol in ("gs", "gcs"):
            return self._pages(_gcs_pages)
        return _walk(self._system, self._root)

    def _pages(self, pages: Callable[[FileSystem, str, str], Objects]) -> Iterator[_File | Fault]:
        bucket, _, prefix = self._root.strip("/").partition("/")
        prefix = prefix and prefix + "/"
        try:
            with plain_errors(self.name):
                for key, size, stamp in pages(self._system, bucket, prefix):
                    yield _File(f"{bucket}/{key}", key.removeprefix(prefix), size, stamp)
        except OSError as error:
            yield Fault(self.name, "FOLDER_UNREADABLE", f"cannot be listed: {brief(error)}")


def _s3_pages(system: FileSystem, bucket: str, prefix: str) -> Objects:
    # fsspec's own listing keeps every object of a folder in memory.
    more: dict[str, str] = {}
    while True:
        page = system.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=PAGE, **more)
        for found in page.get("Contents", ()):
            yield found["Key"], found["Size"], stamp_of(found)
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _gcs_pages(system: FileSystem, bucket: str, prefix: str) -> Objects:
    more: dict[str, str] = {}
    while True:
        page = system.call("GET", "b/{}/o", bucket, prefix=prefix, maxResults=PAGE, json_out=True, **more)
        for found in page.get("items", ()):
            yield found["name"], int(found.get("size", 0)), stamp_of(found)
        if not page.get("nextPageToken"):
            return
        more = {"pageToken": page["nextPageToken"]}


def _walk(system: FileSystem, root: str) -> Iterator[_File | Fault]:
    # fsspec's own walk says nothing of a folder below the first that cannot be listed.
    prefix = root.rstrip("/") + "/"
    folders = [(root, 0)]
    while folders:
        folder, depth = folders.pop()
        try:
            with plain_errors(folder):
                entries = sorted(system.ls(folder, detail=True), key=lambda entry: str(entry["name"]))
        except OSError as error:
            yield Fault(folder, "FOLDER_UNREADABLE", f"cannot be listed: {brief(error)}")
            continue
        below: list[tuple[str, int]] = []
        for entry in entries:
            path = entry["name"]
            # The links of a web page may lead anywhere.
            steps = path.removeprefix(prefix).partition("?")[0].split("/")
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
