"""Read files by URL through fsspec: s3://, gs://, http:// and all other installed file systems.

fsspec may be called from many threads: one event loop does the work of all calls. Only the creation of a file system's
session is not thread-safe. `connect` creates it, in the thread that lists a source.
"""

import errno
import io
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import unquote

import fsspec
from fsspec.asyn import sync

from imagesearch_ingest.extras import how_to_install
from imagesearch_ingest.sources import http_client
from imagesearch_ingest.sources.file_errors import as_os_errors, one_line, without_password
from imagesearch_ingest.sources.http_stream import HttpStream
from imagesearch_ingest.sources.items import Fault, Item, SourceError
from imagesearch_ingest.sources.source_retries import SourceRetries, with_retries

FileSystem: TypeAlias = Any
"""fsspec publishes no types."""

# The package that a protocol needs, and the extras that install it.
PACKAGES = {
    "s3": ("s3fs", "cli,s3"),
    "s3a": ("s3fs", "cli,s3"),
    "gs": ("gcsfs", "cli,gcs"),
    "gcs": ("gcsfs", "cli,gcs"),
    "http": ("aiohttp", "cli"),
    "https": ("aiohttp", "cli"),
}
WEB = ("http", "https")
# Protocols whose URLs contain another URL after "::". In all other URLs "::" is part of a name.
CHAINED = frozenset(
    {"zip", "tar", "libarchive", "simplecache", "filecache", "blockcache", "cached", "dir", "reference"}
)
# A chain of several protocols, such as simplecache::s3://, contains "::" before "://".
URL_BEGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::.*://)", re.DOTALL)
# Fields of a listing that change when the file changes, the most reliable first.
STAMPS = ("ETag", "generation", "etag", "md5Hash", "LastModified", "mtime", "modified", "updated", "created")
# Retry budget for the size and the stamp of a file. Reading the file reports the error.
DETAILS_RETRY_SECONDS = 2.0
# More than the maximum number of readers.
MAX_CONNECTIONS = 2000


def is_url(text: str) -> bool:
    """Return whether a string is a URL, not a path."""
    return URL_BEGIN.match(text) is not None


def protocol_of(url: str) -> str:
    """Return the protocol of a URL, such as s3."""
    return url.partition("://")[0].lower()


def url_path(url: str) -> str:
    """Return the path of a URL. For a web server the query and the fragment are removed."""
    return http_client.path_of(url) if protocol_of(url) in WEB else url.partition("://")[2]


def file_name(url: str) -> str:
    """Return the last part of a URL's path, decoded."""
    name = url_path(url).rstrip("/").rpartition("/")[2]
    try:
        return unquote(name, errors="strict") if protocol_of(url) in WEB else name
    except UnicodeDecodeError:
        return name


def stamp_of(details: Mapping[str, object]) -> str:
    """Return the best stamp among the fields of a listing; empty if there is none."""
    value = next((details[name] for name in STAMPS if details.get(name)), "")
    return str(value).strip('"')


def connect(url: str) -> tuple[FileSystem, str]:
    """Return the file system of a URL, and the path in it. Raises SourceError."""
    protocol = protocol_of(url)
    if "::" not in url.partition("://")[0]:
        url = protocol + url[len(protocol) :]
    try:
        system, path = _file_system(url, _options(protocol))
        for name in ("set_session", "_set_session"):
            if system.async_impl and hasattr(system, name):
                sync(system.loop, getattr(system, name))
                break
    except ImportError as error:
        package, extra = PACKAGES.get(protocol, ("", ""))
        missing = how_to_install(package, extra) if package else f"another package is needed: {error}"
        raise SourceError(f"{protocol}://: {missing}") from error
    except Exception as error:
        raise SourceError(f"{without_password(url)}: {one_line(error)}") from error
    _disable_retries(system, protocol)
    return system, path


def _disable_retries(system: FileSystem, protocol: str) -> None:
    # The libraries retry by themselves in the reading thread, for half a minute and more.
    if protocol in ("s3", "s3a"):
        system.retries = 1
    request = getattr(getattr(type(system), "_request", None), "__wrapped__", None)
    if protocol in ("gs", "gcs") and request is not None:
        system._request = partial(request, system)  # noqa: SLF001 - there is no setting


def _options(protocol: str) -> dict[str, object]:
    # Cached listings would fill memory.
    options: dict[str, object] = {"use_listings_cache": False}
    if protocol in WEB:
        options |= {"client_kwargs": {"trust_env": True}, "get_client": http_client.open_session}
    if protocol in ("s3", "s3a"):
        options["config_kwargs"] = {
            "max_pool_connections": MAX_CONNECTIONS,
            "retries": {"total_max_attempts": 1, "mode": "standard"},
        }
    return options


def _file_system(url: str, options: dict[str, object]) -> tuple[FileSystem, str]:
    first = url.partition("::")[0]
    if "::" not in url or "://" not in first or protocol_of(url) in CHAINED:
        system, path = fsspec.core.url_to_fs(url, **options)
        return system, path
    # fsspec would take the part after "::" for another URL.
    kind = fsspec.get_filesystem_class(protocol_of(url))
    # These methods are not public. They are all that url_to_fs does with a plain URL.
    found = kind._get_kwargs_from_urls(url)  # noqa: SLF001
    return kind(**{**options, **found}), kind._strip_protocol(url)  # noqa: SLF001


def read_url(url: str, limit: int) -> bytes:
    """Return the beginning of a file, at most `limit` bytes, with one request. Raises OSError."""
    try:
        system, path = connect(url)
    except SourceError as error:
        raise file_system_error(error, url) from error
    return read_path(system, path, url, limit)


def file_system_error(error: SourceError, url: str) -> OSError:
    """Return the OSError for a file whose file system cannot be used."""
    # The protocol is unknown, or its package is missing.
    is_unknown = isinstance(error.__cause__, ImportError | ValueError)
    return OSError(errno.ENOSYS if is_unknown else errno.EIO, str(error), without_password(url))


def read_path(system: FileSystem, path: str, url: str, limit: int) -> bytes:
    """Return the beginning of a file as `read_url` does, from a connected file system."""
    with as_os_errors(url):
        if protocol_of(path) in WEB:
            return http_client.read(system, path, limit)
        try:
            return bytes(system.cat_file(path, start=0, end=limit))
        except Exception as error:
            # An empty file has no first byte, so the store refuses the range.
            if _is_beyond_end(error):
                return b""
            raise


def _is_beyond_end(error: Exception) -> bool:
    """Return whether a store refused a range because it is beyond the end of the file."""
    answer = getattr(error.__cause__, "response", None)
    code = answer.get("Error", {}).get("Code") if isinstance(answer, dict) else getattr(error, "code", None)
    return str(code) in ("InvalidRange", "416")


def open_stream(url: str) -> io.RawIOBase:
    """Open a remote file as a Python file whose errors are OSErrors. Raises SourceError and OSError."""
    system, path = connect(url)
    return HttpStream(system, path) if protocol_of(path) in WEB else _RemoteStream(url, system, path)


class _RemoteStream(io.RawIOBase):
    """A file of an object store."""

    def __init__(self, url: str, system: FileSystem, path: str) -> None:
        super().__init__()
        self._url = url
        self._file: Any = None
        self._file = with_retries(url, partial(system.open, path, "rb"))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def readinto(self, buffer: Any) -> int:
        at = self._file.tell()

        def read() -> bytes:
            if self._file.tell() != at:
                self._file.seek(at)
            return bytes(self._file.read(len(buffer)))

        content = with_retries(self._url, read)
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with as_os_errors(self._url):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed and self._file is not None:
            self._file.close()
        super().close()


class RemoteFileSource:
    """One image at a URL. Its id is the last part of the URL's path."""

    def __init__(self, url: str, by_content: bool = False) -> None:
        """Set the URL. Raises SourceError if its file system cannot be used."""
        self.name = without_password(url)
        self._by_content = by_content
        self._system, self._path = connect(url)

    def __iter__(self) -> Iterator[Item | Fault]:
        """Yield the one item."""
        size, stamp = None, ""
        try:
            details = SourceRetries(DETAILS_RETRY_SECONDS, is_opening=True).run(self._details)
            size, stamp = details.get("size"), stamp_of(details)
        except OSError:
            # Reading the file reports the error.
            pass
        image_id = "" if self._by_content else file_name(self.name)
        content = partial(read_path, self._system, self._path, self.name)
        yield Item(image_id, self.name, content, size=size, stamp=stamp)

    def _details(self) -> dict[str, Any]:
        with as_os_errors(self.name):
            is_web = protocol_of(self._path) in WEB
            return dict(http_client.details(self._system, self._path) if is_web else self._system.info(self._path))

    def count(self) -> int:
        """Return 1."""
        return 1
