"""Writing a stream of images: each is checked and embedded, and stored in batches in the order of arrival."""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import structlog

from grpc_kit.deadline import Deadline
from grpc_kit.errors import InternalError, InvalidArgumentError, NotFoundError, ServiceError
from search_service.core import checks
from search_service.core.image_locks import ImageLocks
from search_service.core.ports import BulkEmbedder, Embedder, VectorStore
from search_service.core.search_images import model_gone, require_model
from search_service.core.types import AttributeValue, Collection, Embedding, EncodedImage, Region, StoredImage
from search_service.core.write_window import HeldImage, Reserve, Window

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
    region: Region | None = None
    """Of a ready vector; an image has its own."""
    size: int = 0
    """Bytes of the whole message."""


@dataclass(frozen=True)
class Unreadable:
    """A message that could not be understood; it is answered in its turn like any other."""

    request_id: str
    id: str
    collection: str
    error: ServiceError


@dataclass(frozen=True)
class WriteResult:
    """The answer to one image."""

    request_id: str
    id: str
    outcome: StoredImage | ServiceError


@dataclass
class UnderWay:
    """An image of the stream whose answer is still to come."""

    request_id: str
    id: str
    held: HeldImage
    prepared: "asyncio.Task[StoredImage]"


class WriteImages:
    """Writes streams of images."""

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
        """Makes the writer.

        Args:
            store: where the images go.
            embedder: makes the vectors of images that come without.
            now: the time in UTC.
            locks: those of all who write to the store.
            window_images: images of one stream under way at a time.
            window_bytes: their messages' bytes together.
            reserve: waits for room in the budget of bytes that all calls share.
        """
        self._store = store
        self._embedder = embedder
        self._now = now
        self._locks = locks
        self._window = (window_images, window_bytes)
        self._reserve = reserve

    async def write(
        self, messages: AsyncIterator[ImageToWrite | Unreadable], deadline: Deadline
    ) -> AsyncGenerator[WriteResult, None]:
        """Answers every message, in order, when its image is stored or has failed.

        An image is embedded as soon as it arrives, and stored after all that came before it, so that of two writes of
        one id the later one stands.
        """
        window = Window(*self._window, self._reserve)
        under_way: deque[UnderWay] = deque()
        arrived = asyncio.Event()

        async def read_all(stream: _Stream) -> None:
            try:
                async for message in messages:
                    size = message.size if isinstance(message, ImageToWrite) else 0
                    held = await window.enter(size)
                    stream.hear(message)
                    prepared = asyncio.create_task(stream.prepare(message))
                    prepared.add_done_callback(partial(_drop_content, held, _content_size(message)))
                    under_way.append(UnderWay(message.request_id, message.id, held, prepared))
                    arrived.set()
                    # It may be large, and the next one may not come for long.
                    del message
            finally:
                stream.ended = True
                arrived.set()

        async with self._embedder.bulk(deadline) as bulk:
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
                    places = [entry.held for entry in batch]
                    results = await self._store_batch(batch, stream, deadline)
                    # The images themselves are not kept until the caller has read the answers.
                    batch.clear()
                    for held in places:
                        held.drop()
                    for result in results:
                        yield result
                    window.leave(places)
                await reader
            finally:
                tasks = [reader, *(entry.prepared for entry in under_way)]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                window.close()

    async def _store_batch(self, batch: list[UnderWay], stream: "_Stream", deadline: Deadline) -> list[WriteResult]:
        """Stores what was prepared well, in one call, and gives the answers in order."""
        outcomes = [_outcome(entry) for entry in batch]
        # A store may keep both of two rows with one id in one call: only the last of them is sent.
        images = {outcome.id: outcome for outcome in outcomes if isinstance(outcome, StoredImage)}
        failures = await self._store_images(list(images.values()), stream, deadline) if images else {}
        return [
            WriteResult(
                entry.request_id,
                entry.id,
                failures.get(outcome.id, _answered(outcome)) if isinstance(outcome, StoredImage) else outcome,
            )
            for entry, outcome in zip(batch, outcomes, strict=True)
        ]

    async def _store_images(
        self, images: list[StoredImage], stream: "_Stream", deadline: Deadline
    ) -> dict[str, ServiceError]:
        """Stores images; gives the errors of those that failed, by id.

        Where the store fails on all for a reason that it does not give, the halves are tried, until the one at fault
        stands alone.
        """
        try:
            name = await stream.still_fits(deadline)
            async with self._locks.hold(name, (image.id for image in images)):
                await self._store.upsert(name, images, deadline)
        except InternalError as error:
            if len(images) == 1:
                return {images[0].id: error}
            middle = len(images) // 2
            return {
                **await self._store_images(images[:middle], stream, deadline),
                **await self._store_images(images[middle:], stream, deadline),
            }
        except ServiceError as error:
            return dict.fromkeys((image.id for image in images), error)
        return {}


class _Stream:
    """One stream of images into one collection."""

    def __init__(
        self, store: VectorStore, embedder: BulkEmbedder, now: Callable[[], datetime], deadline: Deadline
    ) -> None:
        self.ended = False
        self._name = ""
        self._finding: asyncio.Task[Collection] | None = None
        self._store = store
        self._embedder = embedder
        self._now = now
        self._deadline = deadline

    def hear(self, message: ImageToWrite | Unreadable) -> None:
        """Takes the stream's collection from the first message that names one."""
        self._name = self._name or message.collection

    async def still_fits(self, deadline: Deadline) -> str:
        """The collection's name, where it is still the one that the images were prepared for."""
        prepared_for = await self._find_collection()
        now = await self._store.get_collection(self._name, deadline)
        if now.fingerprint != prepared_for.fingerprint:
            raise checks.embedding_mismatch(now, prepared_for.fingerprint, "collection")
        return now.name

    async def prepare(self, message: ImageToWrite | Unreadable) -> StoredImage:
        """Checks one message and makes its image ready to be stored. Raises ServiceError."""
        if isinstance(message, Unreadable):
            raise message.error
        checks.check_request_id(message.request_id)
        if message.collection not in ("", self._name):
            raise InvalidArgumentError(
                "COLLECTION_CHANGED",
                f"collection is {checks.shown(message.collection)}; this stream writes to {checks.shown(self._name)}, "
                "and one stream writes to one",
                field="collection",
            )
        collection = await self._find_collection()
        checks.check_id(message.id, "id")
        checks.check_uri(message.uri)
        checks.check_attributes(message.attributes)
        checks.check_sha256(message.content_sha256)
        checks.check_region(message.region, "region")
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
            region=message.source.region if isinstance(message.source, EncodedImage) else message.region,
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
        if message.region is not None:
            raise InvalidArgumentError(
                "REGION_INVALID",
                "region is set beside image, which has a region of its own: image.region",
                field="region",
            )
        require_model(collection, "image")
        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(source.content).hexdigest())
        try:
            embedding = await self._embedder.embed(source, collection.model)
        except NotFoundError as error:
            raise model_gone(collection, error, "image") from None
        checks.check_embedding(embedding, collection, "image")
        return sha256, embedding

    async def _find_collection(self) -> Collection:
        """The stream's one collection; read from the store once, and again only where that failed."""
        checks.check_collection_name(self._name, "collection")
        if self._finding is None or self._finding_failed():
            self._finding = asyncio.create_task(self._store.get_collection(self._name, self._deadline))
        return await asyncio.shield(self._finding)

    def _finding_failed(self) -> bool:
        finding = self._finding
        return finding is not None and finding.done() and (finding.cancelled() or finding.exception() is not None)


async def _take_ready(under_way: deque[UnderWay]) -> list[UnderWay]:
    """Waits for the first, and takes with it those that follow and are ready too."""
    await asyncio.wait([under_way[0].prepared])
    batch: list[UnderWay] = []
    while under_way and under_way[0].prepared.done() and len(batch) < MAX_BATCH:
        batch.append(under_way.popleft())
    return batch


def _content_size(message: ImageToWrite | Unreadable) -> int:
    if isinstance(message, ImageToWrite) and isinstance(message.source, EncodedImage):
        return len(message.source.content)
    return 0


def _drop_content(held: HeldImage, size: int, prepared: "asyncio.Task[StoredImage]") -> None:
    if not prepared.cancelled() and isinstance(error := prepared.exception(), ServiceError):
        # Its frames hold the image.
        error.let_go()
    held.drop_content(size)


def _answered(image: StoredImage) -> StoredImage:
    """What an answer says of an image, without its vector and its attributes."""
    return StoredImage(image.id, content_sha256=image.content_sha256, create_time=image.create_time)


def _outcome(entry: UnderWay) -> StoredImage | ServiceError:
    error = entry.prepared.exception()
    if error is None:
        return entry.prepared.result()
    if isinstance(error, ServiceError):
        return error
    log.error("an image failed", exc_info=error)
    return InternalError("INTERNAL", "internal error; the server's log has the details")
