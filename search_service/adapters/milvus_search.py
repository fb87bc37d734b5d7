"""Searches in Milvus with an index: batched requests, and pages beyond Milvus' maximum number of hits."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias

import numpy as np

from grpc_kit.deadline import Deadline
from search_service.adapters.exact_search import ExactSearch
from search_service.adapters.milvus_calls import MilvusCalls
from search_service.adapters.milvus_hits import RETRIES, hit_of, order_of, with_view
from search_service.adapters.milvus_rows import VECTOR, fields_of
from search_service.adapters.request_batching import RequestBatcher
from search_service.core.checks import MAX_EF
from search_service.core.filters import Filter
from search_service.core.ports import After, Nearest
from search_service.core.types import Collection, Hit, Index, IndexType, Metric, SearchParameters, Vector, View

# Maximum number of hits that a Milvus server returns.
MAX_HITS = 16_384
# Searches in one request, and their hits together: with vectors and attributes these may take 100 MB.
MAX_BATCH, MAX_BATCH_HITS = 64, 8192
# Requests in flight with equal keys.
SLOTS_PER_KEY = 2
# Default candidates of a graph search for each hit. With one, it finds 94 % of the nearest 1,000 of 50,000 vectors;
# with four, it finds 99.8 %.
CANDIDATES_PER_HIT = 4
DEFAULT_CANDIDATES = 128
MAX_SEARCH_LIST = 65_535
DEFAULT_NPROBE = 16
# Two computations of one distance may differ by this much.
ROUNDING = 1e-5
# A distance beyond that of any vector.
INFINITE = 1e30

# Return a filter as a Milvus expression.
WriteExpression: TypeAlias = Callable[[Collection, Filter | None, Deadline], Awaitable[str]]


@dataclass(frozen=True)
class _Key:
    """What searches must have in common to share a request."""

    collection: str
    create_time: datetime
    """Distinguishes the collection from a later one of the same name, whose vectors may have another dimension."""
    metric: Metric
    index: Index
    expression: str
    """The filter as a Milvus expression: filters that are equal in Python may have different meanings."""
    nearest: Nearest
    """Without the filter."""
    max_regions: int


class MilvusSearch:
    """Search the collections of a store."""

    def __init__(self, calls: MilvusCalls, expression: WriteExpression, slots: int, max_exact_bytes: int) -> None:
        """Prepare to search.

        Args:
            calls: calls Milvus.
            expression: writes filters as expressions.
            slots: requests in flight.
            max_exact_bytes: maximum bytes of vectors that one exact search reads.
        """
        self._calls = calls
        self._expression = expression
        self._is_lite = calls.is_lite
        self._exact = ExactSearch(calls, max_exact_bytes)
        # Milvus Lite computes one request at a time, and a hundred vectors in one request as fast as ten requests.
        self._batcher: RequestBatcher[_Key, Vector, list[Hit]] = RequestBatcher(
            self._search_batch, 1 if calls.is_lite else slots, SLOTS_PER_KEY, lambda key: max_batch(key.nearest.limit)
        )

    def index_of(self, collection: Collection, parameters: SearchParameters) -> Index:
        """Return the index that a search uses. Milvus Lite always compares every vector."""
        return Index(IndexType.FLAT) if self._is_lite or parameters.exact else collection.index

    async def search(
        self, collection: Collection, vectors: Sequence[Vector], nearest: Nearest, deadline: Deadline
    ) -> list[list[Hit]]:
        """Return the hits of each vector, sorted."""
        expression = await self._expression(collection, nearest.condition, deadline)
        if nearest.among is not None or (nearest.parameters.exact and not self._is_lite):
            return [await self._exact.search(collection, vector, expression, nearest, deadline) for vector in vectors]
        bare = replace(nearest, condition=None)
        key = _Key(
            collection.name,
            collection.create_time,
            collection.metric,
            collection.index,
            expression,
            bare,
            collection.max_regions,
        )
        if nearest.after is not None:
            return [await self._next_page(collection, vector, key, nearest.after, deadline) for vector in vectors]
        if len(vectors) == 1:
            return [await self._first_page(key, vectors[0], deadline)]
        return await asyncio.gather(*(self._first_page(key, vector, deadline) for vector in vectors))

    async def _search_batch(self, key: _Key, vectors: Sequence[Vector], deadline: Deadline) -> list[list[Hit]]:
        return await self._request(key, vectors, {}, deadline)

    async def _request(
        self, key: _Key, vectors: Sequence[Vector], bounds: dict[str, float], deadline: Deadline
    ) -> list[list[Hit]]:
        """Send one request; `bounds` limits the distances."""
        nearest = key.nearest
        # pymilvus converts a list of arrays ten times as fast as a list of lists.
        data: Any = list(np.asarray(vectors, dtype=np.float32))
        parameters = search_parameters(key.index, nearest) | bounds
        answers = await self._calls.read(
            lambda client, options: client.search(
                key.collection,
                data=data,
                anns_field=VECTOR,
                filter=key.expression,
                limit=nearest.limit,
                output_fields=fields_of(nearest.view, key.max_regions),
                search_params={"metric_type": key.metric.value, "params": parameters},
                consistency_level=nearest.consistency.value,
                **options,
            ),
            key.collection,
            deadline,
        )
        return [sorted((hit_of(found, key.metric) for found in hits), key=order_of) for hits in answers]

    async def _first_page(self, key: _Key, vector: Vector, deadline: Deadline) -> list[Hit]:
        """Return the best hits. Milvus cuts hits with equal scores in any order, so ask for more if they are cut."""
        nearest = key.nearest
        hits = await self._batcher.submit(key, vector, deadline)
        limit = nearest.limit
        while not _is_complete(hits, nearest.limit, hits, limit) and limit < MAX_HITS:
            limit = min(4 * limit, MAX_HITS)
            # Only ids: most of the hits with equal scores are dropped.
            wider = replace(key, nearest=replace(nearest, limit=limit, view=View.ID))
            (hits,) = await self._request(wider, [vector], {}, deadline)
        best = hits[: nearest.limit]
        return best if limit == nearest.limit else await self._with_view(key, best, nearest, deadline)

    async def _next_page(
        self, collection: Collection, vector: Vector, key: _Key, after: After, deadline: Deadline
    ) -> list[Hit]:
        """Return the hits after the last hit of a page."""
        for _ in range(RETRIES):
            hits = await self._hits_after(collection, vector, key, after, deadline)
            found = await self._with_view(key, hits, key.nearest, deadline)
            # An image was deleted meanwhile: search again, because a short page would be the last one.
            if len(found) == len(hits):
                break
        return found

    async def _with_view(self, key: _Key, hits: Sequence[Hit], nearest: Nearest, deadline: Deadline) -> list[Hit]:
        return await with_view(self._calls, key.collection, key.max_regions, hits, nearest, deadline)

    async def _hits_after(
        self, collection: Collection, vector: Vector, key: _Key, after: After, deadline: Deadline
    ) -> list[Hit]:
        nearest = key.nearest
        # A server can exclude nearer images. Milvus Lite cannot beyond the best few, so ask for all hits so far.
        bounds = {} if self._is_lite else _bounds_after(collection.metric, after)
        limit = nearest.limit + 16 + (after.seen if self._is_lite else 0)
        while True:
            wider = replace(nearest, limit=limit if self._is_lite else min(limit, MAX_HITS), view=View.ID, after=None)
            (found,) = await self._request(replace(key, nearest=wider), [vector], bounds, deadline)
            end = _end_among(after, found)
            following = [hit for hit in found if order_of(hit) > end]
            if _is_complete(following, nearest.limit, found, wider.limit):
                return following[: nearest.limit]
            if wider.limit == MAX_HITS and not self._is_lite:
                return await self._exact.best_of_all(collection, vector, key.expression, nearest, deadline)
            limit *= 4


def max_batch(limit: int) -> int:
    """Return the maximum number of searches in a request, whose hits must fit into memory."""
    return max(1, min(MAX_BATCH, MAX_BATCH_HITS // limit))


def _end_among(after: After, found: Sequence[Hit]) -> tuple[float, float, str]:
    """Return the place of the last hit of a page in the order of the hits found now.

    The score of one vector may differ in the last bit, depending on the other queries in the request.
    """
    for hit in found:
        if hit.image.id == after.id and abs(hit.score - after.score) <= ROUNDING * max(1.0, abs(after.score)):
            return order_of(hit)
    return -after.score, after.distance, after.id


def _is_complete(hits: Sequence[Hit], wanted: int, found: Sequence[Hit], limit: int) -> bool:
    """Return whether the first `wanted` - 1 of `hits`, which are a part of `found`, are certainly the best.

    If Milvus returned as many hits as its limit, other images with the score of the last hit may be missing.
    """
    if len(found) < limit or wanted == 1:
        return True
    return len(hits) >= wanted - 1 and order_of(hits[wanted - 2])[:2] < order_of(found[-1])[:2]


def search_parameters(
    index: Index, nearest: Nearest, per_hit: int = CANDIDATES_PER_HIT, least: int = DEFAULT_CANDIDATES
) -> dict[str, Any]:
    """Return Milvus' parameters of a search in an index.

    By default, a graph search has `per_hit` candidates for each hit, and at least `least`.
    """
    asked = nearest.parameters
    if index.type in (IndexType.HNSW, IndexType.AUTOINDEX):
        # For AUTOINDEX, Milvus builds an HNSW graph.
        return {"ef": _candidates(asked.ef, nearest.limit, per_hit, least, MAX_EF)}
    if index.type is IndexType.DISKANN:
        return {"search_list": _candidates(asked.search_list, nearest.limit, per_hit, least, MAX_SEARCH_LIST)}
    if index.ivf is not None:
        return {"nprobe": min(asked.nprobe or DEFAULT_NPROBE, index.ivf.nlist)}
    return {}


def _candidates(asked: int | None, limit: int, per_hit: int, least: int, most: int) -> int:
    """Return the number of candidates of a graph search: the caller's, or the default."""
    return max(asked or max(least, min(per_hit * limit, most)), limit)


def _bounds_after(metric: Metric, after: After) -> dict[str, float]:
    """Return the bounds of Milvus' distances for images that are not nearer than a hit; equal distances are within."""
    match metric:
        case Metric.COSINE | Metric.IP:
            nearest = after.score + ROUNDING * max(1.0, abs(after.score))
            return {"range_filter": nearest, "radius": -INFINITE}
        case Metric.L2:
            squared = after.distance**2
            return {"range_filter": max(0.0, squared - ROUNDING * max(1.0, squared)), "radius": INFINITE}
