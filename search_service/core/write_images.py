"""Writing a stream of images: each is checked and embedded, and stored in batches in the order of arrival."""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from grpc_kit.deadline import Deadline
from grpc_kit.errors import InternalError, InvalidArgumentError, NotFoundError, ServiceError
from search_service.core import checks
from search_service.core.ports import BulkEmbedder, Embedder, VectorStore
from search_service.core.search_images import model_gone, require_model
from search_service.core.types import AttributeValue, Collection, Embedding, EncodedImage, StoredImage

log = structlog.stdlib.get_logger()

MAX_BATCH = 1000


@dataclass(frozen=True)
class ImageToWrite:
    """One image that a caller wants stored."""

    request_id: str
    collection: str
    """Empty means: as in the message before."""
    id: str
    source: EncodedImage | Embedding
    uri: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    content_sha256: str = ""


@dataclass(frozen=True)
class Unreadable:
    """A message that could not be understood; it is answered in its turn like any other."""

    request_id: str
    id: str
    error: ServiceError


@dataclass(frozen=True)
class WriteResult:
    """The answer to one image."""

    request_id: str
    id: str
    outcome: StoredImage | ServiceError


class Window:
    """Bounds what one stream has under way, in images and in bytes. A single image always fits."""

    def __init__(self, images: int, size: int) -> None:
        """At most so many images, of so many bytes together."""
        self._free_images = images
        self._free_bytes = size
        self._images = images
        self._changed = asyncio.Condition()

    async def enter(self, size: int) -> None:
        """Waits for room for one image of `size` bytes."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._free_images == self._images or (self._free_images > 0 and self._free_bytes >= size)
            )
            self._free_images -= 1
            self._free_bytes -= size

    async def leave(self, size: int) -> None:
        """Gives the room back."""
        async with self._changed:
            self._free_images += 1
            self._free_bytes += size
            self._changed.notify_all()


@dataclass
class UnderWay:
    """An image of the stream whose answer is still to come."""

    message: ImageToWrite | Unreadable
    size: int
    prepared: "asyncio.Task[StoredImage]"


class WriteImages:
    """Writes streams of images."""

    def __init__(
        self,
        store: VectorStore,
        embedder: Embedder,
        now: Callable[[], datetime],
        store_timeout: float,
        window_images: int,
        window_bytes: int,
    ) -> None:
        """Makes the writer.

        Args:
            store: where the images go.
            embedder: makes the vectors of images that come without.
            now: the time in UTC.
            store_timeout: seconds that the store gets for one batch.
            window_images: images of one stream under way at a time.
            window_bytes: their encoded bytes together.
        """
        self._store = store
        self._embedder = embedder
        self._now = now
        self._store_timeout = store_timeout
        self._window = (window_images, window_bytes)

    async def write(
        self, messages: AsyncIterator[ImageToWrite | Unreadable], deadline: Deadline
    ) -> AsyncGenerator[WriteResult, None]:
        """Answers every message, in order, when its image is stored or has failed.

        An image is embedded as soon as it arrives, and stored after all that came before it, so that of two writes of
        one id the later one stands.
        """
        window = Window(*self._window)
        under_way: deque[UnderWay] = deque()
        arrived = asyncio.Event()

        async def read_all(stream: _Stream) -> None:
            try:
                async for message in messages:
                    size = _size(message)
                    await window.enter(size)
                    prepared = asyncio.create_task(stream.prepare(message))
                    under_way.append(UnderWay(message, size, prepared))
                    arrived.set()
            finally:
                stream.ended = True
                arrived.set()

        async with self._embedder.bulk() as bulk:
            stream = _Stream(self._store, bulk, self._now, deadline)
            reader = asyncio.create_task(read_all(stream))
            try:
                while True:
                    while not under_way and not stream.ended:
                        arrived.clear()
                        await arrived.wait()
                    if not under_way:
                        break
                    batch = await _take_ready(under_way)
                    for result in await self._store_batch(batch, stream, deadline):
                        yield result
                    for entry in batch:
                        await window.leave(entry.size)
                await reader
            finally:
                tasks = [reader, *(entry.prepared for entry in under_way)]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _store_batch(self, batch: list[UnderWay], stream: "_Stream", deadline: Deadline) -> list[WriteResult]:
        """Stores what was prepared well, in one call, and gives the answers in order."""
        outcomes = [_outcome(entry) for entry in batch]
        # A store may keep both of two rows with one id in one call: only the last of them is sent.
        images = {outcome.id: outcome for outcome in outcomes if isinstance(outcome, StoredImage)}
        failure: ServiceError | None = None
        if images and stream.collection:
            call = Deadline.after(deadline.timeout(self._store_timeout))
            try:
                await self._store.upsert(stream.collection.name, list(images.values()), call)
            except ServiceError as error:
                failure = error
        return [
            WriteResult(
                entry.message.request_id,
                entry.message.id,
                failure if failure and isinstance(outcome, StoredImage) else outcome,
            )
            for entry, outcome in zip(batch, outcomes, strict=True)
        ]


class _Stream:
    """One stream of images into one collection."""

    def __init__(
        self, store: VectorStore, embedder: BulkEmbedder, now: Callable[[], datetime], deadline: Deadline
    ) -> None:
        self.ended = False
        self.collection: Collection | None = None
        self._name = ""
        self._finding: asyncio.Task[Collection] | None = None
        self._store = store
        self._embedder = embedder
        self._now = now
        self._deadline = deadline

    async def prepare(self, message: ImageToWrite | Unreadable) -> StoredImage:
        """Checks one message and makes its image ready to be stored. Raises ServiceError."""
        if isinstance(message, Unreadable):
            raise message.error
        checks.check_request_id(message.request_id)
        collection = await self._find_collection(message.collection)
        checks.check_id(message.id, "id")
        checks.check_uri(message.uri)
        checks.check_attributes(message.attributes)
        checks.check_sha256(message.content_sha256)
        sha256, embedding = await self._embed(message, collection)
        now = self._now()
        return StoredImage(
            message.id,
            message.uri,
            message.attributes,
            sha256,
            create_time=now,
            update_time=now,
            vector=embedding.values,
        )

    async def _embed(self, message: ImageToWrite, collection: Collection) -> tuple[str, Embedding]:
        """The SHA-256 of the image and its vector, which fits the collection."""
        source = message.source
        if isinstance(source, Embedding):
            checks.check_embedding(source, collection, "embedding")
            return message.content_sha256, source
        if message.content_sha256:
            raise InvalidArgumentError(
                "CONTENT_SHA256_INVALID",
                "content_sha256 is set beside image, of which it is computed; leave it out",
                field="content_sha256",
            )
        require_model(collection, "image")
        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(source.content).hexdigest())
        try:
            embedding = await self._embedder.embed(source, collection.model)
        except NotFoundError as error:
            raise model_gone(collection, error, "image") from None
        checks.check_embedding(embedding, collection, "image")
        return sha256, embedding

    async def _find_collection(self, name: str) -> Collection:
        """The stream's one collection, read from the store once."""
        if self._finding is None or self._finding_failed():
            checks.check_collection_name(name or self._name, "collection")
            self._name = name or self._name
            self._finding = asyncio.create_task(self._store.get_collection(self._name, self._deadline))
        elif name and name != self._name:
            raise InvalidArgumentError(
                "COLLECTION_CHANGED",
                f"collection is {checks.shown(name)}; this stream writes to {self._name}, and one stream writes to one",
                field="collection",
            )
        self.collection = await asyncio.shield(self._finding)
        return self.collection

    def _finding_failed(self) -> bool:
        finding = self._finding
        return finding is not None and finding.done() and (finding.cancelled() or finding.exception() is not None)


def _size(message: ImageToWrite | Unreadable) -> int:
    if isinstance(message, Unreadable):
        return 0
    source = message.source
    return len(source.content) if isinstance(source, EncodedImage) else source.values.nbytes


async def _take_ready(under_way: deque[UnderWay]) -> list[UnderWay]:
    """Waits for the first, and takes with it those that follow and are ready too."""
    await asyncio.wait([under_way[0].prepared])
    batch: list[UnderWay] = []
    while under_way and under_way[0].prepared.done() and len(batch) < MAX_BATCH:
        batch.append(under_way.popleft())
    return batch


def _outcome(entry: UnderWay) -> StoredImage | ServiceError:
    error = entry.prepared.exception()
    if error is None:
        return entry.prepared.result()
    if isinstance(error, ServiceError):
        return error
    log.error("an image failed", exc_info=error)
    return InternalError("INTERNAL", "internal error; the server's log has the details")
