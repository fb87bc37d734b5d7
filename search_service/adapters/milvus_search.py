"""Nearest neighbours in Milvus: gathered requests, pages beyond Milvus' window, and comparing every vector."""

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from pymilvus import AsyncMilvusClient

from grpc_kit.deadline import Deadline
from search_service.adapters.gathering import Gatherer
from search_service.adapters.milvus_errors import exact_too_large
from search_service.adapters.milvus_filters import Expressions, ids_expression
from search_service.adapters.milvus_rows import FIELDS, VECTOR, hit_of, image_of
from search_service.core.checks import MAX_EF
from search_service.core.filters import Filter, IdAfter
from search_service.core.ports import After, Nearest
from search_service.core.types import (
    Collection,
    Hit,
    Index,
    IndexType,
    Metric,
    SearchParameters,
    StoredImage,
    Vector,
    View,
)

Result = TypeVar("Result")
# The most hits that a Milvus server gives.
WINDOW = 16_384
# Searches at a time that compare every vector.
SCANS = 2
# Searches in one request to Milvus.
MAX_GATHERED = 64
# Hits of these together: with their vectors and attributes they may take 100 MB.
MAX_GATHERED_HITS = 8192
# Requests at a time of searches that could be one request.
SLOTS_OF_EQUALS = 2
# Bytes of vectors that are compared at a time where every one is.
SCAN_BYTES = 8 * 1024 * 1024
MAX_SCANNED = 10_000
# Candidates of a graph for each hit that is wanted: of the nearest 1,000 of 50,000 vectors one finds 94 %, four 99.8 %.
CANDIDATES_PER_HIT = 4
DEFAULT_CANDIDATES = 128
MAX_SEARCH_LIST = 65_535
DEFAULT_NPROBE = 16
# What two ways to compute one distance may differ by.
ROUNDING = 1e-5
FAR = 1e30
# Looks for a page of which an image goes away meanwhile.
TRIES = 5


# Writes a collection's filter as Milvus reads it.
Fits: TypeAlias = Callable[[Collection, Filter | None, Deadline], Awaitable[str]]


class Read(Protocol):
    """What reads from Milvus."""

    def __call__(
        self,
        call: Callable[[AsyncMilvusClient, dict[str, Any]], Awaitable[Result]],
        collection: str,
        deadline: Deadline,
    ) -> Awaitable[Result]:
        """Makes a call, bounded in time. Raises what its failure means."""
        ...


@dataclass(frozen=True)
class _Asked:
    """What searches have to have in common to be one request."""

    collection: str
    create_time: datetime
    """Tells the collection from another one of the same name, whose vectors may be of another dimension."""
    metric: Metric
    index: Index
    fits: str
    """The filter as Milvus reads it: filters that Python takes for equal may mean different things."""
    nearest: Nearest
    """Without the filter."""

    @classmethod
    def of(cls, collection: Collection, fits: str, nearest: Nearest) -> "_Asked":
        """Return what a search of a collection asks for."""
        bare = replace(nearest, condition=None)
        return cls(collection.name, collection.create_time, collection.metric, collection.index, fits, bare)


class MilvusSearch:
    """The searches of a store."""

    def __init__(self, read: Read, fits: Fits, slots: int, *, is_lite: bool, max_exact_bytes: int) -> None:
        """Searches nothing yet.

        Args:
            read: reads from Milvus.
            fits: writes filters.
            slots: requests to Milvus at a time.
            is_lite: whether it is Milvus Lite.
            max_exact_bytes: most bytes of vectors that are read to compare every one.
        """
        self._read = read
        self._fits = fits
        self._max_exact_bytes = max_exact_bytes
        # Each reads all of a collection, and keeps a processor busy.
        self._scans = asyncio.Semaphore(SCANS)
        self._is_lite = is_lite
        # Milvus Lite computes one request at a time anyway, and a hundred vectors in one as fast as ten alone.
        self._gatherer: Gatherer[_Asked, Vector, list[Hit]] = Gatherer(
            self._together, 1 if is_lite else slots, SLOTS_OF_EQUALS, _most_together
        )
        self._expressions = Expressions(is_lite=is_lite)

    def index_of(self, collection: Collection, parameters: SearchParameters) -> Index:
        """What answers a search: Milvus Lite compares every vector, whatever the collection's index is."""
        return Index(IndexType.FLAT) if self._is_lite or parameters.exact else collection.index

    async def search(
        self, collection: Collection, vectors: Sequence[Vector], nearest: Nearest, deadline: Deadline
    ) -> list[list[Hit]]:
        """The neighbours of each vector."""
        fits = await self._fits(collection, nearest.condition, deadline)
        if nearest.among is not None or (nearest.parameters.exact and not self._is_lite):
            return [await self._scan(collection, vector, fits, nearest, deadline) for vector in vectors]
        asked = _Asked.of(collection, fits, nearest)
        if nearest.after is not None:
            return [await self._following(collection, vector, asked, nearest.after, deadline) for vector in vectors]
        if len(vectors) == 1:
            return [await self._best(asked, vectors[0], deadline)]
        return await asyncio.gather(*(self._best(asked, vector, deadline) for vector in vectors))

    async def _best(self, asked: _Asked, vector: Vector, deadline: Deadline) -> list[Hit]:
        return await self._complete(asked, vector, await self._gatherer.submit(asked, vector, deadline), deadline)

    async def _together(self, asked: _Asked, vectors: Sequence[Vector], deadline: Deadline) -> list[list[Hit]]:
        return await self._request(asked, vectors, {}, deadline)

    async def _request(
        self, asked: _Asked, vectors: Sequence[Vector], ring: dict[str, float], deadline: Deadline
    ) -> list[list[Hit]]:
        """One request to Milvus; `ring` bounds the distances."""
        nearest = asked.nearest
        # pymilvus takes a matrix, and a list of lists ten times as slowly.
        data: Any = list(np.asarray(vectors, dtype=np.float32))
        parameters = _search_parameters(asked.index, nearest) | ring
        answers = await self._read(
            lambda client, options: client.search(
                asked.collection,
                data=data,
                anns_field=VECTOR,
                filter=asked.fits,
                limit=nearest.limit,
                output_fields=FIELDS[nearest.view],
                search_params={"metric_type": asked.metric.value, "params": parameters},
                consistency_level=nearest.consistency.value,
                **options,
            ),
            asked.collection,
            deadline,
        )
        return [sorted((hit_of(found, asked.metric) for found in hits), key=order_of) for hits in answers]

    async def _complete(self, asked: _Asked, vector: Vector, hits: list[Hit], deadline: Deadline) -> list[Hit]:
        """Asks for more where equal scores stand at the edge: Milvus cuts them in any order."""
        nearest = asked.nearest
        limit = nearest.limit
        while not _are_sure(hits, nearest.limit, hits, limit) and limit < WINDOW:
            limit = min(4 * limit, WINDOW)
            # Ids only: of many equals most are of no use.
            wider = replace(asked, nearest=replace(nearest, limit=limit, view=View.ID))
            (hits,) = await self._request(wider, [vector], {}, deadline)
        best = hits[: nearest.limit]
        return best if limit == nearest.limit else await self._seen_as(asked.collection, best, nearest, deadline)

    async def _following(
        self, collection: Collection, vector: Vector, asked: _Asked, after: After, deadline: Deadline
    ) -> list[Hit]:
        """What follows a hit, by score and then by id."""
        for _ in range(TRIES):
            hits = await self._hits_after(collection, vector, asked, after, deadline)
            seen = await self._seen_as(collection.name, hits, asked.nearest, deadline)
            # Where one has gone in between, the page is looked for again: a short page would be the last one.
            if len(seen) == len(hits):
                break
        return seen

    async def _hits_after(
        self, collection: Collection, vector: Vector, asked: _Asked, after: After, deadline: Deadline
    ) -> list[Hit]:
        nearest = asked.nearest
        # A server leaves out what is nearer. Milvus Lite does so only for the best few, so that all are asked for.
        ring = {} if self._is_lite else _ring(collection.metric, after)
        limit = nearest.limit + 16 + (after.seen if self._is_lite else 0)
        while True:
            look = replace(nearest, limit=limit if self._is_lite else min(limit, WINDOW), view=View.ID, after=None)
            (found,) = await self._request(replace(asked, nearest=look), [vector], ring, deadline)
            end = _as_found(after, found)
            following = [hit for hit in found if order_of(hit) > end]
            if _are_sure(following, nearest.limit, found, look.limit):
                return following[: nearest.limit]
            if look.limit == WINDOW and not self._is_lite:
                return await self._best_of_all(collection, vector, asked.fits, nearest, deadline)
            limit *= 4

    async def _seen_as(self, collection: str, hits: Sequence[Hit], nearest: Nearest, deadline: Deadline) -> list[Hit]:
        """The same hits with what the view shows; without those that have gone since."""
        if nearest.view is View.ID or not hits:
            return list(hits)
        rows = await self._read(
            lambda client, options: client.query(
                collection,
                filter=ids_expression([hit.image.id for hit in hits]),
                output_fields=FIELDS[nearest.view],
                consistency_level=nearest.consistency.value,
                **options,
            ),
            collection,
            deadline,
        )
        images = {row["id"]: image_of(row) for row in rows}
        return [replace(hit, image=images[hit.image.id]) for hit in hits if hit.image.id in images]

    async def _scan(
        self, collection: Collection, vector: Vector, fits: str, nearest: Nearest, deadline: Deadline
    ) -> list[Hit]:
        """Compares every vector that fits."""
        look = self._best_of_all if nearest.among is None else self._best_among
        for _ in range(TRIES):
            hits = await look(collection, vector, fits, nearest, deadline)
            seen = await self._seen_as(collection.name, hits, nearest, deadline)
            if len(seen) == len(hits):
                break
        return seen

    async def _best_of_all(
        self, collection: Collection, vector: Vector, fits: str, nearest: Nearest, deadline: Deadline
    ) -> list[Hit]:
        """Compares some vectors at a time, and needs memory for these only. Raises ResourceExhaustedError."""
        await self._require_few(collection, fits, nearest, deadline)
        async with self._scans:
            return await self._compare_all(collection, vector, fits, nearest, deadline)

    async def _require_few(self, collection: Collection, fits: str, nearest: Nearest, deadline: Deadline) -> None:
        rows = await self._read(
            lambda client, options: client.query(
                collection.name,
                filter=fits,
                output_fields=["count(*)"],
                consistency_level=nearest.consistency.value,
                **options,
            ),
            collection.name,
            deadline,
        )
        size = 4 * collection.dimension * int(rows[0]["count(*)"])
        if size > self._max_exact_bytes:
            raise exact_too_large(size, self._max_exact_bytes)

    async def _compare_all(
        self, collection: Collection, vector: Vector, fits: str, nearest: Nearest, deadline: Deadline
    ) -> list[Hit]:
        rows_at_a_time = min(MAX_SCANNED, max(1, SCAN_BYTES // (4 * collection.dimension)))
        best: list[Hit] = []
        last = ""
        while True:
            condition = _both(self._expressions.write(IdAfter(last)), fits)
            rows = await self._vectors(collection.name, condition, {"limit": rows_at_a_time}, nearest, deadline)
            if not rows:
                break
            best = await asyncio.to_thread(_best_of, best, rows, vector, collection.metric, nearest)
            last = max(image.id for image in rows)
        return best

    async def _best_among(
        self, collection: Collection, vector: Vector, fits: str, nearest: Nearest, deadline: Deadline
    ) -> list[Hit]:
        """Compares the vectors of some images, as many of them at a time as one answer of Milvus holds."""
        ids = nearest.among or ()
        at_a_time = max(1, SCAN_BYTES // (4 * collection.dimension))
        best: list[Hit] = []
        for begin in range(0, len(ids), at_a_time):
            some = ids[begin : begin + at_a_time]
            condition = _both(ids_expression(some), fits)
            rows = await self._vectors(collection.name, condition, {}, nearest, deadline)
            if rows:
                best = await asyncio.to_thread(_best_of, best, rows, vector, collection.metric, nearest)
        return best

    async def _vectors(
        self, collection: str, condition: str, limit: dict[str, int], nearest: Nearest, deadline: Deadline
    ) -> list[StoredImage]:
        rows = await self._read(
            lambda client, options: client.query(
                collection,
                filter=condition,
                output_fields=["id", VECTOR],
                consistency_level=nearest.consistency.value,
                **limit,
                **options,
            ),
            collection,
            deadline,
        )
        return [image_of(row) for row in rows]


def _most_together(asked: _Asked) -> int:
    """Return how many searches are one request: what Milvus answers at a time has to be held in memory."""
    return max(1, min(MAX_GATHERED, MAX_GATHERED_HITS // asked.nearest.limit))


def _both(expression: str, other: str) -> str:
    return f"({expression}) and ({other})" if other else expression


def order_of(hit: Hit) -> tuple[float, float, str]:
    """The best first, of equal scores the shorter distance first (scores of L2 are all 1 near 0), then the lower id."""
    return -hit.score, hit.distance, hit.image.id


def _as_found(after: After, found: Sequence[Hit]) -> tuple[float, float, str]:
    """Where a page ended, by the order of hits that were found now.

    The same two vectors can score otherwise in the last bit, alone or beside other queries.
    """
    for hit in found:
        if hit.image.id == after.id and abs(hit.score - after.score) <= ROUNDING * max(1.0, abs(after.score)):
            return order_of(hit)
    return -after.score, after.distance, after.id


def _are_sure(hits: Sequence[Hit], wanted: int, found: Sequence[Hit], asked: int) -> bool:
    """Whether all but the last of the `wanted` first of `hits` are the right ones.

    They are chosen from what Milvus found, which it cut at the number that it was asked for: of those that score like
    the last of that, others may have been cut off.
    """
    if len(found) < asked or wanted == 1:
        return True
    return len(hits) >= wanted - 1 and order_of(hits[wanted - 2])[:2] < order_of(found[-1])[:2]


def _search_parameters(index: Index, nearest: Nearest) -> dict[str, Any]:
    asked = nearest.parameters
    if index.type in (IndexType.HNSW, IndexType.AUTOINDEX):
        # Milvus builds an HNSW graph for AUTOINDEX.
        return {"ef": _candidates(asked.ef, nearest.limit, MAX_EF)}
    if index.type is IndexType.DISKANN:
        return {"search_list": _candidates(asked.search_list, nearest.limit, MAX_SEARCH_LIST)}
    if index.ivf is not None:
        return {"nprobe": min(asked.nprobe or DEFAULT_NPROBE, index.ivf.nlist)}
    return {}


def _candidates(asked: int | None, limit: int, most: int) -> int:
    """Return how many candidates a search in a graph keeps: those that the caller asked for, or the default."""
    return max(asked or max(DEFAULT_CANDIDATES, min(CANDIDATES_PER_HIT * limit, most)), limit)


def _ring(metric: Metric, after: After) -> dict[str, float]:
    """The bounds of Milvus' own distances for what is no nearer than a hit; equal ones are within."""
    match metric:
        case Metric.COSINE | Metric.IP:
            nearest = after.score + ROUNDING * max(1.0, abs(after.score))
            return {"range_filter": nearest, "radius": -FAR}
        case Metric.L2:
            squared = after.distance**2
            return {"range_filter": max(0.0, squared - ROUNDING * max(1.0, squared)), "radius": FAR}


def _best_of(
    best: list[Hit], images: Sequence[StoredImage], vector: Vector, metric: Metric, nearest: Nearest
) -> list[Hit]:
    """The best of those before and of some more."""
    matrix = np.array([image.vector for image in images], dtype=np.float32)
    values = _milvus_distances(matrix, vector, metric)
    hits = [
        hit_of({"entity": {"id": image.id}, "distance": value}, metric)
        for image, value in zip(images, values.tolist(), strict=True)
    ]
    after = nearest.after
    following = hits
    if after is not None:
        end = -after.score, after.distance, after.id
        # It may score otherwise in the last bit here.
        following = [hit for hit in hits if order_of(hit) > end and hit.image.id != after.id]
    return heapq.nsmallest(nearest.limit, [*best, *following], key=order_of)


def _milvus_distances(matrix: Vector, vector: Vector, metric: Metric) -> Vector:
    """As Milvus computes them: float32[N] of float32[N, D] and float32[D]."""
    match metric:
        case Metric.COSINE:
            lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(vector)
            with np.errstate(divide="ignore", invalid="ignore"):
                cosines: Vector = (matrix @ vector) / lengths
            return cosines
        case Metric.IP:
            products: Vector = matrix @ vector
            return products
        case Metric.L2:
            squares: Vector = ((matrix - vector) ** 2).sum(axis=1)
            return squares
