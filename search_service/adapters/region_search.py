"""Searches of regions in Milvus: through the index in batches, or by comparing every vector."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from grpc_kit.deadline import Deadline
from search_service.adapters.exact_search import READ_BYTES, READ_IMAGES, SLOTS, milvus_distances
from search_service.adapters.milvus_calls import MAX_ROWS, MilvusCalls
from search_service.adapters.milvus_errors import exact_too_large
from search_service.adapters.milvus_filters import both_expressions, ids_expression
from search_service.adapters.milvus_hits import score_and_distance
from search_service.adapters.milvus_rows import VECTOR, Row
from search_service.adapters.milvus_search import (
    SLOTS_PER_KEY,
    WriteExpression,
    max_batch,
    search_parameters,
)
from search_service.adapters.region_collections import BOX, KEY, box_of, generation_of, regions_name
from search_service.adapters.request_batching import RequestBatcher
from search_service.core.ports import Nearest
from search_service.core.types import Collection, Consistency, Index, Metric, RegionHit, SearchParameters, Vector, View

# Default candidates of a graph search for each region. A search reads several regions for each image that it returns,
# so one is enough. With four, a search of 800,000 regions takes 2.5 times as long and finds the same images.
CANDIDATES_PER_REGION, MIN_CANDIDATES = 1, 64
# What a comparison reads of a region.
FIELDS = (KEY, "id", BOX, VECTOR)


@dataclass(frozen=True)
class _Key:
    """What searches must have in common to share a request."""

    collection: str
    create_time: datetime
    regions_name: str
    metric: Metric
    index: Index
    expression: str
    """The filter as a Milvus expression: filters that are equal in Python may have different meanings."""
    limit: int
    parameters: SearchParameters
    consistency: Consistency


class RegionSearch:
    """Search the regions of the collections of a store."""

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
        self._max_exact_bytes = max_exact_bytes
        self._exact_slots = asyncio.Semaphore(SLOTS)
        # Milvus Lite computes one request at a time, and a hundred vectors in one request as fast as ten requests.
        self._batcher: RequestBatcher[_Key, Vector, list[RegionHit]] = RequestBatcher(
            self._search_batch, 1 if calls.is_lite else slots, SLOTS_PER_KEY, lambda key: max_batch(key.limit)
        )

    async def search(
        self, collection: Collection, vectors: Sequence[Vector], nearest: Nearest, deadline: Deadline
    ) -> list[list[RegionHit]]:
        """Return the nearest regions of each vector, best first."""
        expression = await self._expression(collection, nearest.condition, deadline)
        if nearest.among is not None:
            return [await self._best_among(collection, vector, expression, nearest, deadline) for vector in vectors]
        key = _Key(
            collection.name,
            collection.create_time,
            regions_name(collection),
            collection.metric,
            collection.index,
            expression,
            nearest.limit,
            nearest.parameters,
            nearest.consistency,
        )
        return list(await asyncio.gather(*(self._batcher.submit(key, vector, deadline) for vector in vectors)))

    async def _search_batch(self, key: _Key, vectors: Sequence[Vector], deadline: Deadline) -> list[list[RegionHit]]:
        nearest = Nearest(key.limit, View.ID, key.consistency, parameters=key.parameters)
        parameters = search_parameters(key.index, nearest, CANDIDATES_PER_REGION, MIN_CANDIDATES)
        # pymilvus converts a list of arrays ten times as fast as a list of lists.
        data: Any = list(np.asarray(vectors, dtype=np.float32))
        answers = await self._calls.read(
            lambda client, options: client.search(
                key.regions_name,
                data=data,
                anns_field=VECTOR,
                filter=key.expression,
                limit=key.limit,
                output_fields=[KEY, "id", BOX],
                search_params={"metric_type": key.metric.value, "params": parameters},
                consistency_level=key.consistency.value,
                **options,
            ),
            key.collection,
            deadline,
        )
        return [
            sorted((_hit_of(found["entity"], found["distance"], key.metric) for found in hits), key=order_of)
            for hits in answers
        ]

    async def count(self, collection: Collection, nearest: Nearest, deadline: Deadline) -> int:
        """Return the number of regions that the condition allows."""
        expression = await self._expression(collection, nearest.condition, deadline)
        return await self._count(collection, expression, nearest, deadline)

    async def _count(self, collection: Collection, expression: str, nearest: Nearest, deadline: Deadline) -> int:
        (counted,) = await self._query(collection, expression, ["count(*)"], nearest, deadline)
        return int(counted["count(*)"])

    async def best_of_all(
        self, collection: Collection, vector: Vector, nearest: Nearest, deadline: Deadline
    ) -> list[RegionHit]:
        """Return the best region of every generation. Raises ResourceExhaustedError if the vectors are too many."""
        expression = await self._expression(collection, nearest.condition, deadline)
        if nearest.among is not None:
            hits = await self._best_among(collection, vector, expression, replace(nearest, limit=0), deadline)
            return _best_of({}, hits)
        size = 4 * collection.dimension * await self._count(collection, expression, nearest, deadline)
        if size > self._max_exact_bytes:
            raise exact_too_large(size, self._max_exact_bytes)
        first = {"limit": min(READ_IMAGES, _rows_per_read(collection)), **self._calls.lowest_rows}
        best: dict[int, RegionHit] = {}
        last = ""
        async with self._exact_slots:
            while True:
                rest = both_expressions(f'{KEY} > "{last}"', expression)
                rows = await self._query(collection, rest, FIELDS, nearest, deadline, **first)
                if not rows:
                    return sorted(best.values(), key=order_of)
                hits = await asyncio.to_thread(_compared, rows, vector, collection.metric)
                _best_of(best, hits)
                last = max(row[KEY] for row in rows)

    async def _best_among(
        self, collection: Collection, vector: Vector, expression: str, nearest: Nearest, deadline: Deadline
    ) -> list[RegionHit]:
        """Return the nearest regions of the images of `nearest.among`, or all for limit 0."""
        ids = list(nearest.among or ())
        # An image has more rows than its regions until those of earlier generations are deleted.
        size = max(1, min(_rows_per_read(collection), MAX_ROWS // 4) // collection.max_regions)
        hits: list[RegionHit] = []
        for begin in range(0, len(ids), size):
            some = both_expressions(ids_expression(ids[begin : begin + size]), expression)
            rows = await self._query(collection, some, FIELDS, nearest, deadline, **self._calls.all_rows)
            if rows:
                hits += await asyncio.to_thread(_compared, rows, vector, collection.metric)
        best = sorted(hits, key=order_of)
        return best[: nearest.limit] if nearest.limit else best

    async def _query(
        self,
        collection: Collection,
        expression: str,
        fields: Sequence[str],
        nearest: Nearest,
        deadline: Deadline,
        **arguments: object,
    ) -> list[dict[str, Any]]:
        name = regions_name(collection)
        return await self._calls.query(
            name, collection.name, expression, fields, nearest.consistency, deadline, **arguments
        )


def order_of(hit: RegionHit) -> tuple[float, float, str, int]:
    """Return the sort key of a hit: by score, distance and id, as images are sorted."""
    return -hit.score, hit.distance, hit.image_id, hit.generation


def _hit_of(row: Row, value: float, metric: Metric) -> RegionHit:
    return RegionHit(row["id"], generation_of(row[KEY]), box_of(row), *score_and_distance(float(value), metric))


def _compared(rows: Sequence[Row], vector: Vector, metric: Metric) -> list[RegionHit]:
    """Return the hits of rows with their vectors."""
    matrix = np.array([row[VECTOR] for row in rows], dtype=np.float32)
    values = milvus_distances(matrix, vector, metric).tolist()
    return [_hit_of(row, value, metric) for row, value in zip(rows, values, strict=True)]


def _best_of(best: dict[int, RegionHit], hits: Sequence[RegionHit]) -> list[RegionHit]:
    """Keep the best hit of each generation in `best`; return all of these, best first."""
    for hit in hits:
        known = best.get(hit.generation)
        if known is None or order_of(hit) < order_of(known):
            best[hit.generation] = hit
    return sorted(best.values(), key=order_of)


def _rows_per_read(collection: Collection) -> int:
    return max(1, READ_BYTES // (4 * collection.dimension))
