"""Files that URLs name, by fsspec: s3://, gs://, http:// and what else is installed.

fsspec's calls may come from many threads: each waits for one event loop, which does the work of them all. Only the
session behind a file system is made without a lock, so that `connect` makes it, in the thread that lists a source.
"""

import errno
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.asyn import sync

from imagesearch_client.extras import how_to_install
from imagesearch_client.sources.items import Fault, Item, SourceError

FileSystem: TypeAlias = Any
"""fsspec publishes no types."""

# What a protocol needs, and the extra that installs it.
PACKAGES = {
    "s3": ("s3fs", "client,s3"),
    "s3a": ("s3fs", "client,s3"),
    "gs": ("gcsfs", "client,gcs"),
    "gcs": ("gcsfs", "client,gcs"),
    "http": ("aiohttp", "client"),
    "https": ("aiohttp", "client"),
}
WEB = ("http", "https")
# Protocols whose URLs go on with another URL behind "::". In all other URLs "::" is part of a name.
CHAINED = frozenset(
    {"zip", "tar", "libarchive", "simplecache", "filecache", "blockcache", "cached", "dir", "reference"}
)
# Answers of a web server after which the same request may go well.
PASSING_STATUSES = frozenset({408, 425, 429, *range(500, 600)})
# What keeps a file from being read however often it is tried.
LASTING = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EACCES,
        errno.EPERM,
        errno.EINVAL,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EFBIG,
        errno.ENOSYS,
    }
)
# What a listing says of a file that is another one when the file has changed, the best first.
STAMPS = ("ETag", "generation", "etag", "md5Hash", "LastModified", "mtime", "modified", "updated", "created")
SLOW_CONNECTION = 30.0
SLOW_ANSWER = 60.0
MESSAGE_LENGTH = 300


class BusyError(OSError):
    """A server that refuses a request for now, and says for how long."""

    def __init__(self, message: str, url: str, retry_after: float) -> None:
        """`retry_after` is in seconds."""
        super().__init__(errno.EBUSY, message, url)
        self.retry_after = retry_after


def is_lasting(error: OSError) -> bool:
    """Whether reading the file again cannot go better: it is gone, forbidden, or no file."""
    return error.errno in LASTING


def is_url(text: str) -> bool:
    """Whether it is a URL, and no path."""
    return "://" in text


def protocol_of(url: str) -> str:
    """Such as s3."""
    return url.partition("://")[0].lower()


def url_path(url: str) -> str:
    """The path of a URL, without what a web server takes for a query."""
    return urlsplit(url).path if protocol_of(url) in WEB else url.partition("://")[2]


def file_name(url: str) -> str:
    """The last part of a URL's path, as people read it."""
    name = url_path(url).rstrip("/").rpartition("/")[2]
    return unquote(name) if protocol_of(url) in WEB else name


def stamp_of(details: Mapping[str, object]) -> str:
    """What tells that the file has changed, out of what a listing says of it."""
    value = next((details[name] for name in STAMPS if details.get(name)), "")
    return str(value).strip('"')


def connect(url: str) -> tuple[FileSystem, str]:
    """The file system of a URL, and the path there. Raises SourceError."""
    protocol = protocol_of(url)
    # Listings that are kept would fill memory.
    options: dict[str, object] = {"use_listings_cache": False}
    if protocol in WEB:
        options["client_kwargs"] = {"trust_env": True}
    try:
        system, path = _file_system(url, options)
        for name in ("set_session", "_set_session"):
            if system.async_impl and hasattr(system, name):
                sync(system.loop, getattr(system, name))
                break
    except ImportError as error:
        package, extra = PACKAGES.get(protocol, ("", ""))
        missing = how_to_install(package, extra) if package else f"another package is needed: {error}"
        raise SourceError(f"{protocol}://: {missing}") from error
    except Exception as error:
        raise SourceError(f"{url}: {brief(error)}") from error
    return system, path


def _file_system(url: str, options: dict[str, object]) -> tuple[FileSystem, str]:
    first = url.partition("::")[0]
    if "::" not in url or "://" not in first or protocol_of(url) in CHAINED:
        system, path = fsspec.core.url_to_fs(url, **options)
        return system, path
    # fsspec would take what is behind "::" for another URL.
    kind = fsspec.get_filesystem_class(protocol_of(url))
    # Not public, and all that url_to_fs does with a plain URL.
    found = kind._get_kwargs_from_urls(url)  # noqa: SLF001
    return kind(**{**options, **found}), kind._strip_protocol(url)  # noqa: SLF001


def read_url(url: str, limit: int) -> bytes:
    """The file's content from its beginning, at most so many bytes, by one request. Raises OSError."""
    try:
        system, path = connect(url)
    except SourceError as error:
        raise unusable(error, url) from error
    return read_path(system, path, url, limit)


def unusable(error: SourceError, url: str) -> OSError:
    """The error of a file whose file system cannot be used."""
    # A protocol that nobody knows, or whose package is missing.
    is_unknown = isinstance(error.__cause__, ImportError | ValueError)
    return OSError(errno.ENOSYS if is_unknown else errno.EIO, str(error), url)


def read_path(system: FileSystem, path: str, url: str, limit: int) -> bytes:
    """As `read_url`, where the file system is at hand."""
    with plain_errors(url):
        if protocol_of(path) in WEB:
            return bytes(sync(system.loop, _read_web, system, path, limit))
        try:
            return bytes(system.cat_file(path, start=0, end=limit))
        except Exception as error:
            # A file without any content has no first byte to ask for.
            if _is_beyond_end(error):
                return b""
            raise


async def _read_web(system: FileSystem, url: str, limit: int) -> bytes:
    # By fsspec's own way a server that knows no ranges would send a file of any length into memory.
    from aiohttp import ClientTimeout  # noqa: PLC0415 - an extra of fsspec's

    timeout = ClientTimeout(total=None, sock_connect=SLOW_CONNECTION, sock_read=SLOW_ANSWER)
    session = await system.set_session()
    content = bytearray()
    async with session.get(system.encode_url(url), timeout=timeout) as response:
        response.raise_for_status()
        while len(content) < limit and (part := await response.content.read(limit - len(content))):
            content += part
    return bytes(content)


def _is_beyond_end(error: Exception) -> bool:
    """Whether a store says that there is nothing in the range that was asked for."""
    answer = getattr(error.__cause__, "response", None)
    code = answer.get("Error", {}).get("Code") if isinstance(answer, dict) else getattr(error, "code", None)
    return str(code) in ("InvalidRange", "416")


@contextmanager
def plain_errors(url: str) -> Iterator[None]:
    """Makes an OSError of whatever goes wrong: each file system's library has errors of its own."""
    try:
        yield
    except Exception as error:
        status = _status(error)
        if isinstance(error, FileNotFoundError) or status in (404, 410):
            raise FileNotFoundError(errno.ENOENT, "there is no such file", url) from error
        if isinstance(error, PermissionError) or status in (401, 403):
            raise PermissionError(errno.EACCES, f"access is denied: {brief(error)}", url) from error
        if isinstance(error, TimeoutError):
            raise TimeoutError(errno.ETIMEDOUT, "no answer in time", url) from error
        if (seconds := _retry_after(error)) is not None:
            raise BusyError(brief(error), url, seconds) from error
        refused = status is not None and status not in PASSING_STATUSES
        raise OSError(errno.EINVAL if refused else errno.EIO, brief(error), url) from error


def _status(error: BaseException) -> int | None:
    """The status of HTTP that an error tells of."""
    # As aiohttp and as gcsfs call it.
    status = getattr(error, "status", None) or getattr(error, "code", None)
    return status if isinstance(status, int) and status >= 100 else None  # noqa: PLR2004 - the first there is


def _retry_after(error: BaseException) -> float | None:
    """The seconds that a server asks to wait; None where it says none, or where waiting does not help."""
    if _status(error) not in PASSING_STATUSES:
        return None
    # The other form, a date, needs clocks that agree.
    text = str((getattr(error, "headers", None) or {}).get("Retry-After", ""))
    return float(text) if text.isascii() and text.isdigit() else None


def brief(error: BaseException) -> str:
    """What an error says, in one line."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return f"the server answers {status} {getattr(error, 'message', '')}".rstrip()
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split())[:MESSAGE_LENGTH] or type(error).__name__


class RemoteStream(io.RawIOBase):
    """A remote file as Python's own: its errors are OSErrors."""

    def __init__(self, url: str) -> None:
        """Opens it. Raises SourceError and OSError."""
        super().__init__()
        system, path = connect(url)
        self._url = url
        with plain_errors(url):
            self._file = system.open(path, "rb")

    def readable(self) -> bool:  # noqa: D102 - Python's
        return True

    def seekable(self) -> bool:  # noqa: D102 - Python's
        return bool(self._file.seekable())

    def readinto(self, buffer: Any) -> int:  # noqa: D102 - Python's
        with plain_errors(self._url):
            content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:  # noqa: D102 - Python's
        with plain_errors(self._url):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:  # noqa: D102 - Python's
        return int(self._file.tell())

    def close(self) -> None:  # noqa: D102 - Python's
        if not self.closed:
            self._file.close()
        super().close()


class RemoteFile:
    """One image that a URL names; its id is the last part of the URL's path."""

    def __init__(self, url: str, by_content: bool = False) -> None:
        """Takes this file. Raises SourceError where its file system cannot be used."""
        self.name = url
        self._by_content = by_content
        self._system, self._path = connect(url)

    def __iter__(self) -> Iterator[Item | Fault]:
        """The one item."""
        size, stamp = None, ""
        try:
            with plain_errors(self.name):
                details = self._system.info(self._path)
                size, stamp = details.get("size"), stamp_of(details)
        except OSError:
            # Reading says what is wrong.
            pass
        image_id = "" if self._by_content else file_name(self.name)
        content = partial(read_path, self._system, self._path, self.name)
        yield Item(image_id, self.name, content, size=size, stamp=stamp)

    def count(self) -> int:
        """It is one."""
        return 1
