"""Reads the files of items, and of images that are stored."""

import asyncio
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field

from grpc_kit.errors import InvalidArgumentError, NotFoundError, ServiceError, UnavailableError
from imagesearch_ingest.load.service_retries import LoadStoppedError
from imagesearch_ingest.sources.file_errors import is_permanent
from imagesearch_ingest.sources.items import Item, ReadFile
from imagesearch_ingest.sources.member_uris import MEMBER_PROTOCOLS
from imagesearch_ingest.sources.remote_files import is_url, protocol_of
from imagesearch_ingest.sources.retries import LAST_PAUSE, Backoff, Retries, current

# Files that are read at a time if nobody says how many.
DEFAULT_READERS = 32
MAX_READERS = 1024
# Seconds that a thread waits by itself for an archive whose connection breaks while the archive is read.
ARCHIVE_SECONDS = 30.0


def read_image(content: ReadFile, max_bytes: int, size: int | None = None) -> tuple[bytes, str]:
    """Return a file and its SHA-256, 64 hexadecimal digits. Blocks; any number of threads may call it.

    Args:
        content: reads the file.
        max_bytes: the most that an image's file may have.
        size: of the file, if it is known before.

    Raises:
        NotFoundError: the file is gone, forbidden or no file, so that trying again is no use.
        UnavailableError: it cannot be read now, and may be later; `retry_after` is what a server says of that.
        InvalidArgumentError: it is empty or too large.
    """
    if size is not None and size > max_bytes:
        raise _too_large(size, max_bytes)
    try:
        found = content(max_bytes + 1)
    except OSError as error:
        if is_permanent(error):
            raise NotFoundError("UNREADABLE", f"it cannot be read: {error.strerror or error}", field="uri") from None
        message = f"it cannot be read now: {error.strerror or error}"
        wait = getattr(error, "retry_after", None)
        raise UnavailableError("UNREADABLE_NOW", message, field="uri", retry_after=wait) from None
    if not found:
        raise InvalidArgumentError("FILE_EMPTY", "the file has no bytes", field="uri")
    if len(found) > max_bytes:
        raise _too_large(len(found), max_bytes)
    return found, hashlib.sha256(found).hexdigest()


def _too_large(size: int, max_bytes: int) -> ServiceError:
    return InvalidArgumentError(
        "IMAGE_TOO_LARGE", f"it has {size} bytes or more; at most {max_bytes} are taken", field="uri"
    )


@dataclass
class _Server:
    """A server, or this machine's files, of which nothing can be read at the moment."""

    tries: asyncio.Semaphore
    since: float
    error: UnavailableError
    tried: float = field(default_factory=time.monotonic)
    """When it failed last."""


class ImageReader:
    """Reads files in threads. A file that cannot be read now is tried again, and no thread waits for that."""

    def __init__(self, threads: int, patience: float, tell: Callable[[str], None] = lambda _: None) -> None:
        """Begin without any thread.

        Args:
            threads: files that are read at a time.
            patience: seconds that a file is tried, and a server of which nothing can be read.
            tell: receives what is waited for, and the empty text when that is over.
        """
        self._retries = Retries(min(patience, ARCHIVE_SECONDS))
        # Others may read small things in them too.
        self.threads = ThreadPoolExecutor(threads, "reader", initializer=current.set, initargs=(self._retries,))
        self._few = max(1, threads // 4)
        self._patience = patience
        self._tell = tell
        # By protocol and host.
        self._failing: dict[str, _Server] = {}
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Give up what is waited for: it is read by the next run."""
        self._stopping.set()
        self._retries.stop()

    def close(self) -> None:
        """End the threads when their files are read."""
        self.threads.shutdown(wait=False, cancel_futures=True)

    async def read(
        self,
        item: Item,
        content: ReadFile,
        max_bytes: int,
        aside: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> tuple[bytes, str]:
        """Return a file and its SHA-256. Raises what `read_image` raises, and LoadStoppedError after `stop`.

        `aside` is entered while the item only waits.
        """
        backoff = Backoff(self._patience)
        server = _server_of(item.uri)
        while True:
            try:
                return await self._try(server, content, max_bytes, item.size)
            except UnavailableError as error:
                pause = backoff.next_pause(error.retry_after)
                if pause is None or self._is_away(server):
                    raise
                self._tell(f"{server or 'files'}, up to {self._patience:.0f} s: {error.message}")
                async with aside():
                    await self._sleep(pause)

    async def _try(self, server: str, content: ReadFile, max_bytes: int, size: int | None) -> tuple[bytes, str]:
        state = self._failing.get(server)
        if state is None:
            return await self._read(server, content, max_bytes, size)
        # A server that does not answer must not hold all threads.
        async with state.tries:
            if self._stopping.is_set():
                raise _stopped()
            if self._is_away(server) and time.monotonic() - state.tried < LAST_PAUSE:
                raise UnavailableError(state.error.reason, state.error.message, field="uri")
            return await self._read(server, content, max_bytes, size)

    async def _read(self, server: str, content: ReadFile, max_bytes: int, size: int | None) -> tuple[bytes, str]:
        try:
            found = await asyncio.get_running_loop().run_in_executor(self.threads, read_image, content, max_bytes, size)
        except UnavailableError as error:
            now = time.monotonic()
            state = self._failing.setdefault(server, _Server(asyncio.Semaphore(self._few), now, error))
            state.error, state.tried = error, now
            raise
        except ServiceError:
            self._answered(server)
            raise
        self._answered(server)
        return found

    def _answered(self, server: str) -> None:
        if self._failing.pop(server, None) is not None:
            self._tell("")

    def _is_away(self, server: str) -> bool:
        """Return whether nothing at all could be read of a server for as long as files are tried."""
        state = self._failing.get(server)
        return state is not None and time.monotonic() - state.since >= self._patience

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
        raise _stopped()


def _stopped() -> LoadStoppedError:
    return LoadStoppedError("STOPPED", "the load stopped while this file could not be read")


def _server_of(uri: str) -> str:
    """Return the protocol and host of a URL, also of an archive's; nothing of a path."""
    begin = uri.rpartition("::")[2] if protocol_of(uri) in MEMBER_PROTOCOLS else uri
    return "/".join(begin.split("/", 3)[:3]) if is_url(begin) else ""
