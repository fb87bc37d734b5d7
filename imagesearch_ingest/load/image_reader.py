"""Read the image files of items, with retries that occupy no thread."""

import asyncio
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field

from grpc_kit.errors import InvalidArgumentError, NotFoundError, ServiceError, UnavailableError
from imagesearch_client.retrying import LAST_PAUSE, Backoff
from imagesearch_ingest.load.errors import LoadStoppedError
from imagesearch_ingest.sources.file_errors import is_permanent
from imagesearch_ingest.sources.items import Item, ReadFile
from imagesearch_ingest.sources.member_uris import MEMBER_PROTOCOLS
from imagesearch_ingest.sources.remote_files import is_url, protocol_of
from imagesearch_ingest.sources.source_retries import SourceRetries, thread_retries

# Retry budget of a thread that reads an archive whose connection breaks.
ARCHIVE_RETRY_SECONDS = 30.0


def read_image(read_file: ReadFile, max_bytes: int, size: int | None = None) -> tuple[bytes, str]:
    """Return a file and its SHA-256 as 64 hexadecimal digits. Blocks; safe to call from any thread.

    Args:
        read_file: reads the file.
        max_bytes: the largest allowed file.
        size: bytes of the file, if known.

    Raises:
        NotFoundError: the file is missing, forbidden, or not a file. Another attempt cannot help.
        UnavailableError: the file cannot be read now. `retry_after` is the Retry-After of the server.
        InvalidArgumentError: the file is empty or too large.
    """
    if size is not None and size > max_bytes:
        raise _too_large(size, max_bytes)
    try:
        content = read_file(max_bytes + 1)
    except OSError as error:
        if is_permanent(error):
            raise NotFoundError("UNREADABLE", f"it cannot be read: {error.strerror or error}", field="uri") from None
        message = f"it cannot be read now: {error.strerror or error}"
        retry_after = getattr(error, "retry_after", None)
        raise UnavailableError("UNREADABLE_NOW", message, field="uri", retry_after=retry_after) from None
    if not content:
        raise InvalidArgumentError("FILE_EMPTY", "the file has no bytes", field="uri")
    if len(content) > max_bytes:
        raise _too_large(len(content), max_bytes)
    return content, hashlib.sha256(content).hexdigest()


def _too_large(size: int, max_bytes: int) -> ServiceError:
    return InvalidArgumentError(
        "IMAGE_TOO_LARGE", f"it has {size} bytes or more; the limit is {max_bytes} bytes", field="uri"
    )


@dataclass
class _FailingServer:
    """A server, or the local file system, whose last read failed."""

    attempts: asyncio.Semaphore
    failing_since: float
    error: UnavailableError
    last_attempt: float = field(default_factory=time.monotonic)


class ImageReader:
    """Reads files in a pool of threads. A failed read is repeated later; no thread waits for that."""

    def __init__(self, threads: int, retry_seconds: float, notify: Callable[[str], None] = lambda _: None) -> None:
        """Create the pool.

        Args:
            threads: files to read at a time.
            retry_seconds: the retry budget of a file, and of a server whose files all fail.
            notify: receives what the reader waits for, and an empty string when it no longer waits.
        """
        self._retries = SourceRetries(min(retry_seconds, ARCHIVE_RETRY_SECONDS))
        # `IdConflicts` uses the same pool.
        self.threads = ThreadPoolExecutor(threads, "reader", initializer=thread_retries.set, initargs=(self._retries,))
        self._attempts_of_failing = max(1, threads // 4)
        self._retry_seconds = retry_seconds
        self._notify = notify
        self._failing: dict[str, _FailingServer] = {}
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End the retries. The next run reads these files."""
        self._stopping.set()
        self._retries.stop()

    def close(self) -> None:
        """End the threads when their current reads are done."""
        self.threads.shutdown(wait=False, cancel_futures=True)

    async def read(
        self,
        item: Item,
        read_file: ReadFile,
        max_bytes: int,
        while_waiting: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> tuple[bytes, str]:
        """Return a file and its SHA-256. Raises the errors of `read_image`, and LoadStoppedError after `stop`.

        `while_waiting` is entered while the item waits for its next attempt.
        """
        backoff = Backoff(self._retry_seconds)
        server = _server_of(item.uri)
        while True:
            try:
                return await self._attempt(server, read_file, max_bytes, item.size)
            except UnavailableError as error:
                pause = backoff.next_pause(error)
                if pause is None or self._is_down(server):
                    raise
                self._notify(f"{server or 'files'}, up to {self._retry_seconds:.0f} s: {error.message}")
                async with while_waiting():
                    await self._sleep(pause)

    async def _attempt(self, server: str, read_file: ReadFile, max_bytes: int, size: int | None) -> tuple[bytes, str]:
        failing = self._failing.get(server)
        if failing is None:
            return await self._read(server, read_file, max_bytes, size)
        # A server that does not respond must not occupy all threads.
        async with failing.attempts:
            if self._stopping.is_set():
                raise _stopped()
            if self._is_down(server) and time.monotonic() - failing.last_attempt < LAST_PAUSE:
                raise UnavailableError(failing.error.reason, failing.error.message, field="uri")
            return await self._read(server, read_file, max_bytes, size)

    async def _read(self, server: str, read_file: ReadFile, max_bytes: int, size: int | None) -> tuple[bytes, str]:
        loop = asyncio.get_running_loop()
        try:
            result = await loop.run_in_executor(self.threads, read_image, read_file, max_bytes, size)
        except UnavailableError as error:
            now = time.monotonic()
            attempts = asyncio.Semaphore(self._attempts_of_failing)
            failing = self._failing.setdefault(server, _FailingServer(attempts, now, error))
            failing.error, failing.last_attempt = error, now
            raise
        except ServiceError:
            self._record_response(server)
            raise
        self._record_response(server)
        return result

    def _record_response(self, server: str) -> None:
        if self._failing.pop(server, None) is not None:
            self._notify("")

    def _is_down(self, server: str) -> bool:
        """Return whether every read from a server has failed for the whole retry budget."""
        failing = self._failing.get(server)
        return failing is not None and time.monotonic() - failing.failing_since >= self._retry_seconds

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
        raise _stopped()


def _stopped() -> LoadStoppedError:
    return LoadStoppedError("STOPPED", "the load stopped while it waited for this file")


def _server_of(uri: str) -> str:
    """Return the protocol and host of a URL, or of the archive of a member; an empty string for a local path."""
    begin = uri.rpartition("::")[2] if protocol_of(uri) in MEMBER_PROTOCOLS else uri
    return "/".join(begin.split("/", 3)[:3]) if is_url(begin) else ""
