"""The interfaces to the stores and the embedder."""

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
    EmbeddedRegions,
    EmbedderModel,
    Embedding,
    EncodedImage,
    Hit,
    Index,
    Match,
    RegionHit,
    Reindex,
    SearchParameters,
    StoredImage,
    StoredRegion,
    Vector,
    View,
)


@dataclass(frozen=True)
class After:
    """The last hit of a page."""

    score: float
    distance: float
    id: str
    seen: int
    """Number of hits up to and including this one, over all pages."""


@dataclass
class RegionTally:
    """Counts what a search of regions reads."""

    regions: int = 0
    searches: int = 0


@dataclass(frozen=True)
class Nearest:
    """What a search in a store returns about the neighbors of a vector."""

    limit: int
    view: View
    consistency: Consistency
    condition: Filter | None = None
    """Only images that meet the condition; None for all images."""
    parameters: SearchParameters = field(default_factory=SearchParameters)
    after: After | None = None
    """Only hits after this one, in the order of hits."""
    among: tuple[str, ...] | None = None
    """Only images with these ids, which are all compared; None for all images."""
    match: Match = Match.IMAGES
    """What is compared: whole images, or regions."""
    tally: RegionTally | None = field(default=None, compare=False)
    """Counts the regions that are read; None counts nothing."""


class VectorStore(Protocol):
    """Keep collections of images with their vectors.

    Callers have checked names, ids and dimensions. Every method raises NotFoundError for an unknown collection,
    UnavailableError if the store cannot answer, and DeadlineExceededError.
    """

    async def create_collection(self, collection: Collection, deadline: Deadline) -> None:
        """Create an empty collection. Raises AlreadyExistsError."""
        ...

    async def get_collection(self, name: str, deadline: Deadline) -> Collection:
        """Return the collection with a name or an alias."""
        ...

    async def list_collections(self, after: str, limit: int, deadline: Deadline) -> list[Collection]:
        """Return the first `limit` collections, sorted by name, with names greater than `after`."""
        ...

    async def delete_collection(self, collection: Collection, deadline: Deadline) -> None:
        """Delete a collection and its images."""
        ...

    async def set_reindex(self, collection: Collection, reindex: Reindex | None, deadline: Deadline) -> None:
        """Record in the description of a collection that a copy of it is being built; None if no copy is.

        When this returns, every call of `get_collection` in any process returns the new description.
        """
        ...

    async def set_alias(self, alias: Alias, deadline: Deadline) -> None:
        """Create an alias, or move it in one step. No collection has its name."""
        ...

    async def list_aliases(self, deadline: Deadline) -> list[Alias]:
        """Return all aliases, sorted by name."""
        ...

    async def delete_alias(self, name: str, deadline: Deadline) -> None:
        """Delete an alias that exists."""
        ...

    async def upsert(self, collection: Collection, images: Sequence[StoredImage], deadline: Deadline) -> None:
        """Store images with their vectors; replace images with the same ids. The ids of the batch differ.

        When this returns, the images survive a crash of any process.
        """
        ...

    async def get(
        self, collection: Collection, ids: Sequence[str], view: View, consistency: Consistency, deadline: Deadline
    ) -> list[StoredImage]:
        """Return the images with these ids that exist, in any order."""
        ...

    async def delete(self, collection: Collection, ids: Sequence[str], deadline: Deadline) -> None:
        """Delete the images with these ids that exist."""
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
        """Return the first `limit` (at most 10,000) images that meet a condition, sorted by id."""
        ...

    async def count(
        self, collection: Collection, condition: Filter | None, consistency: Consistency, deadline: Deadline
    ) -> int:
        """Return the number of images that meet a condition."""
        ...

    async def search(
        self, collection: Collection, vectors: Sequence[Vector], nearest: Nearest, deadline: Deadline
    ) -> list[list[Hit]]:
        """Return the hits of each vector, float32[D], by the metric of the collection.

        Hits are sorted by score, best first; equal scores by distance, and then by id. If more hits than fit have the
        score of the last one, any of them may be returned.
        """
        ...

    def index_of(self, collection: Collection, parameters: SearchParameters) -> Index:
        """Return the index that a search of a collection uses."""
        ...

    async def check(self, deadline: Deadline) -> None:
        """Return if the store answers. Raises UnavailableError."""
        ...


class CodeStore(Protocol):
    """Keep the binary codes of images, and the transforms that compute them.

    A set of codes belongs to one collection. Every method raises NotFoundError if the collection or the set does not
    exist, UnavailableError and DeadlineExceededError.
    """

    @property
    def supported(self) -> bool:
        """Return whether the store can keep codes. If not, callers use no other method."""
        ...

    async def announce(self, collection: Collection, sets: Sequence[CodeSet], deadline: Deadline) -> None:
        """Record the sets of a collection in its description. From then on, all writers update these sets."""
        ...

    async def create(
        self, collection: Collection, codes: CodeSet, transform: CodeTransform, deadline: Deadline
    ) -> None:
        """Create an empty set with its transform; replace leftovers of a crash."""
        ...

    async def read_transform(self, collection: Collection, codes: CodeSet, deadline: Deadline) -> CodeTransform:
        """Return the transform of a set."""
        ...

    async def drop(self, collection: Collection, codes: CodeSet, deadline: Deadline) -> None:
        """Delete a set if it exists."""
        ...

    async def delete_all_but(self, collection: Collection, kept: Sequence[CodeSet], deadline: Deadline) -> None:
        """Delete all other sets, including leftovers of a crash that the description does not name."""
        ...

    async def upsert(
        self, collection: Collection, codes: CodeSet, images: Sequence[StoredImage], values: Codes, deadline: Deadline
    ) -> None:
        """Store the codes of images with their attributes and times; replace codes with the same ids."""
        ...

    async def delete(self, collection: Collection, codes: CodeSet, ids: Sequence[str], deadline: Deadline) -> None:
        """Delete the codes with these ids that exist."""
        ...

    async def times(
        self, collection: Collection, codes: CodeSet, after: str, limit: int, deadline: Deadline
    ) -> dict[str, datetime]:
        """Return the first ids greater than `after` that have a code, with the update_time of the encoded image.

        The result has at most `limit` ids. It may have fewer; it is empty only if no id follows.
        """
        ...

    async def count(self, collection: Collection, codes: CodeSet, deadline: Deadline) -> int:
        """Return the number of codes."""
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
        """Return the ids of images that meet a condition, with the codes nearest to uint8[bits / 8] (Hamming)."""
        ...


class RegionStore(Protocol):
    """Keep the regions of images. Only collections with `max_regions` above 0 have regions.

    Every write of an image has a generation, a number that no other write has. Every method raises NotFoundError if the
    collection does not exist, UnavailableError and DeadlineExceededError.
    """

    async def create(self, collection: Collection, deadline: Deadline) -> None:
        """Create the place for the regions of a new collection. No other collection has its name and creation time."""
        ...

    async def drop(self, collection: Collection, deadline: Deadline) -> None:
        """Delete all regions of a collection, if they exist."""
        ...

    async def upsert(self, collection: Collection, images: Sequence[StoredImage], deadline: Deadline) -> None:
        """Store the regions of images with their attributes and times, under the generations of the images."""
        ...

    async def get(
        self, collection: Collection, generations: Sequence[int], consistency: Consistency, deadline: Deadline
    ) -> dict[int, tuple[StoredRegion, ...]]:
        """Return the regions of these generations, in the order of the write; without generations that have none."""
        ...

    async def delete(self, collection: Collection, generations: Sequence[int], deadline: Deadline) -> None:
        """Delete the regions of these generations that exist."""
        ...

    async def generations(
        self, collection: Collection, after: int, before: int, limit: int, deadline: Deadline
    ) -> list[tuple[str, int]]:
        """Return image ids with the generations that lie between `after` and `before`, sorted by generation.

        Reads the first `limit` regions, so the result may have fewer generations. It is empty only if none follows.
        """
        ...

    async def search(
        self, collection: Collection, vectors: Sequence[Vector], nearest: Nearest, deadline: Deadline
    ) -> list[list[RegionHit]]:
        """Return the nearest `nearest.limit` regions of each vector, of any generation, best first.

        `nearest.limit` is at most 16,384. `nearest.among` limits the search to the regions of these images, which are
        all compared. `nearest.after`, `nearest.view` and `nearest.parameters.exact` are ignored.
        """
        ...

    async def count(self, collection: Collection, nearest: Nearest, deadline: Deadline) -> int:
        """Return the number of regions, of any generation, that `nearest.condition` allows."""
        ...

    async def best_of_all(
        self, collection: Collection, vector: Vector, nearest: Nearest, deadline: Deadline
    ) -> list[RegionHit]:
        """Return the best region of every generation, best first: compares every region.

        Raises ResourceExhaustedError if the vectors are too many.
        """
        ...

    async def leftovers(self, deadline: Deadline) -> list[Collection]:
        """Return what is left of collections that no longer exist, with their names and creation times."""
        ...


class BulkEmbedder(Protocol):
    """Embed many images in the bulk lane, which favors throughput over latency."""

    async def embed(self, image: EncodedImage, model: str) -> Embedding:
        """Embed an image with a model. Raises the embedder's errors, and UnavailableError."""
        ...

    async def embed_regions(self, image: EncodedImage, model: str, max_regions: int) -> EmbeddedRegions:
        """Embed an image and at most `max_regions` regions. Raises the embedder's errors, and UnavailableError."""
        ...


class Embedder(Protocol):
    """Turn images into vectors."""

    async def embed(self, image: EncodedImage, model: str, deadline: Deadline) -> Embedding:
        """Embed an image in the interactive lane. Raises the embedder's errors, and UnavailableError."""
        ...

    async def embed_regions(
        self, image: EncodedImage, model: str, max_regions: int, deadline: Deadline
    ) -> EmbeddedRegions:
        """Embed an image and at most `max_regions` regions, in the interactive lane. Raises as `embed` does."""
        ...

    def bulk(self, deadline: Deadline) -> AbstractAsyncContextManager[BulkEmbedder]:
        """Open the bulk lane, until the deadline."""
        ...

    async def model(self, name: str, deadline: Deadline) -> EmbedderModel:
        """Describe a model; an empty name is the embedder's default. Raises NotFoundError, UnavailableError."""
        ...
