"""A search with one vector, as most tests make it."""

from grpc_kit.deadline import Deadline
from search_service.core.filters import Filter
from search_service.core.ports import Nearest, VectorStore
from search_service.core.types import Collection, Consistency, Hit, Vector, View


async def search_one(
    store: VectorStore,
    collection: Collection,
    vector: Vector,
    condition: Filter | None,
    limit: int,
    view: View,
    consistency: Consistency,
    deadline: Deadline,
) -> list[Hit]:
    """Return the hits of one vector."""
    (hits,) = await store.search(collection, [vector], Nearest(limit, view, consistency, condition), deadline)
    return hits
