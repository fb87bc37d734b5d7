"""Searches from coarse to fine: candidates by their binary codes, which are then compared by their vectors.

The way of Lin et al., "Deep Learning of Binary Hash Codes for Fast Image Retrieval" (CVPRW 2015).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from grpc_kit.deadline import Deadline
from grpc_kit.errors import NotFoundError
from grpc_kit.server import stages
from search_service.core.coded_store import Transforms
from search_service.core.codes import codes_missing, codes_unsupported, ready_of
from search_service.core.expiry import unexpired
from search_service.core.filters import both
from search_service.core.ports import CodeStore, Nearest, VectorStore
from search_service.core.types import CodeSet, Collection, Hit, Vector

DEFAULT_CANDIDATES, CANDIDATES_PER_HIT = 100, 4
MAX_CANDIDATES = 10_000
FIELD = "coarse"


@dataclass(frozen=True)
class CoarseExplanation:
    """How a search from coarse to fine was answered."""

    codes: CodeSet
    candidates: int
    """That the codes gave."""
    coarse_seconds: float
    fine_seconds: float


@dataclass
class CoarseLook:
    """Looks for the neighbours of one vector from coarse to fine, once or several times."""

    codes: CodeSet
    search: "CoarseSearch"
    wanted: int
    """Candidates of a look."""
    candidates: set[str] = field(default_factory=set)
    coarse_seconds: float = 0.0
    fine_seconds: float = 0.0

    async def best(self, collection: Collection, vector: Vector, nearest: Nearest, deadline: Deadline) -> list[Hit]:
        """The best of the candidates, however many of these there are."""
        began = time.monotonic()
        wider = replace(nearest, limit=self.wanted)
        candidates = await self.search.candidates(collection, self.codes, vector, wider, deadline)
        found = time.monotonic()
        hits = await self.search.compare(collection, vector, candidates, nearest, deadline)
        ended = time.monotonic()
        stages.record("coarse", began, found)
        stages.record("fine", found, ended)
        self.candidates.update(candidates)
        self.coarse_seconds += found - began
        self.fine_seconds += ended - found
        return hits

    def explanation(self) -> CoarseExplanation:
        """What was done so far."""
        return CoarseExplanation(self.codes, len(self.candidates), self.coarse_seconds, self.fine_seconds)


class CoarseSearch:
    """The two steps."""

    def __init__(
        self, store: VectorStore, codes: CodeStore, transforms: Transforms, now: Callable[[], datetime]
    ) -> None:
        """Vectors are in `store`, codes in `codes`; `now` gives the time in UTC."""
        self._store = store
        self._codes = codes
        self._transforms = transforms
        self._now = now

    def look(self, collection: Collection, candidates: int) -> CoarseLook:
        """A look with so many candidates. Raises FailedPreconditionError and UnimplementedError without codes."""
        if not self._codes.supported:
            raise codes_unsupported(FIELD)
        return CoarseLook(ready_of(collection, FIELD), self, candidates)

    async def candidates(
        self, collection: Collection, codes: CodeSet, vector: Vector, nearest: Nearest, deadline: Deadline
    ) -> list[str]:
        """The ids of the images with the nearest codes, of those that fit and have not expired."""
        condition = both(nearest.condition, unexpired(collection, self._now()))
        try:
            transform = await self._transforms.get(collection, codes, deadline)
            value = transform.encode(np.asarray(vector)[np.newaxis], collection.metric)[0]
            return await self._codes.search(
                collection, codes, value, nearest.limit, condition, nearest.consistency, deadline
            )
        except NotFoundError:
            raise codes_missing(collection.name, FIELD) from None

    async def compare(
        self, collection: Collection, vector: Vector, candidates: list[str], nearest: Nearest, deadline: Deadline
    ) -> list[Hit]:
        """The nearest of some images by their vectors."""
        if not candidates:
            return []
        # In order, so that the same candidates are the same question.
        among = replace(nearest, among=tuple(sorted(candidates)))
        (hits,) = await self._store.search(collection, [vector], among, deadline)
        return hits


def default_candidates(limit: int) -> int:
    """The candidates of a search that does not say."""
    return max(DEFAULT_CANDIDATES, CANDIDATES_PER_HIT * limit)
