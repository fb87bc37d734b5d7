"""Searches in two steps: binary codes select candidates, and the vectors of the candidates re-rank them.

The method is from Lin et al., "Deep Learning of Binary Hash Codes for Fast Image Retrieval" (CVPRW 2015).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from grpc_kit.deadline import Deadline
from grpc_kit.errors import NotFoundError
from grpc_kit.server import stages
from search_service.core.coded_store import CodeWriter
from search_service.core.codes import codes_missing, codes_unsupported, ready_set
from search_service.core.expiry import unexpired
from search_service.core.filters import both
from search_service.core.ports import CodeStore, Nearest, VectorStore
from search_service.core.types import CodeSet, Collection, Hit, Vector

DEFAULT_CANDIDATES, CANDIDATES_PER_HIT = 100, 4
MAX_CANDIDATES = 10_000
FIELD = "coarse"


@dataclass(frozen=True)
class CoarseExplanation:
    """How a search in two steps was answered."""

    codes: CodeSet
    candidates: int
    """Number of different candidates that the codes selected."""
    coarse_seconds: float
    fine_seconds: float


@dataclass(frozen=True)
class CoarseSearches:
    """What a search in two steps needs: the stores, the encoder, and the time in UTC."""

    store: VectorStore
    codes: CodeStore
    writer: CodeWriter
    now: Callable[[], datetime]

    def begin(self, collection: Collection, candidates: int) -> "CoarseSearch":
        """Return a search that re-ranks this many candidates.

        Raises FailedPreconditionError if the collection has no codes that are ready, and UnimplementedError if the
        backend has no codes at all.
        """
        if not self.codes.supported:
            raise codes_unsupported(FIELD)
        return CoarseSearch(self, collection, ready_set(collection, FIELD), candidates)


@dataclass
class CoarseSearch:
    """One search in two steps. It may run several times, with other filters; the explanation covers all runs."""

    _needs: CoarseSearches
    _collection: Collection
    _codes: CodeSet
    candidate_count: int
    _candidates: set[str] = field(default_factory=set)
    _coarse_seconds: float = 0.0
    _fine_seconds: float = 0.0

    async def run(self, vector: Vector, nearest: Nearest, deadline: Deadline) -> list[Hit]:
        """Return the best of the candidates."""
        began = time.monotonic()
        candidates = await self._select(vector, nearest, deadline)
        selected = time.monotonic()
        hits: list[Hit] = []
        if candidates:
            # Sorted, so that equal candidates make equal requests.
            among = replace(nearest, among=tuple(sorted(candidates)))
            (hits,) = await self._needs.store.search(self._collection, [vector], among, deadline)
        ended = time.monotonic()
        stages.record("coarse", began, selected)
        stages.record("fine", selected, ended)
        self._candidates.update(candidates)
        self._coarse_seconds += selected - began
        self._fine_seconds += ended - selected
        return hits

    async def _select(self, vector: Vector, nearest: Nearest, deadline: Deadline) -> list[str]:
        """Return the ids of the unexpired images with the nearest codes, among those that meet the condition."""
        collection = self._collection
        condition = both(nearest.condition, unexpired(collection, self._needs.now()))
        try:
            query = np.asarray(vector)[np.newaxis]
            (value,) = await self._needs.writer.encode(collection, self._codes, query, deadline)
            return await self._needs.codes.search(
                collection, self._codes, value, self.candidate_count, condition, nearest.consistency, deadline
            )
        except NotFoundError:
            raise codes_missing(collection.name, FIELD) from None

    def explanation(self) -> CoarseExplanation:
        """Return the statistics of all runs so far."""
        return CoarseExplanation(self._codes, len(self._candidates), self._coarse_seconds, self._fine_seconds)


def default_candidates(limit: int) -> int:
    """Return the number of candidates of a search that names none."""
    return max(DEFAULT_CANDIDATES, CANDIDATES_PER_HIT * limit)
