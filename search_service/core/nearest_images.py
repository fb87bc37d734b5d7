"""The images nearest to a query vector, alone or in groups."""

import math
from collections import Counter
from dataclasses import dataclass, replace

import structlog

from grpc_kit.deadline import Deadline
from search_service.core.coarse_search import CoarseSearch
from search_service.core.filters import And, Exists, Filter, FilterValue, In, Not, both
from search_service.core.ports import Nearest, VectorStore
from search_service.core.searches import GroupBy
from search_service.core.types import Collection, Hit, StoredImage, Vector, View

log = structlog.stdlib.get_logger()

# Maximum number of hits of one search in the store.
MAX_STORE_HITS = 10_000
# A grouped search runs several searches in the store. Each asks for this many times more hits than the one before.
MAX_GROUP_SEARCHES, GROUP_SEARCH_GROWTH = 8, 4


@dataclass(frozen=True)
class NearestImages:
    """Find the images nearest to one vector."""

    store: VectorStore
    collection: Collection
    vector: Vector
    deadline: Deadline
    excluded: frozenset[str]
    """Ids that are no hits."""
    coarse: CoarseSearch | None
    """Selects candidates by binary codes; None to search by vectors alone."""

    async def best(self, nearest: Nearest) -> list[Hit]:
        """Return the best hits without the excluded images."""
        wider = replace(nearest, limit=nearest.limit + len(self.excluded))
        if self.coarse is not None:
            hits = await self.coarse.run(self.vector, wider, self.deadline)
        else:
            (hits,) = await self.store.search(self.collection, [self.vector], wider, self.deadline)
        comparable = [hit for hit in hits if math.isfinite(hit.score)]
        if len(comparable) < len(hits):
            log.warning("skipping images with invalid vectors of another program", collection=self.collection.name)
        return [hit for hit in comparable if hit.image.id not in self.excluded][: nearest.limit]

    async def grouped(self, nearest: Nearest, group_by: GroupBy, limit: int) -> list[Hit]:
        """Return the best hits, with at most `group_by.size` hits for each value of the attribute.

        Not every store can group, so this method runs several searches. Each one excludes the groups that are full and
        asks for more hits. After MAX_GROUP_SEARCHES, it returns the hits found so far.
        """
        kept: dict[str, Hit] = {}
        sizes: Counter[tuple[bool, FilterValue]] = Counter()
        # Images whose attribute is a list belong to no group.
        lists: set[str] = set()
        view = View.BASIC if nearest.view is View.ID else nearest.view
        most = MAX_STORE_HITS
        if self.coarse is not None:
            # More hits than candidates do not exist.
            most = min(most, self.coarse.candidate_count - len(self.excluded))
        wanted = limit
        for _ in range(MAX_GROUP_SEARCHES):
            # Hits of groups that are not full are found again.
            again = sum(size for size in sizes.values() if size < group_by.size)
            wanted = min(max(wanted, limit + again + len(lists)), most)
            condition = both(nearest.condition, _not_full(group_by, sizes))
            hits = await self.best(replace(nearest, limit=wanted, view=view, condition=condition))
            for hit in hits:
                value = hit.image.attributes[group_by.attribute]
                if not isinstance(value, FilterValue):
                    lists.add(hit.image.id)
                    continue
                # In Python, True equals 1.
                group = (isinstance(value, bool), value)
                if hit.image.id not in kept and sizes[group] < group_by.size and len(kept) < limit:
                    sizes[group] += 1
                    kept[hit.image.id] = hit
            if len(kept) == limit or len(hits) < wanted:
                break
            wanted *= GROUP_SEARCH_GROWTH
        if nearest.view is View.ID:
            return [replace(hit, image=StoredImage(hit.image.id)) for hit in kept.values()]
        return list(kept.values())


def _not_full(group_by: GroupBy, sizes: Counter[tuple[bool, FilterValue]]) -> Filter:
    """Return the condition that the image has the attribute, and that the group of its value is not full."""
    full = tuple(value for (_, value), size in sizes.items() if size == group_by.size)
    exists = Exists(group_by.attribute)
    return And((exists, Not(In(group_by.attribute, full)))) if full else exists
