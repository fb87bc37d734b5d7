"""Prepare the images of a WriteImages stream: check each message, and find its vector."""

import asyncio
import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace

from grpc_kit.deadline import Deadline
from grpc_kit.errors import InvalidArgumentError, NotFoundError, ServiceError, UnavailableError
from search_service.core import checks, vector_checks
from search_service.core.image_writes import ImageToWrite, InvalidMessage
from search_service.core.kept_parts import Keep
from search_service.core.ports import BulkEmbedder, VectorStore
from search_service.core.query_vectors import model_gone, require_model
from search_service.core.regions import image_bytes
from search_service.core.types import Collection, Embedding, EncodedImage, KeptVector, StoredImage, StoredRegion

# After this many seconds, an image can be written again whose alias has moved to a collection of another model.
MOVED_SECONDS = 0.1


@dataclass(frozen=True)
class PreparedImage:
    """An image with its vector and the fingerprint of the vector."""

    image: StoredImage
    fingerprint: str
    embedded: bool
    """Whether the service computed the vector."""
    keep: Keep

    def fits(self, collection: Collection) -> bool:
        """Return whether the collection can store the vector."""
        if self.keep.vector:
            return True
        vector = self.image.vector
        return (
            self.fingerprint == collection.fingerprint
            and vector is not None
            and len(vector) == collection.dimension
            and len(self.image.regions) <= collection.max_regions
        )

    def mismatch(self, collection: Collection) -> ServiceError:
        """Return the error for a collection that cannot store the vector, because the name leads to it only now."""
        vector = self.image.vector
        if not self.embedded and vector is not None and self.fingerprint == collection.fingerprint:
            if len(vector) != collection.dimension:
                return vector_checks.dimension_mismatch(vector, collection, "embedding")
            return checks.too_many_regions(self.image.regions, collection, "regions")
        if not self.embedded:
            return vector_checks.embedding_mismatch(collection, self.fingerprint, "collection")
        return UnavailableError(
            "COLLECTION_MOVED",
            "the alias moved to a collection of another model while the image was embedded; write the image again",
            metadata={"collection": collection.name},
            retry_after=MOVED_SECONDS,
        )


class ImagePreparer:
    """Prepare the images of one stream, which writes to one collection."""

    def __init__(self, store: VectorStore, embedder: BulkEmbedder, deadline: Deadline) -> None:
        """Read the collection from `store`, and embed images with `embedder`."""
        self._name = ""
        self._finding: asyncio.Task[Collection] | None = None
        self._store = store
        self._embedder = embedder
        self._deadline = deadline

    @property
    def name(self) -> str:
        """Return the name or alias that the stream writes to."""
        return self._name

    def read_name(self, message: ImageToWrite | InvalidMessage) -> None:
        """Take the collection from the first message that names one; call this for each message, in order."""
        self._name = self._name or message.collection

    async def embedded_bytes(self, message: ImageToWrite | InvalidMessage) -> int:
        """Return the bytes of the vectors that the embedder will add to a message; 0 without a collection."""
        if isinstance(message, InvalidMessage) or not isinstance(message.source, EncodedImage):
            return 0
        with suppress(ServiceError):
            return image_bytes(await self._find_collection())
        return 0

    def find_again(self) -> None:
        """Prepare later images for the collection that the name leads to now."""
        self._finding = None

    async def prepare(self, message: ImageToWrite | InvalidMessage) -> PreparedImage:
        """Check a message and return its image, ready to be stored. Raises ServiceError."""
        if isinstance(message, InvalidMessage):
            raise message.error
        checks.check_request_id(message.request_id)
        if message.collection not in ("", self._name):
            raise InvalidArgumentError(
                "COLLECTION_CHANGED",
                f"collection is {checks.shown(message.collection)}; it must be {checks.shown(self._name)}, as in the "
                "first message of the stream",
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
        source = message.source
        if isinstance(source, KeptVector):
            _refuse_region(message, "stored_vector; the stored region stays")
            _refuse_regions(message, "stored_vector; the stored regions stay")
            return PreparedImage(image, collection.fingerprint, embedded=False, keep=keep)
        if isinstance(source, Embedding):
            vector_checks.check_embedding(source, collection, "embedding")
            checks.check_regions(message.regions, collection, "regions")
            for number, region in enumerate(message.regions):
                vector_checks.check_values(region.vector, collection, f"regions[{number}]")
            image = replace(image, vector=source.values, regions=message.regions)
            return PreparedImage(image, source.fingerprint, embedded=False, keep=keep)
        sha256, embedding, regions = await self._embed(message, source, collection)
        image = replace(image, content_sha256=sha256, vector=embedding.values, region=source.region, regions=regions)
        return PreparedImage(image, embedding.fingerprint, embedded=True, keep=keep)

    async def _embed(
        self, message: ImageToWrite, source: EncodedImage, collection: Collection
    ) -> tuple[str, Embedding, tuple[StoredRegion, ...]]:
        """Return the SHA-256 of an image, its vector and its regions, which fit the collection."""
        if message.content_sha256:
            raise InvalidArgumentError(
                "CONTENT_SHA256_INVALID",
                "content_sha256 and image are both set; the service computes content_sha256: leave it out",
                field="content_sha256",
            )
        _refuse_region(message, "image; use image.region")
        _refuse_regions(message, "image; the embedder proposes the regions")
        require_model(collection, "image")
        sha256 = await asyncio.to_thread(_sha256, source.content)
        regions: tuple[StoredRegion, ...] = ()
        try:
            if collection.max_regions:
                embedded = await self._embedder.embed_regions(source, collection.model, collection.max_regions)
                embedding, regions = embedded.embedding, embedded.regions
            else:
                embedding = await self._embedder.embed(source, collection.model)
        except NotFoundError as error:
            raise model_gone(collection, error, "image") from None
        vector_checks.check_embedded(embedding, collection, "image")
        for region in regions:
            vector_checks.check_embedded(Embedding(region.vector, embedding.fingerprint), collection, "image")
        return sha256, embedding, regions

    async def _find_collection(self) -> Collection:
        """Return the collection of the stream. It is read once, and again only after a failure."""
        checks.check_collection_name(self._name, "collection")
        if self._finding is None or _has_failed(self._finding):
            self._finding = asyncio.create_task(self._store.get_collection(self._name, self._deadline))
        return await asyncio.shield(self._finding)


def _has_failed(task: asyncio.Task[Collection]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _refuse_region(message: ImageToWrite, other: str) -> None:
    if message.region is not None:
        raise InvalidArgumentError("REGION_INVALID", f"region is set together with {other}", field="region")


def _refuse_regions(message: ImageToWrite, other: str) -> None:
    if message.regions:
        raise InvalidArgumentError("REGION_INVALID", f"regions is set together with {other}", field="regions")
