"""Searches: a query becomes a vector, and the vector's neighbours become hits."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
import structlog

from grpc_kit.deadline import Deadline
from grpc_kit.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from grpc_kit.server import stages
from search_service.core import checks
from search_service.core.coarse_search import FIELD as COARSE
from search_service.core.coarse_search import MAX_CANDIDATES, CoarseExplanation, CoarseLook, CoarseSearch
from search_service.core.codes import codes_unsupported
from search_service.core.examples import MAX_EXAMPLES, vector_of_examples
from search_service.core.filters import And, Exists, Filter, FilterValue, In, Not, both, check_filter
from search_service.core.known_collections import KnownCollections
from search_service.core.ports import After, Embedder, Nearest, VectorStore
from search_service.core.read_images import image_not_found
from search_service.core.types import (
    Collection,
    Consistency,
    Embedding,
    EncodedImage,
    Hit,
    Index,
    IndexType,
    SearchParameters,
    StoredImage,
    Vector,
    View,
)

log = structlog.stdlib.get_logger()

MAX_GROUP_SIZE = 100
# Hits that are looked at for groups at a time; Milvus gives no more.
MAX_LOOK = 10_000
# Looks for the groups of one search, and how much wider each is than the one before.
MAX_LOOKS, LOOK_GROWTH = 8, 4
# The search parameters, and the indexes that each one is for.
PARAMETERS = {
    "ef": (IndexType.HNSW, IndexType.AUTOINDEX),
    "nprobe": (IndexType.IVF_FLAT, IndexType.IVF_SQ8),
    "search_list": (IndexType.DISKANN,),
}


@dataclass(frozen=True)
class StoredImageQuery:
    """A query by an image of the collection."""

    image_id: str


Example = EncodedImage | StoredImageQuery | Embedding


@dataclass(frozen=True)
class Examples:
    """A query by images to be like and images to be unlike."""

    positive: Sequence[Example]
    negative: Sequence[Example] = ()


@dataclass(frozen=True)
class GroupBy:
    """At most `size` hits of one value of an attribute."""

    attribute: str
    size: int = 1


@dataclass(frozen=True)
class PageEnd:
    """Where a page of hits ended, the vector that they are near to, and the collection that they are of.

    The pages that follow are of the same collection, also when the alias that was asked for has been moved.
    """

    after: After
    vector: Vector
    collection: str
    create_time: datetime
    """Of the collection: another one may have got its name since."""


@dataclass(frozen=True)
class Search:
    """What a caller looks for."""

    collection: str
    query: Example | Examples
    limit: int = 10
    min_score: float | None = None
    condition: Filter | None = None
    """Only images that fit; None is all."""
    group_by: GroupBy | None = None
    include_query: bool = False
    view: View = View.BASIC
    parameters: SearchParameters = field(default_factory=SearchParameters)
    coarse: int | None = None
    """Candidates that the codes give, to be compared by their vectors; None is a search by vectors alone."""
    consistency: Consistency | None = None
    """None is the collection's own."""
    page: PageEnd | None = None
    """Where the page before ended; the vector in it stands for the query."""
    paged: bool = False
    """Whether the caller asks for more pages."""


@dataclass(frozen=True)
class Explanation:
    """Where the time of a search went, in seconds."""

    index: Index
    embed_seconds: float
    store_seconds: float
    total_seconds: float
    coarse: CoarseExplanation | None = None
    """Of a search from coarse to fine."""


@dataclass(frozen=True)
class Found:
    """The answer to a search."""

    hits: list[Hit]
    """The best first, of equal scores the shorter distance first, then the lower id."""
    fingerprint: str
    """Of the collection's vectors."""
    end: PageEnd | None
    """Where it ended; None if nothing follows, if no page was asked for, or if hits are grouped."""
    explanation: Explanation


class SearchImages:
    """Answers searches."""

    def __init__(
        self, store: VectorStore, embedder: Embedder, known: KnownCollections, coarse: CoarseSearch | None = None
    ) -> None:
        """Only queries by image need the embedder, and only searches from coarse to fine need `coarse`."""
        self._store = store
        self._embedder = embedder
        self._known = known
        self._coarse = coarse

    async def search(self, search: Search, deadline: Deadline) -> Found:
        """Finds the images most like the query.

        Raises InvalidArgumentError, NotFoundError, FailedPreconditionError, UnavailableError, DeadlineExceededError,
        and what the embedder says of a query image.
        """
        began = time.monotonic()
        _check(search)
        name = search.page.collection if search.page else search.collection
        collection, from_memory = await self._known.get(name, deadline)
        try:
            return await self._search(search, collection, began, deadline)
        except (NotFoundError, FailedPreconditionError, InvalidArgumentError):
            # Nobody is refused for what is no longer so.
            if not from_memory or await self._known.look(name, deadline) == collection:
                raise
        return await self._search(search, await self._known.look(name, deadline), began, deadline)

    async def _search(self, search: Search, collection: Collection, began: float, deadline: Deadline) -> Found:
        _check_fit(search.parameters, collection.index)
        _check_page(search.page, collection)
        coarse = None if search.coarse is None else self._look(search.coarse + len(_left_out(search)), collection)
        consistency = search.consistency or collection.consistency
        resolving = time.monotonic()
        vector = search.page.vector if search.page else await self._vector(search, collection, consistency, deadline)
        resolved = time.monotonic()
        nearest = Nearest(
            # One more tells whether another page follows; what is left out is most likely among the best.
            limit=search.limit + 1,
            view=search.view,
            consistency=consistency,
            condition=search.condition,
            parameters=search.parameters,
            after=search.page.after if search.page else None,
        )
        looking = _Looking(self._store, collection, vector, deadline, _left_out(search), coarse)
        if search.group_by is not None:
            hits = await looking.grouped(nearest, search.group_by, search.limit)
        else:
            hits = await looking.best(nearest)
        answered = time.monotonic()
        stages.record("store", resolved, answered)
        # A caller knows scores as float32.
        good = [hit for hit in hits if search.min_score is None or np.float32(hit.score) >= search.min_score]
        more = search.paged and len(good) > search.limit and search.group_by is None
        page = good[: search.limit]
        seen = (search.page.after.seen if search.page else 0) + len(page)
        end = None
        if more:
            last = After(page[-1].score, page[-1].distance, page[-1].image.id, seen)
            end = PageEnd(last, vector, collection.name, collection.create_time)
        return Found(
            page,
            collection.fingerprint,
            end,
            Explanation(
                # Every candidate is compared.
                self._store.index_of(collection, SearchParameters(exact=True) if coarse else search.parameters),
                resolved - resolving,
                answered - resolved,
                time.monotonic() - began,
                coarse.explanation() if coarse else None,
            ),
        )

    def _look(self, candidates: int, collection: Collection) -> CoarseLook:
        if self._coarse is None:
            raise codes_unsupported(COARSE)
        return self._coarse.look(collection, candidates)

    async def _vector(
        self, search: Search, collection: Collection, consistency: Consistency, deadline: Deadline
    ) -> Vector:
        resolve = _Resolving(self._store, self._embedder, collection, consistency, deadline)
        query = search.query
        if not isinstance(query, Examples):
            return await resolve.vector(query, "query")
        positive = await resolve.vectors(query.positive, "query.examples.positive")
        negative = await resolve.vectors(query.negative, "query.examples.negative")
        return vector_of_examples(positive, negative, collection.metric)


@dataclass(frozen=True)
class _Resolving:
    """Turns what a caller gives into vectors that the collection can be searched with."""

    store: VectorStore
    embedder: Embedder
    collection: Collection
    consistency: Consistency
    deadline: Deadline

    async def vectors(self, examples: Sequence[Example], field: str) -> list[Vector]:
        """The vectors of several examples, all at a time."""
        return await asyncio.gather(
            *(self.vector(example, f"{field}[{position}]") for position, example in enumerate(examples))
        )

    async def vector(self, query: Example, field: str) -> Vector:
        """The vector of one image, stored image or embedding; `field` is where it stands in the request."""
        if isinstance(query, Embedding):
            checks.check_embedding(query, self.collection, f"{field}.embedding")
            return query.values
        if isinstance(query, EncodedImage):
            return (await self._embed(query, field)).values
        checks.check_id(query.image_id, f"{field}.image_id")
        found = await self.store.get(self.collection, [query.image_id], View.FULL, self.consistency, self.deadline)
        if not found or found[0].vector is None:
            raise image_not_found(self.collection.name, query.image_id, f"{field}.image_id")
        return self._stored(found[0].vector, query.image_id, f"{field}.image_id")

    def _stored(self, vector: Vector, image_id: str, field: str) -> Vector:
        """Return a stored vector. Raises FailedPreconditionError if another program stored an invalid one."""
        try:
            checks.check_values(vector, self.collection, field)
        except InvalidArgumentError as error:
            raise FailedPreconditionError(
                "STORED_VECTOR_INVALID",
                f"the stored vector of image {checks.shown(image_id)} cannot be searched with ({error.message}); write "
                "the image again",
                field=field,
                metadata={"collection": self.collection.name},
            ) from None
        return vector

    async def _embed(self, image: EncodedImage, field: str) -> Embedding:
        """Embeds with the collection's model, and makes sure that it is still the same model."""
        require_model(self.collection, f"{field}.image")
        began = time.monotonic()
        try:
            embedding = await self.embedder.embed(image, self.collection.model, self.deadline)
            stages.record("embed", began, time.monotonic())
        except NotFoundError as error:
            raise model_gone(self.collection, error, f"{field}.image") from None
        except InvalidArgumentError as error:
            raise error.within(field) from None
        checks.check_embedded(embedding, self.collection, f"{field}.image")
        return embedding


@dataclass(frozen=True)
class _Looking:
    """Looks for the neighbours of one vector."""

    store: VectorStore
    collection: Collection
    vector: Vector
    deadline: Deadline
    left_out: frozenset[str]
    coarse: CoarseLook | None

    async def best(self, nearest: Nearest) -> list[Hit]:
        """The best, less those that are left out."""
        wider = replace(nearest, limit=nearest.limit + len(self.left_out))
        if self.coarse is not None:
            hits = await self.coarse.best(self.collection, self.vector, wider, self.deadline)
        else:
            (hits,) = await self.store.search(self.collection, [self.vector], wider, self.deadline)
        compared = [hit for hit in hits if math.isfinite(hit.score)]
        if len(compared) < len(hits):
            # Another program stored these vectors. They rank behind all other hits.
            log.warning("images whose vectors cannot be compared are left out", collection=self.collection.name)
        return [hit for hit in compared if hit.image.id not in self.left_out][: nearest.limit]

    async def grouped(self, nearest: Nearest, group_by: GroupBy, limit: int) -> list[Hit]:
        """The best, but no more of one value than a group holds. No store is asked to group: not all of them can.

        What has filled its group is filtered out of the next look, and each look is wider. After some looks the groups
        that were found by then are the answer.
        """
        kept: dict[str, Hit] = {}
        sizes: Counter[tuple[bool, FilterValue]] = Counter()
        # Lists are no one value; they are looked past.
        lists: set[str] = set()
        view = View.FULL if nearest.view is View.FULL else View.BASIC
        # The codes give so many candidates and no more; those of full groups make room for others.
        most = MAX_LOOK if self.coarse is None else min(MAX_LOOK, self.coarse.wanted - len(self.left_out))
        wanted = limit
        for _ in range(MAX_LOOKS):
            full = tuple(value for (_, value), size in sizes.items() if size == group_by.size)
            condition: Filter = Exists(group_by.attribute)
            if full:
                condition = And((condition, Not(In(group_by.attribute, full))))
            # Of groups that are not full all are seen again.
            again = sum(size for size in sizes.values() if size < group_by.size)
            wanted = min(max(wanted, limit + again + len(lists)), most)
            look = replace(nearest, limit=wanted, view=view, condition=both(nearest.condition, condition))
            hits = await self.best(look)
            for hit in hits:
                value = hit.image.attributes[group_by.attribute]
                if not isinstance(value, FilterValue):
                    lists.add(hit.image.id)
                    continue
                # To Python True is 1.
                group = (isinstance(value, bool), value)
                if hit.image.id not in kept and sizes[group] < group_by.size and len(kept) < limit:
                    sizes[group] += 1
                    kept[hit.image.id] = hit
            if len(kept) == limit or len(hits) < wanted:
                break
            wanted *= LOOK_GROWTH
        if nearest.view is View.ID:
            return [replace(hit, image=StoredImage(hit.image.id)) for hit in kept.values()]
        return list(kept.values())


def _left_out(search: Search) -> frozenset[str]:
    """The stored images that are the query, which nobody looks for."""
    if search.include_query:
        return frozenset()
    query = search.query
    examples = (*query.positive, *query.negative) if isinstance(query, Examples) else (query,)
    return frozenset(example.image_id for example in examples if isinstance(example, StoredImageQuery))


def _check(search: Search) -> None:
    checks.check_collection_name(search.collection, "collection")
    checks.check_limit(search.limit)
    checks.check_min_score(search.min_score)
    if search.condition is not None:
        check_filter(search.condition)
    if isinstance(search.query, Examples):
        _check_examples(search.query)
    if search.group_by is not None:
        _check_group_by(search.group_by)
    parameters = search.parameters
    for name, value, most in (
        ("ef", parameters.ef, checks.MAX_EF),
        ("search_list", parameters.search_list, _most_search_list(search.limit)),
    ):
        if value is not None and not search.limit <= value <= most:
            raise _parameter_invalid(name, f"is {value}; it should be from the limit to {most}")
    if search.coarse is not None:
        _check_coarse(search.coarse, search)


def _most_search_list(limit: int) -> int:
    """Return the largest `search_list` that Milvus 2.2 and 2.3 document; later releases take more."""
    return max(200, 10 * limit)


def _check_coarse(candidates: int, search: Search) -> None:
    if search.parameters != SearchParameters():
        raise InvalidArgumentError(
            "SEARCH_PARAMETERS_INVALID",
            "parameters are set beside coarse; they are of searches by vectors, and every candidate is compared",
            field="parameters",
        )
    if not search.limit <= candidates <= MAX_CANDIDATES:
        raise InvalidArgumentError(
            "SEARCH_PARAMETERS_INVALID",
            f"{COARSE}.candidates is {candidates}; it should be from the limit, {search.limit}, to {MAX_CANDIDATES}",
            field=f"{COARSE}.candidates",
        )


def _check_examples(examples: Examples) -> None:
    for name, given, least in (("positive", examples.positive, 1), ("negative", examples.negative, 0)):
        if not least <= len(given) <= MAX_EXAMPLES:
            field = f"query.examples.{name}"
            raise InvalidArgumentError(
                "EXAMPLES_INVALID", f"{field} has {len(given)}; it should have {least} to {MAX_EXAMPLES}", field=field
            )


def _check_group_by(group_by: GroupBy) -> None:
    if not checks.ATTRIBUTE_NAME.fullmatch(group_by.attribute):
        raise InvalidArgumentError(
            "GROUP_BY_INVALID",
            f"group_by.attribute is {checks.shown(group_by.attribute)}; it should be a letter, then at most 127 "
            "letters, digits or underscores",
            field="group_by.attribute",
        )
    if not 1 <= group_by.size <= MAX_GROUP_SIZE:
        raise InvalidArgumentError(
            "GROUP_BY_INVALID",
            f"group_by.group_size is {group_by.size}; it should be 1 to {MAX_GROUP_SIZE}",
            field="group_by.group_size",
        )


def _check_fit(parameters: SearchParameters, index: Index) -> None:
    """Refuses what the collection's index does not know: it would be without effect, and nobody would say so."""
    for name, kinds in PARAMETERS.items():
        if getattr(parameters, name) is not None and index.type not in kinds:
            takers = " and ".join(kind.value for kind in kinds)
            own = next((f"takes {other}" for other, its in PARAMETERS.items() if index.type in its), "takes none")
            raise _parameter_invalid(
                name, f"is for {takers}; this collection's index is {index.type.value}, which {own}"
            )
    if index.ivf is not None and parameters.nprobe is not None and not 1 <= parameters.nprobe <= index.ivf.nlist:
        raise _parameter_invalid("nprobe", f"is {parameters.nprobe}; it should be 1 to {index.ivf.nlist}")


def _check_page(page: PageEnd | None, collection: Collection) -> None:
    if page is not None and page.create_time != collection.create_time:
        raise InvalidArgumentError(
            "PAGE_TOKEN_INVALID",
            f"page_token is of a collection {collection.name} that was removed; the one of that name was made since: "
            "begin with the first page",
            field="page_token",
        )


def _parameter_invalid(name: str, problem: str) -> InvalidArgumentError:
    field = f"parameters.{name}"
    return InvalidArgumentError("SEARCH_PARAMETERS_INVALID", f"{field} {problem}", field=field)


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
