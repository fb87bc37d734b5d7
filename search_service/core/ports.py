"""What the core needs and does not do itself."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from grpc_kit.deadline import Deadline
from search_service.core.codes import Codes, CodeTransform
from search_service.core.filters import Filter
from search_service.core.types import (
    Alias,
    CodeSet,
    Collection,
    Consistency,
    EmbedderModel,
    Embedding,
    EncodedImage,
    Hit,
    Index,
    Reindex,
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
    among: tuple[str, ...] | None = None
    """Only images of these ids, and then every one is compared; None is all."""


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

    async def delete_collection(self, collection: Collection, deadline: Deadline) -> None:
        """Removes a collection with its images."""
        ...

    async def set_reindex(self, collection: Collection, reindex: Reindex | None, deadline: Deadline) -> None:
        """Write into a collection's description that a copy of it is being built, or that none is.

        Every caller of `get_collection`, in any process, sees it from the moment this returns.
        """
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

    async def upsert(self, collection: Collection, images: Sequence[StoredImage], deadline: Deadline) -> None:
        """Stores images whole, each with its vector; an id that exists is replaced. Their ids differ.

        When this returns, the images survive a crash of any process.
        """
        ...

    async def get(
        self, collection: Collection, ids: Sequence[str], view: View, consistency: Consistency, deadline: Deadline
    ) -> list[StoredImage]:
        """The images that exist of these ids, in any order."""
        ...

    async def delete(self, collection: Collection, ids: Sequence[str], deadline: Deadline) -> None:
        """Removes the images that exist of these ids."""
        ...

    async def query(
        self,
        collection: Collection,
        condition: Filter | None,
        limit: int,
        view: View,
        consistency: Consistency,
        deadline: Deadline,
    ) -> list[StoredImage]:
        """The images that fit, those of the lowest ids and at most `limit` (10,000), in the order of their ids."""
        ...

    async def count(
        self, collection: Collection, condition: Filter | None, consistency: Consistency, deadline: Deadline
    ) -> int:
        """The number of images that fit."""
        ...

    async def search(
        self, collection: Collection, vectors: Sequence[Vector], nearest: Nearest, deadline: Deadline
    ) -> list[list[Hit]]:
        """The images nearest to each of some float32[D] by the collection's metric.

        The best first, of equal scores the shorter distance first, then the lower id; which of equals comes last is
        open.
        """
        ...

    def index_of(self, collection: Collection, parameters: SearchParameters) -> Index:
        """What answers a search of a collection."""
        ...

    async def check(self, deadline: Deadline) -> None:
        """Returns where the store answers. Raises UnavailableError."""
        ...


class CodeStore(Protocol):
    """Keeps binary codes beside the images of collections, and the transforms that make them.

    A set of codes belongs to a collection by its own name, never an alias. Methods raise NotFoundError where the
    collection or the set is gone, UnavailableError and DeadlineExceededError.
    """

    @property
    def supported(self) -> bool:
        """Whether codes can be kept; where not, only this is asked."""
        ...

    async def announce(self, collection: Collection, sets: Sequence[CodeSet], deadline: Deadline) -> None:
        """Says in the collection's description which sets it has, from when on everybody keeps these in step."""
        ...

    async def create(
        self, collection: Collection, codes: CodeSet, transform: CodeTransform, deadline: Deadline
    ) -> None:
        """Makes an empty set with its transform, in the place of what a crash may have left of it."""
        ...

    async def transform(self, collection: Collection, codes: CodeSet, deadline: Deadline) -> CodeTransform:
        """The transform of a set."""
        ...

    async def drop(self, collection: Collection, codes: CodeSet, deadline: Deadline) -> None:
        """Removes a set, if it is there."""
        ...

    async def delete_all_but(self, collection: Collection, kept: Sequence[CodeSet], deadline: Deadline) -> None:
        """Removes every set but these, also those that a crash left and nobody knows."""
        ...

    async def upsert(
        self, collection: Collection, codes: CodeSet, images: Sequence[StoredImage], values: Codes, deadline: Deadline
    ) -> None:
        """Stores the codes of images, with what a filter asks for; what an id had is replaced. The ids differ."""
        ...

    async def delete(self, collection: Collection, codes: CodeSet, ids: Sequence[str], deadline: Deadline) -> None:
        """Removes the codes that exist of these ids."""
        ...

    async def get(
        self, collection: Collection, codes: CodeSet, ids: Sequence[str], deadline: Deadline
    ) -> dict[str, datetime]:
        """The ids of these that have a code, each with its image's update_time when it was encoded."""
        ...

    async def query(
        self, collection: Collection, codes: CodeSet, after: str, limit: int, deadline: Deadline
    ) -> dict[str, datetime]:
        """As `get`, of the first ids after one, at most `limit` and none only at the end."""
        ...

    async def count(self, collection: Collection, codes: CodeSet, deadline: Deadline) -> int:
        """The number of codes."""
        ...

    async def search(
        self,
        collection: Collection,
        codes: CodeSet,
        value: Codes,
        limit: int,
        condition: Filter | None,
        consistency: Consistency,
        deadline: Deadline,
    ) -> list[str]:
        """The ids of the codes nearest to uint8[bits / 8] by Hamming distance, of those that fit."""
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
