"""Read a file of a web server as a Python file, and resume after a broken connection."""

import errno
import io
from functools import partial
from typing import TYPE_CHECKING, Any

from fsspec.asyn import sync

from imagesearch_ingest.sources.http_client import CONTENT_RANGE, PARTIAL, check_status, request, size_of
from imagesearch_ingest.sources.source_retries import with_retries

if TYPE_CHECKING:
    from aiohttp import ClientResponse

    from imagesearch_ingest.sources.remote_files import FileSystem

# Bytes per request after a seek.
RANGE = 4 * 2**20
OK, RANGE_NOT_SATISFIABLE = 200, 416


class HttpStream(io.RawIOBase):
    """A file of a web server. If the connection breaks, the next request resumes at the same position."""

    def __init__(self, system: "FileSystem", url: str) -> None:
        """Open the file. Raises OSError."""
        super().__init__()
        self._system = system
        self._url = url
        self._at = 0
        self._jumped = False
        self._size: int | None = None
        self._stamp = ""
        self._response: ClientResponse | None = None
        with_retries(url, partial(self._sync, self._open, RANGE))

    def readable(self) -> bool:  # noqa: D102 - Python's
        return True

    def seekable(self) -> bool:  # noqa: D102 - Python's
        return self._size is not None

    def tell(self) -> int:  # noqa: D102 - Python's
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:  # noqa: D102 - Python's
        if self._size is None:
            raise io.UnsupportedOperation("the server does not say how large the file is")
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at < 0:
            raise OSError(errno.EINVAL, "the position is before the file's beginning")
        if at != self._at:
            self._sync(self._drop)
            self._at, self._jumped = at, True
        return at

    def readinto(self, buffer: Any) -> int:  # noqa: D102 - Python's
        content = with_retries(self._url, partial(self._sync, self._read, len(buffer)))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def close(self) -> None:  # noqa: D102 - Python's
        # Does not wait: the interpreter may be ending, and the loop's thread may have stopped.
        if self._response is not None:
            self._system.loop.call_soon_threadsafe(self._response.close)
            self._response = None
        super().close()

    def _sync(self, work: Any, *arguments: Any) -> Any:
        return sync(self._system.loop, work, *arguments)

    async def _drop(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    async def _read(self, wanted: int) -> bytes:
        try:
            while self._size is None or self._at < self._size:
                if self._response is None:
                    await self._open(wanted)
                if self._response is None:
                    break
                if content := await self._response.content.read(wanted):
                    return content
                if self._size is None:
                    break
                if self._response.status == OK:
                    raise OSError(errno.EIO, f"the file ends after {self._at} of {self._size} bytes")
                # The requested range is read completely.
                await self._drop()
        except BaseException:
            await self._drop()
            raise
        return b""

    async def _open(self, wanted: int) -> None:
        """Request the file from the current position on."""
        end = str(self._at + max(wanted, RANGE) - 1) if self._jumped else ""
        headers = {"Range": f"bytes={self._at}-{end}"} if self._at or end else {}
        response = await request(self._system, self._url, headers)
        try:
            if response.status == RANGE_NOT_SATISFIABLE and self._at:
                response.close()
                return
            check_status(response)
            self._check_unchanged(response)
            await self._skip(response)
        except BaseException:
            response.close()
            raise
        self._response = response

    def _check_unchanged(self, response: "ClientResponse") -> None:
        """Note the size and the stamp of the file, or check that they have not changed."""
        stamp = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        if response.status == PARTIAL:
            total = CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
            size = int(total[3]) if total and total[3] != "*" else self._size
        else:
            size = size_of(response)
        if self._at or self._jumped:
            if (stamp and self._stamp and stamp != self._stamp) or size != self._size:
                raise OSError(errno.EINVAL, "the file was changed while it was read")
        else:
            self._stamp, self._size = stamp, size

    async def _skip(self, response: "ClientResponse") -> None:
        """Skip to the current position if the server sends the whole file."""
        begin = 0
        if response.status == PARTIAL:
            found = CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
            begin = int(found[1]) if found else -1
            if begin != self._at:
                raise OSError(errno.EIO, "the server sends another part of the file than the requested one")
        while begin < self._at:
            part = await response.content.read(min(self._at - begin, RANGE))
            if not part:
                raise OSError(errno.EIO, f"the file ends after {begin} bytes")
            begin += len(part)
