"""Writing a stream of images: each is checked and embedded, and stored in batches in the order of arrival."""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

import structlog

from grpc_kit.deadline import Deadline
from grpc_kit.errors import (
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ServiceError,
    UnavailableError,
    clear_cancelled,
    error_for_fault,
)
from search_service.core import checks
from search_service.core.image_locks import ImageLocks
from search_service.core.kept_parts import Keep, Written, chunk_size, merged, view_of
from search_service.core.ports import BulkEmbedder, Embedder, VectorStore
from search_service.core.search_images import model_gone, require_model
from search_service.core.types import (
    AttributeValue,
    Collection,
    Consistency,
    Embedding,
    EncodedImage,
    KeptVector,
    Region,
    StoredImage,
)
from search_service.core.write_fence import WriteFence
from search_service.core.write_window import HeldImage, Reserve, Window

log = structlog.stdlib.get_logger()

MAX_BATCH = 1000
# Seconds after which an image can be written again whose name has moved to another model.
MOVED_SECONDS = 0.1


@dataclass(frozen=True)
class ImageToWrite:
    """One image that a caller wants stored."""

    request_id: str
    collection: str
    """Empty means: as in the message before."""
    id: str
    source: EncodedImage | Embedding | KeptVector
    uri: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    content_sha256: str = ""
    region: Region | None = None
    """Of a ready vector; an image has its own."""
    size: int = 0
    """Bytes of the whole message."""
    keep_attributes: bool = False
    """Whether stored attributes stay that are not among `attributes`."""
    report_replaced: bool = False
    """Whether the answer says that another image was replaced."""


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
    replaced: bool = False
    """Whether another image was stored under the id; only if that was asked."""


@dataclass
class UnderWay:
    """An image of the stream whose answer is still to come."""

    request_id: str
    id: str
    held: HeldImage
    prepared: "asyncio.Task[_Prepared]"


@dataclass(frozen=True)
class _Prepared:
    """An image with its vector, and the space that the vector lives in."""

    image: StoredImage
    fingerprint: str
    embedded: bool
    """Whether the service made the vector."""
    keep: Keep

    def fits(self, collection: Collection) -> bool:
        if self.keep.vector:
            return True
        vector = self.image.vector
        return self.fingerprint == collection.fingerprint and vector is not None and len(vector) == collection.dimension

    def refusal(self, collection: Collection) -> ServiceError:
        """Return why it cannot be stored in a collection that its name has come to lead to."""
        if not self.embedded:
            return checks.embedding_mismatch(collection, self.fingerprint, "collection")
        return UnavailableError(
            "COLLECTION_MOVED",
            "the name has moved to a collection of another model while the image was embedded; write the image again",
            metadata={"collection": collection.name},
            retry_after=MOVED_SECONDS,
        )


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
        self._fence = WriteFence(store, now, locks)
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
                    prepared.add_done_callback(clear_cancelled)
                    prepared.add_done_callback(partial(_drop_content, held, _content_size(message)))
                    under_way.append(UnderWay(message.request_id, message.id, held, prepared))
                    arrived.set()
                    # It may be large, and the next one may not come for long.
                    del message
            finally:
                stream.ended = True
                arrived.set()

        async with self._embedder.bulk(deadline) as bulk:
            stream = _Stream(self._store, bulk, deadline)
            reader = asyncio.create_task(read_all(stream))
            reader.add_done_callback(clear_cancelled)
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
        """Store the images that were prepared without an error, in one call; return the answers in order."""
        outcomes = [_outcome(entry) for entry in batch]
        # A store may keep both of two rows with one id in one call: only the last of them is sent. If that one keeps
        # something of the one before, each is sent by a call of its own.
        calls: list[dict[str, _Prepared]] = [{}]
        numbers: list[int] = []
        for outcome in outcomes:
            if isinstance(outcome, _Prepared):
                if outcome.keep and outcome.image.id in calls[-1]:
                    calls.append({})
                calls[-1][outcome.image.id] = outcome
            numbers.append(len(calls) - 1)
        stored = [await self._store_images(list(call.values()), stream, deadline) if call else {} for call in calls]
        return [
            _answer(entry, outcome, stored[number])
            for entry, outcome, number in zip(batch, outcomes, numbers, strict=True)
        ]

    async def _store_images(
        self, images: "list[_Prepared]", stream: "_Stream", deadline: Deadline
    ) -> dict[str, Written | ServiceError]:
        """Store images; return for each id what became of it, or its error.

        If the store fails on all for a reason that it does not give, the halves are tried, until the one at fault
        stands alone.
        """
        try:
            return await self._fence.apply(stream.name, partial(self._upsert, images, stream, deadline), deadline)
        except InternalError as error:
            if len(images) == 1:
                return {images[0].image.id: error}
            middle = len(images) // 2
            return {
                **await self._store_images(images[:middle], stream, deadline),
                **await self._store_images(images[middle:], stream, deadline),
            }
        except ServiceError as error:
            return {prepared.image.id: error for prepared in images}

    async def _upsert(
        self, images: "list[_Prepared]", stream: "_Stream", deadline: Deadline, collection: Collection
    ) -> dict[str, Written | ServiceError]:
        """Store those images whose vectors fit a collection; return for each id what became of it, or why not."""
        stored: dict[str, Written | ServiceError] = {
            prepared.image.id: prepared.refusal(collection) for prepared in images if not prepared.fits(collection)
        }
        if stored:
            stream.find_again()
        fitting = [prepared for prepared in images if prepared.fits(collection)]
        size = chunk_size(collection, [(prepared.image, prepared.keep) for prepared in fitting])
        for begin in range(0, len(fitting), size):
            chunk = fitting[begin : begin + size]
            ids = [prepared.image.id for prepared in chunk]
            upsert = partial(self._upsert_locked, chunk, collection, deadline)
            stored |= await self._locks.run(collection.name, ids, upsert, deadline)
        return stored

    async def _upsert_locked(
        self, images: "list[_Prepared]", collection: Collection, deadline: Deadline
    ) -> dict[str, Written | ServiceError]:
        """Store images that are locked, with what they keep; return for each id what became of it, or why not."""
        keeping = [prepared for prepared in images if prepared.keep]
        found: dict[str, StoredImage] = {}
        if keeping:
            ids = [prepared.image.id for prepared in keeping]
            view = view_of((prepared.image, prepared.keep) for prepared in keeping)
            kept = await self._store.get(collection, ids, view, Consistency.STRONG, deadline)
            found = {image.id: image for image in kept}
        # Once the images are locked, and not earlier: a listing of the latest changes relies on it.
        now = self._now()
        outcomes: dict[str, Written | ServiceError] = {}
        timed: list[StoredImage] = []
        for prepared in images:
            image_id = prepared.image.id
            try:
                image, outcomes[image_id] = merged(prepared.image, prepared.keep, found.get(image_id), now, collection)
                timed.append(image)
            except ServiceError as error:
                outcomes[image_id] = error
        if timed:
            await self._store.upsert(collection, timed, deadline)
        return outcomes


class _Stream:
    """One stream of images into one collection."""

    def __init__(self, store: VectorStore, embedder: BulkEmbedder, deadline: Deadline) -> None:
        self.ended = False
        self._name = ""
        self._finding: asyncio.Task[Collection] | None = None
        self._store = store
        self._embedder = embedder
        self._deadline = deadline

    def hear(self, message: ImageToWrite | Unreadable) -> None:
        """Takes the stream's collection from the first message that names one."""
        self._name = self._name or message.collection

    @property
    def name(self) -> str:
        """The name or alias that the stream writes to."""
        return self._name

    def find_again(self) -> None:
        """Prepare what comes next for the collection that the name leads to now."""
        self._finding = None

    async def prepare(self, message: ImageToWrite | Unreadable) -> _Prepared:
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
        keep = Keep(message.keep_attributes, isinstance(message.source, KeptVector), message.report_replaced)
        image = StoredImage(message.id, message.uri, message.attributes, message.content_sha256, region=message.region)
        if isinstance(message.source, KeptVector):
            if message.region is not None:
                raise _without_effect("stored_vector, whose region stays")
            return _Prepared(image, collection.fingerprint, embedded=False, keep=keep)
        sha256, embedding = await self._embed(message, message.source, collection)
        is_image = isinstance(message.source, EncodedImage)
        region = message.source.region if isinstance(message.source, EncodedImage) else message.region
        image = replace(image, content_sha256=sha256, vector=embedding.values, region=region)
        return _Prepared(image, embedding.fingerprint, is_image, keep)

    async def _embed(
        self, message: ImageToWrite, source: EncodedImage | Embedding, collection: Collection
    ) -> tuple[str, Embedding]:
        """The SHA-256 of the image and its vector, which fits the collection."""
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
            raise _without_effect("image, which has a region of its own: image.region")
        require_model(collection, "image")
        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(source.content).hexdigest())
        try:
            embedding = await self._embedder.embed(source, collection.model)
        except NotFoundError as error:
            raise model_gone(collection, error, "image") from None
        checks.check_embedded(embedding, collection, "image")
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


def _drop_content(held: HeldImage, size: int, prepared: "asyncio.Task[_Prepared]") -> None:
    if not prepared.cancelled() and isinstance(error := prepared.exception(), ServiceError):
        # Its frames hold the image.
        error.release_frames()
    held.drop_content(size)


def _answer(
    entry: UnderWay, outcome: _Prepared | ServiceError, stored: Mapping[str, Written | ServiceError]
) -> WriteResult:
    """What an answer says of an image, without its vector and its attributes."""
    if isinstance(outcome, ServiceError):
        return WriteResult(entry.request_id, entry.id, outcome)
    image = outcome.image
    written = stored[image.id]
    if isinstance(written, ServiceError):
        return WriteResult(entry.request_id, entry.id, written)
    answer = StoredImage(image.id, content_sha256=image.content_sha256, create_time=written.create_time)
    return WriteResult(entry.request_id, entry.id, answer, written.replaced)


def _without_effect(source: str) -> InvalidArgumentError:
    return InvalidArgumentError("REGION_INVALID", f"region is set beside {source}", field="region")


def _outcome(entry: UnderWay) -> _Prepared | ServiceError:
    error = entry.prepared.exception()
    if error is None:
        return entry.prepared.result()
    if isinstance(error, ServiceError):
        return error
    log.error("an image failed", exc_info=error)
    return error_for_fault(error)
