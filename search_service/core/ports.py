"""What the core needs and does not do itself."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from grpc_kit.deadline import Deadline
from search_service.core.filters import Filter
from search_service.core.types import (
    Alias,
    Collection,
    Consistency,
    EmbedderModel,
    Embedding,
    EncodedImage,
    Hit,
    Index,
    SearchParameters,
    StoredImage,
    Vector,
    View,
)


@dataclass(frozen=True)
class After:
    """The hit that a page ended with."""

    score: float
    distance: float
    id: str
    seen: int
    """Hits up to and with this one."""


@dataclass(frozen=True)
class Nearest:
    """What is asked of a store about the neighbours of a vector."""

    limit: int
    view: View
    consistency: Consistency
    condition: Filter | None = None
    """Only images that fit; None is all."""
    parameters: SearchParameters = field(default_factory=SearchParameters)
    after: After | None = None
    """Only what follows this hit, by score and then by id."""


class VectorStore(Protocol):
    """Keeps collections of vectors.

    Every method raises NotFoundError for an unknown collection, UnavailableError where the store cannot answer, and
    DeadlineExceededError. Input has been checked before: names, ids, dimensions.
    """

    async def create_collection(self, collection: Collection, deadline: Deadline) -> None:
        """Makes an empty collection. Raises AlreadyExistsError."""
        ...

    async def get_collection(self, name: str, deadline: Deadline) -> Collection:
        """Describes the collection of a name or an alias."""
        ...

    async def list_collections(self, after: str, limit: int, deadline: Deadline) -> list[Collection]:
        """The first `limit` collections by name of those after the name `after`."""
        ...

    async def delete_collection(self, name: str, deadline: Deadline) -> None:
        """Removes a collection with its images."""
        ...

    async def set_alias(self, alias: Alias, deadline: Deadline) -> None:
        """Makes an alias, or moves it in one step. Its name is no collection's."""
        ...

    async def list_aliases(self, deadline: Deadline) -> list[Alias]:
        """Every alias, by name."""
        ...

    async def delete_alias(self, name: str, deadline: Deadline) -> None:
        """Removes an alias that exists."""
        ...

    async def upsert(self, collection: str, images: Sequence[StoredImage], deadline: Deadline) -> None:
        """Stores images whole, each with its vector; an id that exists is replaced. Their ids differ.

        When this returns, the images survive a crash of any process.
        """
        ...

    async def get(
        self, collection: str, ids: Sequence[str], view: View, consistency: Consistency, deadline: Deadline
    ) -> list[StoredImage]:
        """The images that exist of these ids, in any order."""
        ...

    async def delete(self, collection: str, ids: Sequence[str], deadline: Deadline) -> None:
        """Removes the images that exist of these ids."""
        ...

    async def query(
        self,
        collection: str,
        condition: Filter | None,
        limit: int,
        view: View,
        consistency: Consistency,
        deadline: Deadline,
    ) -> list[StoredImage]:
        """The images that fit, those of the lowest ids and at most `limit` (10,000), in the order of their ids."""
        ...

    async def count(
        self, collection: str, condition: Filter | None, consistency: Consistency, deadline: Deadline
    ) -> int:
        """The number of images that fit."""
        ...

    async def search(
        self, collection: Collection, vectors: Sequence[Vector], nearest: Nearest, deadline: Deadline
    ) -> list[list[Hit]]:
        """The images nearest to each of some float32[D] by the collection's metric.

        The best first, of equal scores the lower id first; which of equals comes last is open.
        """
        ...

    def index_of(self, collection: Collection, parameters: SearchParameters) -> Index:
        """What answers a search of a collection."""
        ...

    async def check(self, deadline: Deadline) -> None:
        """Returns where the store answers. Raises UnavailableError."""
        ...


class BulkEmbedder(Protocol):
    """Embeds many images, with throughput before latency."""

    async def embed(self, image: EncodedImage, model: str) -> Embedding:
        """Embeds one image with a model. Raises what the embedder answers, or UnavailableError."""
        ...


class Embedder(Protocol):
    """Turns images into vectors."""

    async def embed(self, image: EncodedImage, model: str, deadline: Deadline) -> Embedding:
        """Embeds one image that somebody waits for. Raises what the embedder answers, or UnavailableError."""
        ...

    def bulk(self, deadline: Deadline) -> AbstractAsyncContextManager[BulkEmbedder]:
        """A lane for a load of images, until the deadline."""
        ...

    async def model(self, name: str, deadline: Deadline) -> EmbedderModel:
        """Describes a model; an empty name is the embedder's default. Raises NotFoundError, UnavailableError."""
        ...
