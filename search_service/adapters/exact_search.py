"""Exact searches: read vectors from Milvus and compare every one."""

import asyncio
import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np

from grpc_kit.deadline import Deadline
from search_service.adapters.milvus_calls import MAX_ROWS, MilvusCalls
from search_service.adapters.milvus_errors import exact_too_large
from search_service.adapters.milvus_filters import Expressions, both_expressions, ids_expression
from search_service.adapters.milvus_hits import RETRIES, hit_of, order_of, with_view
from search_service.adapters.milvus_rows import VECTOR, image_of
from search_service.core.filters import IdAfter
from search_service.core.ports import Nearest
from search_service.core.types import Collection, Hit, Metric, StoredImage, Vector

# Exact searches in flight. Each reads a whole collection, and keeps a CPU busy.
SLOTS = 2
# Bytes of vectors, and number of images, in one request.
READ_BYTES = 8 * 1024 * 1024
READ_IMAGES = 10_000


class ExactSearch:
    """Compare vectors of a collection with a query."""

    def __init__(self, calls: MilvusCalls, max_bytes: int) -> None:
        """`max_bytes` limits the vectors that one search of a whole collection reads."""
        self._calls = calls
        self._max_bytes = max_bytes
        self._slots = asyncio.Semaphore(SLOTS)
        self._expressions = Expressions(is_lite=calls.is_lite)

    async def search(
        self, collection: Collection, vector: Vector, expression: str, nearest: Nearest, deadline: Deadline
    ) -> list[Hit]:
        """Return the best hits among all images that match an expression, or among those of `nearest.among`."""
        best = self.best_of_all if nearest.among is None else self._best_among
        for _ in range(RETRIES):
            hits = await best(collection, vector, expression, nearest, deadline)
            found = await with_view(self._calls, collection.name, collection.max_regions, hits, nearest, deadline)
            if len(found) == len(hits):
                break
        return found

    async def best_of_all(
        self, collection: Collection, vector: Vector, expression: str, nearest: Nearest, deadline: Deadline
    ) -> list[Hit]:
        """Return the best hits, only with their ids. Raises ResourceExhaustedError if the vectors are too many."""
        (counted,) = await self._query(collection, expression, ["count(*)"], nearest, deadline)
        size = 4 * collection.dimension * int(counted["count(*)"])
        if size > self._max_bytes:
            raise exact_too_large(size, self._max_bytes)
        limit = min(READ_IMAGES, max(1, READ_BYTES // (4 * collection.dimension)))
        best: list[Hit] = []
        last = ""
        async with self._slots:
            while True:
                rest = both_expressions(self._expressions.write(IdAfter(last)), expression)
                images = await self._vectors(collection, rest, nearest, deadline, limit=limit)
                if not images:
                    return best
                best = await asyncio.to_thread(_best_of, best, images, vector, collection.metric, nearest)
                last = max(image.id for image in images)

    async def _best_among(
        self, collection: Collection, vector: Vector, expression: str, nearest: Nearest, deadline: Deadline
    ) -> list[Hit]:
        ids = nearest.among or ()
        size = min(MAX_ROWS // 2, max(1, READ_BYTES // (4 * collection.dimension)))
        best: list[Hit] = []
        for begin in range(0, len(ids), size):
            some = both_expressions(ids_expression(ids[begin : begin + size]), expression)
            images = await self._vectors(collection, some, nearest, deadline, **self._calls.all_rows)
            if images:
                best = await asyncio.to_thread(_best_of, best, images, vector, collection.metric, nearest)
        return best

    async def _vectors(
        self, collection: Collection, expression: str, nearest: Nearest, deadline: Deadline, **limit: int
    ) -> list[StoredImage]:
        return [
            image_of(row)
            for row in await self._query(collection, expression, ["id", VECTOR], nearest, deadline, **limit)
        ]

    async def _query(
        self,
        collection: Collection,
        expression: str,
        fields: Sequence[str],
        nearest: Nearest,
        deadline: Deadline,
        **limit: int,
    ) -> list[dict[str, Any]]:
        name = collection.name
        return await self._calls.query(name, name, expression, fields, nearest.consistency, deadline, **limit)


def _best_of(
    best: list[Hit], images: Sequence[StoredImage], vector: Vector, metric: Metric, nearest: Nearest
) -> list[Hit]:
    """Return the best of earlier hits and of more images."""
    matrix = np.array([image.vector for image in images], dtype=np.float32)
    hits = [
        hit_of({"entity": {"id": image.id}, "distance": value}, metric)
        for image, value in zip(images, milvus_distances(matrix, vector, metric).tolist(), strict=True)
    ]
    after = nearest.after
    if after is not None:
        end = -after.score, after.distance, after.id
        # Here the last hit of the page may have another score in the last bit, so it is also excluded by its id.
        hits = [hit for hit in hits if order_of(hit) > end and hit.image.id != after.id]
    return heapq.nsmallest(nearest.limit, [*best, *hits], key=order_of)


def milvus_distances(matrix: Vector, vector: Vector, metric: Metric) -> Vector:
    """Return Milvus' distances, float32[N], between the rows of float32[N, D] and a vector, float32[D]."""
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
