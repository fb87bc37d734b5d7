"""List the entries of sources for the event loop, in a thread of their own."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from imagesearch_ingest.load.report import LoadReport
from imagesearch_ingest.sources.items import Fault, Item, Source, SourceEntry, SourceError
from imagesearch_ingest.sources.local_files import is_utf8, name_not_utf8
from imagesearch_ingest.sources.source_retries import SourceRetries, thread_retries

# Entries in a chunk, and bytes of files that they hold in memory.
CHUNK_ENTRIES = 500
CHUNK_BYTES = 32 * 1024 * 1024
# A slow source returns an incomplete chunk after this time.
CHUNK_SECONDS = 1.0


class SourceLister:
    """Lists sources in one thread, because only one thread at a time may use the iterator of a source."""

    def __init__(self, retry_seconds: float, notify: Callable[[str], None]) -> None:
        """Create the thread. `retry_seconds` is the retry budget of each request to a source."""
        self._retries = SourceRetries(retry_seconds, notify)
        # `Pruner` asks its question in the same thread.
        self.thread = ThreadPoolExecutor(1, "listing", initializer=thread_retries.set, initargs=(self._retries,))

    async def chunks(self, source: Source) -> AsyncGenerator[list[SourceEntry], None]:
        """Yield the entries of a source in chunks. Items with undecodable names become faults. Raises SourceError."""
        loop = asyncio.get_running_loop()
        entries = iter(source)
        while chunk := await loop.run_in_executor(self.thread, _next_chunk, entries):
            yield [_check_name(entry) if isinstance(entry, Item) else entry for entry in chunk]

    def stop(self) -> None:
        """End the retries."""
        self._retries.stop()

    def close(self) -> None:
        """End the thread after its current request."""
        self._retries.stop()
        self.thread.shutdown(wait=False, cancel_futures=True)


def count_in_background(sources: Sequence[Source], report: LoadReport) -> None:
    """Set the number of items that a report expects, in a thread for which nobody waits."""

    def count() -> None:
        # Listing the source reports its errors.
        with suppress(OSError, SourceError):
            counts = [source.count() for source in sources]
            if None not in counts:
                report.expected = sum(filter(None, counts))

    threading.Thread(target=count, name="counting", daemon=True).start()


def _next_chunk(entries: Iterator[SourceEntry]) -> list[SourceEntry]:
    """Return the next entries of a source; none at its end."""
    chunk: list[SourceEntry] = []
    held = 0
    deadline = time.monotonic() + CHUNK_SECONDS
    for entry in entries:
        chunk.append(entry)
        held += entry.held if isinstance(entry, Item) else 0
        if len(chunk) >= CHUNK_ENTRIES or held >= CHUNK_BYTES or time.monotonic() > deadline:
            break
    return chunk


def _check_name(item: Item) -> Item | Fault:
    """Return the item, or a fault if its id or uri is not UTF-8."""
    return item if is_utf8(item.id + item.uri) else name_not_utf8(item.uri)
