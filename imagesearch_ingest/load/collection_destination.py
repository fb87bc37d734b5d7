"""Write the images of a load into a collection of the search service."""

import asyncio
import itertools
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from typing import Self

from imagesearch.search.v1 import image_pb2
from imagesearch.types.v1 import embedding_pb2

from grpc_kit.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ServiceError,
    UnavailableError,
    UnimplementedError,
)
from imagesearch_client.client import Client
from imagesearch_client.region_messages import region_embeddings_to, region_to
from imagesearch_client.to_messages import attributes_to, embedding_to
from imagesearch_client.types import Collection, Embedding, Image
from imagesearch_ingest.load.bulk_clients import (
    ITEM_REASONS,
    BulkEmbedder,
    BulkWriter,
    image_batch_limits,
    vector_batch_limits,
)
from imagesearch_ingest.load.destination import DEFAULT_MAX_IMAGE_BYTES, Destination, ImageMetadata
from imagesearch_ingest.load.errors import LoadStoppedError
from imagesearch_ingest.load.load_options import LoadServices
from imagesearch_ingest.load.service_retries import RequestRetries, ServiceAvailability

# The attribute with the uris of an image's duplicates, and the limit of its JSON text in characters. All attributes of
# an image together may have 32 KiB.
DUPLICATE_URIS = "other_uris"
MAX_DUPLICATE_URIS = 16_384


class CollectionDestination(Destination):
    """A collection of the search service. Use it with `async with`."""

    is_dry_run = False

    def __init__(
        self,
        client: Client,
        collection: Collection,
        services: LoadServices,
        retry_seconds: float,
        notify: Callable[[str], None] = lambda _: None,
        create: Callable[[], Collection] | None = None,
    ) -> None:
        """Open channels to the services. Raises CredentialsError.

        Args:
            client: of the search service, for calls that are not part of the bulk.
            collection: the collection, or its description if it does not exist yet.
            services: the services to call.
            retry_seconds: the retry budget.
            notify: receives what the load waits for, and an empty string when it no longer waits.
            create: creates the collection before its first image is stored; None if the collection exists.
        """
        self.max_image_bytes = DEFAULT_MAX_IMAGE_BYTES
        self._client = client
        self._collection = collection
        self._create = create
        self._creating = asyncio.Lock()
        self._availability = ServiceAvailability("the search service", retry_seconds, self._responds, notify)
        # asyncio waits for its default pool at exit, and a call to a frozen service takes long. So use another pool.
        self._threads = ThreadPoolExecutor(2, "call")
        self._exit = AsyncExitStack()
        self._embedder: BulkEmbedder | None = None
        if services.embedder is not None and not services.vectors_only:
            self._embedder = BulkEmbedder(services.embedder, collection.model, services.streams, retry_seconds, notify)
        sends_vectors = services.vectors_only or self._embedder is not None
        limits = (
            vector_batch_limits(ready=services.vectors_only) if sends_vectors else image_batch_limits(services.streams)
        )
        self._writer = BulkWriter(services.search, limits, self._availability)

    async def __aenter__(self) -> Self:
        """Start sending. Raises ServiceError if the embedder is unavailable or has another model."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._writer)
            if self._embedder is not None:
                await stack.enter_async_context(self._embedder)
                await self._check_model(self._embedder)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cancel the calls in flight."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._exit.aclose()

    async def store(self, image: ImageMetadata, content: bytes) -> bool:
        """Embed an image and store it."""
        request = self._request(image)
        if self._embedder is None:
            request.image.content = content
        else:
            await self._fill_vectors(request, self._embedder, content)
            request.content_sha256 = image.sha256
        return await self._write(request, image)

    async def _fill_vectors(
        self, request: image_pb2.WriteImagesRequest, embedder: BulkEmbedder, content: bytes
    ) -> None:
        """Embed an image, with its regions if the collection has them."""
        if not self._collection.max_regions:
            request.embedding.CopyFrom(await embedder.embed(content))
            return
        embedded = await embedder.embed_regions(content, self._collection.max_regions)
        request.embedding.CopyFrom(embedded.image)
        request.regions.extend(embedded.proposals)

    async def store_vector(self, image: ImageMetadata, vector: Embedding) -> bool:
        """Store an image with a ready vector."""
        request = self._request(image)
        request.embedding.CopyFrom(_vector_message(vector))
        request.content_sha256 = image.sha256
        if image.region is not None:
            request.region.CopyFrom(region_to(image.region))
        request.regions.extend(region_embeddings_to(image.regions, vector))
        return await self._write(request, image)

    async def update_metadata(self, image: ImageMetadata) -> bool:
        """Update the uri and the attributes. The search service keeps the stored vector."""
        if self._create is not None:
            return False
        request = self._request(image)
        request.stored_vector = True
        request.content_sha256 = image.sha256
        try:
            await self._write(request, image)
        except ServiceError as error:
            if error.reason in ITEM_REASONS:
                return False
            raise
        return True

    async def delete(self, ids: Sequence[str]) -> None:
        """Remove images."""
        if self._create is None:
            await self._call_with_ids(ids, lambda some: self._client.delete(self._collection.name, some))

    async def ids_of_other_images(self, images: Sequence[ImageMetadata]) -> set[str]:
        """Return those ids under which a different image is stored; without a SHA-256 only the uris count."""
        if self._create is not None:
            return set()
        found: dict[str, Image] = {}

        def read(ids: Sequence[str]) -> None:
            found.update(self._client.get_many(self._collection.name, ids, strong=True))

        await self._call_with_ids([image.id for image in images], read)
        return {
            image.id
            for image in images
            if (stored := found.get(image.id)) is not None
            and stored.uri != image.uri
            and (stored.content_sha256 != image.sha256 or not image.sha256)
        }

    async def store_duplicate_uris(self, image_id: str, uris: Sequence[str]) -> None:
        """Store as many uris of an image's duplicates as fit."""
        sizes = itertools.accumulate(len(json.dumps(uri)) for uri in uris)
        kept = [uri for uri, size in zip(uris, sizes, strict=True) if size <= MAX_DUPLICATE_URIS]
        attributes = {DUPLICATE_URIS: kept} if kept else {}
        removed = [] if kept else [DUPLICATE_URIS]
        # The image may have been removed meanwhile, or its attributes may leave no room.
        with suppress(NotFoundError, InvalidArgumentError):
            await self._call(
                lambda: self._client.update(self._collection.name, image_id, attributes=attributes, remove=removed)
            )

    def flush(self) -> None:
        """Send pending vectors at once."""
        self._writer.flush()

    def cancel_pending(self) -> None:
        """Cancel images that wait to be embedded, or ready vectors that wait to be sent."""
        (self._embedder or self._writer).cancel_pending()

    async def _check_model(self, embedder: BulkEmbedder) -> None:
        try:
            model = await embedder.describe()
        except (UnavailableError, DeadlineExceededError, UnimplementedError) as error:
            raise UnavailableError(
                "EMBEDDER_AWAY", f"no embedder answers at {embedder.target}: {error.message}"
            ) from None
        fingerprint = model.region_fingerprint if self._collection.max_regions else model.fingerprint
        if fingerprint != self._collection.fingerprint:
            raise FailedPreconditionError(
                "EMBEDDING_MISMATCH",
                f"the embedder's model {model.name} has the fingerprint {fingerprint}, but the collection "
                f"{self._collection.name} has {self._collection.fingerprint}; use an embedder with that fingerprint",
            )
        self.max_image_bytes = model.limits.max_image_bytes

    async def _responds(self) -> bool:
        try:
            return bool(await self._in_thread(lambda: self._client.get_collection(self._collection.name)))
        except NotFoundError:
            return self._create is not None
        except ServiceError:
            return False

    async def _create_collection(self) -> None:
        """Create the collection if it does not exist. Raises LoadStoppedError, and the errors of `create`."""
        async with self._creating:
            if (create := self._create) is None:
                return
            created: list[Collection] = []
            try:
                await self._call(lambda: created.append(create()))
            except (NotFoundError, InvalidArgumentError) as error:
                raise LoadStoppedError(error.reason, error.message) from None
            planned, (self._collection,) = self._collection, created
            if (created[0].fingerprint, created[0].dimension) != (planned.fingerprint, planned.dimension):
                raise LoadStoppedError(
                    "EMBEDDING_MISMATCH",
                    f"another process created {planned.name} with the fingerprint {created[0].fingerprint}, but this "
                    f"load has vectors of {planned.fingerprint}",
                )
            self._create = None

    async def _write(self, request: image_pb2.WriteImagesRequest, image: ImageMetadata) -> bool:
        def keep_attributes() -> None:
            # The failed attempt may have stored the image, and somebody may have set attributes since.
            request.keep_attributes = image.attributes is None

        await self._create_collection()
        return (await self._writer.write(request, keep_attributes)).replaced

    async def _call_with_ids(self, ids: Sequence[str], call: Callable[[Sequence[str]], object]) -> None:
        """Call with those ids that the search service accepts. No image has one of the others.

        The ledger has unchecked ids of files that could not be read.
        """
        try:
            await self._call(lambda: call(ids))
        except InvalidArgumentError as error:
            if error.reason != "ID_INVALID":
                raise
            if len(ids) > 1:
                for half in (ids[: len(ids) // 2], ids[len(ids) // 2 :]):
                    await self._call_with_ids(half, call)

    async def _call(self, call: Callable[[], object]) -> None:
        """Make a call that concerns no single item, with retries.

        Raises NotFoundError and InvalidArgumentError, and LoadStoppedError instead of other errors.
        """
        retries = RequestRetries(self._availability)
        while True:
            try:
                await self._in_thread(call)
            except (NotFoundError, InvalidArgumentError):
                raise
            except ServiceError as error:
                try:
                    await retries.wait(error)
                except ServiceError as last:
                    raise LoadStoppedError(last.reason, last.message) from None
            else:
                self._availability.record_success()
                return

    async def _in_thread(self, call: Callable[[], object]) -> object:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _request(self, image: ImageMetadata) -> image_pb2.WriteImagesRequest:
        try:
            return image_pb2.WriteImagesRequest(
                collection=self._collection.name,
                id=image.id,
                uri=image.uri,
                attributes=attributes_to(image.attributes or {}),
                keep_attributes=image.attributes is None and image.may_exist,
                report_replaced=image.may_exist and not image.is_known,
            )
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidArgumentError("VALUE_INVALID", f"a value cannot be sent: {error}") from None


def _vector_message(vector: Embedding) -> embedding_pb2.Embedding:
    try:
        return embedding_to(vector)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidArgumentError("VALUE_INVALID", f"the vector cannot be sent: {error}") from None
