"""Write a stream of images: prepare all of them concurrently, and store them in batches in the order of arrival."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import structlog

from grpc_kit.deadline import Deadline
from grpc_kit.errors import ServiceError, clear_cancelled, error_for_fault
from search_service.core.image_locks import ImageLocks
from search_service.core.image_writes import ImageToWrite, InvalidMessage, WriteResult
from search_service.core.ports import Embedder, VectorStore
from search_service.core.prepare_images import ImagePreparer, PreparedImage
from search_service.core.store_batches import BatchStore, Outcome
from search_service.core.types import EncodedImage, StoredImage
from search_service.core.write_window import HeldImage, Reserve, Window

log = structlog.stdlib.get_logger()

MAX_BATCH = 1000


@dataclass
class _Pending:
    """A message of the stream without a result yet."""

    request_id: str
    id: str
    held: HeldImage
    preparing: asyncio.Task[PreparedImage]


class WriteImages:
    """Write streams of images."""

    def __init__(
        self,
        store: VectorStore,
        embedder: Embedder,
        now: Callable[[], datetime],
        locks: ImageLocks,
        window_images: int,
        window_bytes: int,
        reserve: Reserve,
    ) -> None:
        """Prepare to write.

        Args:
            store: stores the images.
            embedder: embeds the images that have no vector.
            now: returns the time in UTC.
            locks: the image locks that all writers share.
            window_images: maximum number of images of one stream in flight.
            window_bytes: maximum bytes of their messages.
            reserve: waits for room in the byte budget that all calls share.
        """
        self._store = store
        self._embedder = embedder
        self._batches = BatchStore(store, now, locks)
        self._window = (window_images, window_bytes)
        self._reserve = reserve

    async def write(
        self, messages: AsyncIterator[ImageToWrite | InvalidMessage], deadline: Deadline
    ) -> AsyncGenerator[WriteResult, None]:
        """Yield a result for every message, in order, when its image is stored or has failed.

        An image is embedded as soon as it arrives, and stored after all earlier images. So the later one of two writes
        to the same id wins.
        """
        window = Window(*self._window, self._reserve)
        async with self._embedder.bulk(deadline) as bulk:
            stream = _Stream(messages, ImagePreparer(self._store, bulk, deadline), window)
            try:
                while batch := await stream.next_batch():
                    held = [pending.held for pending in batch]
                    results = await self._write_batch(batch, stream.preparer, deadline)
                    # Do not keep the images in memory until the caller has read the results.
                    batch.clear()
                    for image in held:
                        image.drop()
                    for result in results:
                        yield result
                    window.release(held)
                await stream.reader
            finally:
                await stream.close()
                window.close()

    async def _write_batch(
        self, batch: list[_Pending], preparer: ImagePreparer, deadline: Deadline
    ) -> list[WriteResult]:
        prepared = [_prepared(pending) for pending in batch]
        outcomes = await self._batches.write(prepared, preparer, deadline)
        return [_result(*each) for each in zip(batch, prepared, outcomes, strict=True)]


class _Stream:
    """Read the messages of one stream, and prepare their images."""

    def __init__(
        self, messages: AsyncIterator[ImageToWrite | InvalidMessage], preparer: ImagePreparer, window: Window
    ) -> None:
        """Start to read."""
        self.preparer = preparer
        self._window = window
        self._pending: deque[_Pending] = deque()
        self._arrived = asyncio.Event()
        self._ended = False
        self.reader = asyncio.create_task(self._read(messages))
        self.reader.add_done_callback(clear_cancelled)

    async def _read(self, messages: AsyncIterator[ImageToWrite | InvalidMessage]) -> None:
        try:
            async for message in messages:
                self.preparer.read_name(message)
                size = message.size if isinstance(message, ImageToWrite) else 0
                held = await self._window.enter(size, await self.preparer.embedded_bytes(message))
                preparing = asyncio.create_task(self.preparer.prepare(message))
                preparing.add_done_callback(clear_cancelled)
                preparing.add_done_callback(partial(_drop_content, held, _content_size(message)))
                self._pending.append(_Pending(message.request_id, message.id, held, preparing))
                self._arrived.set()
                # The message may be large, and the next one may arrive much later.
                del message
        finally:
            self._ended = True
            self._arrived.set()

    async def next_batch(self) -> list[_Pending]:
        """Wait for the first pending image; return it and all prepared images after it. Empty at the end."""
        while not self._pending and not self._ended:
            self._arrived.clear()
            await self._arrived.wait()
        batch: list[_Pending] = []
        if self._pending:
            await asyncio.wait([self._pending[0].preparing])
        while self._pending and self._pending[0].preparing.done() and len(batch) < MAX_BATCH:
            batch.append(self._pending.popleft())
        return batch

    async def close(self) -> None:
        """Cancel the reader and all pending images."""
        tasks = [self.reader, *(pending.preparing for pending in self._pending)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _content_size(message: ImageToWrite | InvalidMessage) -> int:
    if isinstance(message, ImageToWrite) and isinstance(message.source, EncodedImage):
        return len(message.source.content)
    return 0


def _drop_content(held: HeldImage, size: int, preparing: asyncio.Task[PreparedImage]) -> None:
    if not preparing.cancelled() and isinstance(error := preparing.exception(), ServiceError):
        # The frames of the error hold the image.
        error.release_frames()
    held.drop_content(size)


def _prepared(pending: _Pending) -> PreparedImage | ServiceError:
    error = pending.preparing.exception()
    if error is None:
        return pending.preparing.result()
    if isinstance(error, ServiceError):
        return error
    log.error("an image failed", exc_info=error)
    return error_for_fault(error)


def _result(pending: _Pending, prepared: PreparedImage | ServiceError, outcome: Outcome) -> WriteResult:
    """Return the result of a message, without the vector and the attributes of the image."""
    if isinstance(prepared, ServiceError):
        return WriteResult(pending.request_id, pending.id, prepared)
    if isinstance(outcome, ServiceError):
        return WriteResult(pending.request_id, pending.id, outcome)
    # The digest of this message: a later message of the batch may write the same id with another content.
    digest = prepared.image.content_sha256
    stored = StoredImage(pending.id, content_sha256=digest, create_time=outcome.create_time)
    return WriteResult(pending.request_id, pending.id, stored, outcome.replaced)
