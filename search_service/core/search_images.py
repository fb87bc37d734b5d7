"""Searches: a query becomes a vector, and the vector's neighbours become hits."""

from dataclasses import dataclass

from grpc_kit.deadline import Deadline
from grpc_kit.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from search_service.core import checks
from search_service.core.filters import Filter, check_filter
from search_service.core.ports import Embedder, VectorStore
from search_service.core.read_images import image_not_found
from search_service.core.types import Collection, Consistency, Embedding, EncodedImage, Hit, Vector, View


@dataclass(frozen=True)
class StoredImageQuery:
    """A query by an image of the collection."""

    image_id: str


@dataclass(frozen=True)
class Search:
    """What a caller looks for."""

    collection: str
    query: EncodedImage | StoredImageQuery | Embedding
    limit: int = 10
    min_score: float | None = None
    condition: Filter | None = None
    """Only images that fit; None is all."""
    include_query: bool = False
    view: View = View.BASIC
    consistency: Consistency | None = None
    """None is the collection's own."""


@dataclass(frozen=True)
class Found:
    """The answer to a search."""

    hits: list[Hit]
    """The best first, of equal scores the lower id first."""
    fingerprint: str
    """Of the collection's vectors."""


class SearchImages:
    """Answers searches."""

    def __init__(self, store: VectorStore, embedder: Embedder) -> None:
        """Only queries by image need the embedder; the others work without it."""
        self._store = store
        self._embedder = embedder

    async def search(self, search: Search, deadline: Deadline) -> Found:
        """Finds the images most like the query.

        Raises InvalidArgumentError, NotFoundError, FailedPreconditionError, UnavailableError, DeadlineExceededError,
        and what the embedder says of a query image.
        """
        checks.check_collection_name(search.collection, "collection")
        checks.check_limit(search.limit)
        checks.check_min_score(search.min_score)
        if search.condition is not None:
            check_filter(search.condition)
        collection = await self._store.get_collection(search.collection, deadline)
        consistency = search.consistency or collection.consistency
        vector = await self._vector(search, collection, consistency, deadline)
        left_out = None
        if isinstance(search.query, StoredImageQuery) and not search.include_query:
            left_out = search.query.image_id
        # One more than asked for, because the query itself is most likely among them.
        limit = search.limit + (left_out is not None)
        hits = await self._store.search(collection, vector, search.condition, limit, search.view, consistency, deadline)
        kept = [
            hit
            for hit in hits
            if hit.image.id != left_out and (search.min_score is None or hit.score >= search.min_score)
        ]
        best_first = sorted(kept, key=lambda hit: (-hit.score, hit.image.id))
        return Found(best_first[: search.limit], collection.fingerprint)

    async def _vector(
        self, search: Search, collection: Collection, consistency: Consistency, deadline: Deadline
    ) -> Vector:
        query = search.query
        if isinstance(query, Embedding):
            checks.check_embedding(query, collection, "query.embedding")
            return query.values
        if isinstance(query, EncodedImage):
            embedding = await embed_query(self._embedder, query, collection, deadline)
            return embedding.values
        checks.check_id(query.image_id, "query.image_id")
        found = await self._store.get(collection.name, [query.image_id], View.FULL, consistency, deadline)
        if not found or found[0].vector is None:
            raise image_not_found(collection.name, query.image_id, "query.image_id")
        return found[0].vector


async def embed_query(embedder: Embedder, image: EncodedImage, collection: Collection, deadline: Deadline) -> Embedding:
    """Embeds a query image with the collection's model, and makes sure that it is still the same model."""
    require_model(collection, "query.image")
    try:
        embedding = await embedder.embed(image, collection.model, deadline)
    except NotFoundError as error:
        raise model_gone(collection, error, "query.image") from None
    except InvalidArgumentError as error:
        raise error.within("query") from None
    checks.check_embedding(embedding, collection, "query.image")
    return embedding


def require_model(collection: Collection, field: str) -> None:
    """Raises where no model can make vectors for the collection."""
    if not collection.model:
        raise FailedPreconditionError(
            "COLLECTION_WITHOUT_MODEL",
            f"collection {collection.name} holds vectors that are made elsewhere ({collection.fingerprint!r}); "
            f"it takes vectors and ids, no images: {field}",
            field=field,
            metadata={"collection_fingerprint": collection.fingerprint},
        )


def model_gone(collection: Collection, error: NotFoundError, field: str) -> FailedPreconditionError:
    """The embedder no longer serves the collection's model."""
    return FailedPreconditionError(
        "EMBEDDING_MISMATCH",
        f"collection {collection.name} was made with model {collection.model}: {error.message}",
        field=field,
        metadata={"collection_fingerprint": collection.fingerprint, "model": collection.model},
    )
