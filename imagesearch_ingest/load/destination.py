"""Where the images of a load go: into a collection, or nowhere."""

import asyncio
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

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
from imagesearch_client import Client
from imagesearch_client.to_messages import attributes_to, embedding_to, region_to
from imagesearch_client.types import AttributeValue, Collection, Embedding, Image, Region
from imagesearch_ingest.load.bulk_clients import (
    ITEM_REASONS,
    BulkEmbedder,
    BulkWriter,
    Endpoint,
    image_batch_limits,
    vector_batch_limits,
)
from imagesearch_ingest.load.service_retries import LoadStoppedError, RequestRetries, ServiceRetries

# Of images whose embedder is not asked: what the services take where they are not told otherwise.
MAX_IMAGE_BYTES = 20 * 1024 * 1024
# The attribute that has the uris of an image's duplicates, and how many bytes of them as JSON: all attributes of an
# image together may have 32 KiB.
OTHER_URIS = "other_uris"
MAX_OTHER_URIS = 16_384


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """What is stored beside an image's vector."""

    id: str
    uri: str
    attributes: Mapping[str, AttributeValue] | None
    """None where the source knows of none, so that those that are stored stay."""
    sha256: str
    region: Region | None = None
    may_exist: bool = False
    """Whether an image may be stored under the id already."""
    is_known: bool = False
    """Whether the ledger knows what is stored under the id."""


class Destination(Protocol):
    """Takes images. Every method raises ServiceError, and LoadStoppedError where the load cannot go on."""

    max_image_bytes: int
    keeps: bool
    """Whether anything that is given to it stays, and is to be recorded."""

    async def store(self, image: ImageMetadata, content: bytes) -> bool:
        """Embeds and stores an image; it is stored when this returns.

        Returns whether it replaced another image that the ledger does not know.
        """

    async def store_vector(self, image: ImageMetadata, vector: Embedding) -> bool:
        """Stores an image whose vector there is; as `store`."""

    async def describe(self, image: ImageMetadata) -> bool:
        """Stores an image's uri and attributes beside the vector that is stored.

        Returns False if that is not the vector of the image's content, so that it is to be made.
        """

    async def delete(self, ids: Sequence[str]) -> None:
        """Removes images."""

    async def others(self, images: Sequence[ImageMetadata]) -> set[str]:
        """The ids under which other images are stored: of another content and under another uri."""

    async def tell_other_uris(self, image_id: str, uris: Sequence[str]) -> None:
        """Stores the uris of an image's duplicates with it."""

    def hurry(self) -> None:
        """There is nothing more to come."""

    def give_up(self) -> None:
        """Cancels images that wait to be embedded; what is in flight, and what is embedded, goes on."""


@dataclass(frozen=True)
class Route:
    """How images go into a collection."""

    search: Endpoint
    embedder: Endpoint | None
    """None: the search service has them embedded."""
    streams: int
    patience: float
    ready: bool = False
    """Whether there are only vectors."""

    @property
    def window(self) -> int:
        """Images under way at a time that keep every stream busy."""
        embedding = image_batch_limits(self.streams)
        writing = vector_batch_limits(ready=self.ready)
        if self.ready:
            return 2 * writing.calls * writing.entries
        return (3 if self.embedder else 2) * embedding.calls * embedding.entries


class CollectionDestination:
    """A collection of a search service; begins with `async with`."""

    keeps = True

    def __init__(
        self,
        client: Client,
        collection: Collection,
        route: Route,
        tell: Callable[[str], None] = lambda _: None,
        make: Callable[[], Collection] | None = None,
    ) -> None:
        """Writes to `collection`, by the calls of `route`; `tell` is told of services that are waited for.

        `make` makes the collection before its first image is stored; None if the collection exists. Raises
        CredentialsError.
        """
        self.max_image_bytes = MAX_IMAGE_BYTES
        self._client = client
        self._collection = collection
        self._make = make
        self._making = asyncio.Lock()
        self._patience = ServiceRetries("the search service", route.patience, self._is_there, tell)
        # Of its own: asyncio waits for its default pool at the end, and a call to a service that hangs takes long.
        self._threads = ThreadPoolExecutor(2, "call")
        self._exit = AsyncExitStack()
        self._embedders: BulkEmbedder | None = None
        if route.embedder is not None and not route.ready:
            self._embedders = BulkEmbedder(route.embedder, collection.model, route.streams, route.patience, tell)
        by_vector = route.ready or self._embedders is not None
        bounds = vector_batch_limits(ready=route.ready) if by_vector else image_batch_limits(route.streams)
        self._writers = BulkWriter(route.search, bounds, self._patience)

    async def __aenter__(self) -> Self:
        """Begins. Raises ServiceError where the embedder is not the collection's, or is away."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._writers)
            if self._embedders is not None:
                await stack.enter_async_context(self._embedders)
                await self._check_model(self._embedders)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends what is under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._exit.aclose()

    async def _check_model(self, embedders: BulkEmbedder) -> None:
        try:
            model = await embedders.describe()
        except (UnavailableError, DeadlineExceededError, UnimplementedError) as error:
            raise UnavailableError(
                "EMBEDDER_AWAY", f"no embedder answers at {embedders.target}: {error.message}"
            ) from None
        if model.fingerprint != self._collection.fingerprint:
            raise FailedPreconditionError(
                "EMBEDDING_MISMATCH",
                f"the embedder's model {model.name} has the fingerprint {model.fingerprint}, and "
                f"{self._collection.name} is of {self._collection.fingerprint}; it takes vectors of that one only",
            )
        self.max_image_bytes = model.limits.max_image_bytes

    async def _is_there(self) -> bool:
        try:
            return bool(await self._in_thread(lambda: self._client.get_collection(self._collection.name)))
        except NotFoundError:
            return self._make is not None
        except ServiceError:
            return False

    async def _ensure_made(self) -> None:
        """Make the collection if it does not exist. Raises LoadStoppedError, and what `make` raises."""
        async with self._making:
            if (make := self._make) is None:
                return
            made: list[Collection] = []
            try:
                await self._insist(lambda: made.append(make()))
            except (NotFoundError, InvalidArgumentError) as error:
                raise LoadStoppedError(error.reason, error.message) from None
            planned, (self._collection,) = self._collection, made
            if (made[0].fingerprint, made[0].dimension) != (planned.fingerprint, planned.dimension):
                raise LoadStoppedError(
                    "EMBEDDING_MISMATCH",
                    f"{planned.name} was made meanwhile for {made[0].fingerprint}, and the load has vectors of "
                    f"{planned.fingerprint}",
                )
            self._make = None

    async def store(self, image: ImageMetadata, content: bytes) -> bool:
        """Embeds and stores an image."""
        request = self._request(image)
        if self._embedders is None:
            request.image.content = content
        else:
            request.embedding.CopyFrom(await self._embedders.embed(content))
            request.content_sha256 = image.sha256
        return await self._write(request, image)

    async def store_vector(self, image: ImageMetadata, vector: Embedding) -> bool:
        """Stores an image whose vector there is."""
        request = self._request(image)
        request.embedding.CopyFrom(_vector_message(vector))
        request.content_sha256 = image.sha256
        if image.region is not None:
            request.region.CopyFrom(region_to(image.region))
        return await self._write(request, image)

    async def describe(self, image: ImageMetadata) -> bool:
        """Stores uri and attributes beside the stored vector, which the search service leaves where it is."""
        if self._make is not None:
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

    async def _write(self, request: image_pb2.WriteImagesRequest, image: ImageMetadata) -> bool:
        def keep_attributes() -> None:
            # The first try may have stored it without an answer, and somebody may have set attributes since.
            request.keep_attributes = image.attributes is None

        await self._ensure_made()
        return (await self._writers.write(request, keep_attributes)).replaced

    async def delete(self, ids: Sequence[str]) -> None:
        """Removes images."""
        if self._make is not None:
            return
        await self._with_ids(ids, lambda some: self._client.delete(self._collection.name, some))

    async def others(self, images: Sequence[ImageMetadata]) -> set[str]:
        """The ids under which other images are stored; without a SHA-256 their uris alone decide."""
        if self._make is not None:
            return set()
        found: dict[str, Image] = {}

        def read(some: Sequence[str]) -> None:
            found.update(self._client.get_many(self._collection.name, some, strong=True))

        await self._with_ids([image.id for image in images], read)
        return {
            image.id
            for image in images
            if (stored := found.get(image.id)) is not None
            and stored.uri != image.uri
            and (stored.content_sha256 != image.sha256 or not image.sha256)
        }

    async def tell_other_uris(self, image_id: str, uris: Sequence[str]) -> None:
        """Stores the uris of an image's duplicates with it, as many as fit."""
        sizes = itertools.accumulate(len(json.dumps(uri)) for uri in uris)
        kept = [uri for uri, size in zip(uris, sizes, strict=True) if size <= MAX_OTHER_URIS]
        attributes = {OTHER_URIS: kept} if kept else {}
        removed = [] if kept else [OTHER_URIS]
        # Whoever has removed the image meanwhile needs no uris of it; and one that is full of attributes has no room.
        with suppress(NotFoundError, InvalidArgumentError):
            await self._insist(
                lambda: self._client.update(self._collection.name, image_id, attributes=attributes, remove=removed)
            )

    async def _with_ids(self, ids: Sequence[str], call: Callable[[Sequence[str]], object]) -> None:
        """Call with ids, without those that the search service refuses: no image has them.

        The ledger has such ids of files that could not be read, whose ids nobody has checked.
        """
        try:
            await self._insist(lambda: call(ids))
        except InvalidArgumentError as error:
            if error.reason != "ID_INVALID":
                raise
            if len(ids) > 1:
                for half in (ids[: len(ids) // 2], ids[len(ids) // 2 :]):
                    await self._with_ids(half, call)

    async def _insist(self, call: Callable[[], object]) -> None:
        """Makes a call that concerns no single item of the load, until it goes well."""
        tries = RequestRetries(self._patience)
        while True:
            try:
                await self._in_thread(call)
            except (NotFoundError, InvalidArgumentError):
                raise
            except ServiceError as error:
                await or_stop(tries, error)
            else:
                self._patience.heard()
                return

    async def _in_thread(self, call: Callable[[], object]) -> object:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def hurry(self) -> None:
        """There is nothing more to come."""
        self._writers.hurry()

    def give_up(self) -> None:
        """Cancels images that wait to be embedded, and ready vectors that wait to be sent."""
        if self._embedders is not None:
            self._embedders.give_up()
        else:
            self._writers.give_up()

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
            raise InvalidArgumentError("VALUE_INVALID", f"it has a value that cannot be sent: {error}") from None


def _vector_message(vector: Embedding) -> embedding_pb2.Embedding:
    try:
        return embedding_to(vector)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidArgumentError("VALUE_INVALID", f"its vector cannot be sent: {error}") from None


async def or_stop(tries: RequestRetries, error: ServiceError) -> None:
    """Waits to try again what concerns no single item; raises LoadStoppedError where that is no use."""
    try:
        await tries.wait(error)
    except ServiceError as lasting:
        raise LoadStoppedError(lasting.reason, lasting.message) from None
