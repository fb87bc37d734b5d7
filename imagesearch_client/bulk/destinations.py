"""Where the images of a load go: into a collection, or nowhere."""

import asyncio
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from types import TracebackType
from typing import Protocol, Self

from imagesearch.search.v1 import image_pb2
from imagesearch.types.v1 import embedding_pb2
from PIL import Image as PillowImage
from PIL import ImageFile as PillowImageFile
from PIL import UnidentifiedImageError

from grpc_kit.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ServiceError,
    UnavailableError,
    UnimplementedError,
)
from imagesearch_client.bulk.gathering import Bounds, Entry, Gathering
from imagesearch_client.bulk.patience import LoadStoppedError, Patience, Tries
from imagesearch_client.bulk.services import Embedders, Endpoint, Writers, image_bounds, vector_bounds
from imagesearch_client.client import MAX_MESSAGE_BYTES, Client
from imagesearch_client.converters import attributes_to, embedding_to, region_to
from imagesearch_client.extras import how_to_install
from imagesearch_client.pillow import prepare
from imagesearch_client.types import AttributeValue, Collection, Embedding, Image, Region

# Of images whose embedder is not asked: what the services take where they are not told otherwise.
MAX_IMAGE_BYTES = 20 * 1024 * 1024
MAX_IMAGE_PIXELS = 50_000_000
# Stored images that are read in one call, and how long that waits for others, in seconds.
READ_TOGETHER = 200
READ_LINGER = 0.05
# The attribute that has the uris of an image's duplicates, and how many bytes of them as JSON: all attributes of an
# image together may have 32 KiB.
OTHER_URIS = "other_uris"
MAX_OTHER_URIS = 16_384


@dataclass(frozen=True, slots=True)
class Described:
    """What is stored beside an image's vector."""

    id: str
    uri: str
    attributes: Mapping[str, AttributeValue]
    sha256: str
    region: Region | None = None


class Destination(Protocol):
    """Takes images. Every method raises ServiceError, and LoadStoppedError where the load cannot go on."""

    max_image_bytes: int
    keeps: bool
    """Whether anything that is given to it stays, and is to be recorded."""

    async def store(self, image: Described, content: bytes) -> None:
        """Embeds and stores an image; it is stored when this returns."""

    async def store_vector(self, image: Described, vector: Embedding) -> None:
        """Stores an image whose vector there is; it is stored when this returns."""

    async def stored(self, image_id: str) -> Image | None:
        """An image as it is stored, with its vector; None where there is none."""

    async def delete(self, ids: Sequence[str]) -> None:
        """Removes images."""

    async def tell_other_uris(self, image_id: str, uris: Sequence[str]) -> None:
        """Stores the uris of an image's duplicates with it."""

    def hurry(self) -> None:
        """There is nothing more to come."""


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
        embedding = image_bounds(self.streams)
        writing = vector_bounds(ready=self.ready)
        if self.ready:
            return 2 * writing.calls * writing.entries
        return (3 if self.embedder else 2) * embedding.calls * embedding.entries


class IntoCollection:
    """A collection of a search service; begins with `async with`."""

    keeps = True

    def __init__(
        self, client: Client, collection: Collection, route: Route, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        """Writes to `collection`, by the calls of `route`; `tell` is told of services that are waited for.

        Raises CredentialsError.
        """
        self.max_image_bytes = MAX_IMAGE_BYTES
        self._client = client
        self._collection = collection
        self._patience = Patience("the search service", route.patience, self._is_there, tell)
        self._exit = AsyncExitStack()
        self._embedders: Embedders | None = None
        if route.embedder is not None and not route.ready:
            self._embedders = Embedders(route.embedder, collection.model, route.streams, route.patience, tell)
        by_vector = route.ready or self._embedders is not None
        bounds = vector_bounds(ready=route.ready) if by_vector else image_bounds(route.streams)
        self._writers = Writers(route.search, bounds, self._patience)
        self._reading = Gathering[str, Image | None](
            self._read, Bounds(1, READ_TOGETHER, MAX_MESSAGE_BYTES, READ_LINGER)
        )

    async def __aenter__(self) -> Self:
        """Begins. Raises ServiceError where the embedder is not the collection's, or is away."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._writers)
            await stack.enter_async_context(self._reading)
            if self._embedders is not None:
                await stack.enter_async_context(self._embedders)
                await self._check_model(self._embedders)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends what is under way."""
        await self._exit.aclose()

    async def _check_model(self, embedders: Embedders) -> None:
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
        with suppress(ServiceError):
            return bool(await asyncio.to_thread(self._client.get_collection, self._collection.name))
        return False

    async def store(self, image: Described, content: bytes) -> None:
        """Embeds and stores an image."""
        request = self._request(image)
        if self._embedders is None:
            request.image.content = content
        else:
            request.embedding.CopyFrom(await self._embedders.embed(content))
            request.content_sha256 = image.sha256
        await self._writers.write(request)

    async def store_vector(self, image: Described, vector: Embedding) -> None:
        """Stores an image whose vector there is."""
        request = self._request(image)
        request.embedding.CopyFrom(_vector_message(vector))
        request.content_sha256 = image.sha256
        if image.region is not None:
            request.region.CopyFrom(region_to(image.region))
        await self._writers.write(request)

    async def stored(self, image_id: str) -> Image | None:
        """An image as it is stored, with its vector."""
        tries = Tries(self._patience)
        while True:
            try:
                found = await self._reading.ask(image_id)
            except ServiceError as error:
                await tries.wait(error)
            else:
                self._patience.heard()
                return found

    async def delete(self, ids: Sequence[str]) -> None:
        """Removes images."""
        await self._insist(lambda: self._client.delete(self._collection.name, ids))

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

    async def _insist(self, call: Callable[[], object]) -> None:
        """Makes a call that concerns no single item of the load, until it goes well."""
        tries = Tries(self._patience)
        while True:
            try:
                await asyncio.to_thread(call)
            except (NotFoundError, InvalidArgumentError):
                raise
            except ServiceError as error:
                await or_stop(tries, error)
            else:
                self._patience.heard()
                return

    def hurry(self) -> None:
        """There is nothing more to come."""
        self._writers.hurry()
        self._reading.hurry()

    def _request(self, image: Described) -> image_pb2.WriteImagesRequest:
        try:
            return image_pb2.WriteImagesRequest(
                collection=self._collection.name,
                id=image.id,
                uri=image.uri,
                attributes=attributes_to(image.attributes),
            )
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidArgumentError("VALUE_INVALID", f"it has a value that cannot be sent: {error}") from None

    async def _read(self, batch: Sequence[Entry[str, Image | None]]) -> None:
        try:
            found = await self._get({entry.asked for entry in batch})
        except InvalidArgumentError:
            if len(batch) == 1:
                raise
            # One of them is no id; the others are.
            for entry in batch:
                try:
                    entry.give((await self._get({entry.asked})).get(entry.asked))
                except ServiceError as error:
                    entry.fail(error)
        else:
            for entry in batch:
                entry.give(found.get(entry.asked))

    async def _get(self, ids: Iterable[str]) -> dict[str, Image]:
        return await asyncio.to_thread(
            self._client.get_many, self._collection.name, list(ids), with_vector=True, strong=True
        )


class DryRun:
    """Decodes images, and stores nothing."""

    keeps = False
    max_image_bytes = MAX_IMAGE_BYTES

    async def store(self, image: Described, content: bytes) -> None:  # noqa: ARG002 - see Destination
        """Decodes an image."""
        await asyncio.to_thread(decode, content)

    async def store_vector(self, image: Described, vector: Embedding) -> None:
        """Does nothing: there is nothing to decode."""

    async def stored(self, image_id: str) -> Image | None:  # noqa: ARG002 - see Destination
        """Knows of no image."""
        return None

    async def delete(self, ids: Sequence[str]) -> None:
        """Removes nothing."""

    async def tell_other_uris(self, image_id: str, uris: Sequence[str]) -> None:
        """Stores nothing."""

    def hurry(self) -> None:
        """Never waits for more."""


def decode(content: bytes) -> None:
    """Decode an image's first frame as the embedder does. Raises InvalidArgumentError and LoadStoppedError."""
    has_heic = prepare()
    if content[4:8] == b"ftyp" and content[8:11] == b"hei" and not has_heic:
        raise InvalidArgumentError(
            "IMAGE_FORMAT_UNSUPPORTED", f"it is a HEIC file: {how_to_install('pillow-heif', 'client,heic')}"
        )
    with _blaming_the_file():
        opened = PillowImage.open(BytesIO(content))
    with opened as image:
        if image.width * image.height > MAX_IMAGE_PIXELS:
            raise InvalidArgumentError(
                "IMAGE_DIMENSIONS_TOO_LARGE",
                f"it has {image.width} x {image.height} pixels; at most {MAX_IMAGE_PIXELS} are taken by default",
            )
        with _blaming_the_file():
            image.load()


@contextmanager
def _blaming_the_file() -> Iterator[None]:
    """Turn errors of Pillow into InvalidArgumentError, except a lack of memory."""
    try:
        yield
    except UnidentifiedImageError:
        raise InvalidArgumentError("IMAGE_FORMAT_UNSUPPORTED", "it is no image of a known format") from None
    except Exception as error:  # noqa: BLE001 - decoders raise anything on damaged files
        if isinstance(error, MemoryError) or PillowImageFile.ERRORS[-9] in str(error):
            raise LoadStoppedError("OUT_OF_MEMORY", "this process has no memory left to decode an image") from None
        raise InvalidArgumentError("IMAGE_CORRUPT", f"it cannot be decoded: {error}") from None


def _vector_message(vector: Embedding) -> embedding_pb2.Embedding:
    try:
        return embedding_to(vector)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidArgumentError("VALUE_INVALID", f"its vector cannot be sent: {error}") from None


async def or_stop(tries: Tries, error: ServiceError) -> None:
    """Waits to try again what concerns no single item; raises LoadStoppedError where that is no use."""
    try:
        await tries.wait(error)
    except ServiceError as lasting:
        raise LoadStoppedError(lasting.reason, lasting.message) from None
