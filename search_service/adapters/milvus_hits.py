"""Hits of Milvus searches: scores, order, and the images in them."""

import math
from collections.abc import Sequence
from dataclasses import replace

from grpc_kit.deadline import Deadline
from search_service.adapters.milvus_calls import MilvusCalls
from search_service.adapters.milvus_filters import ids_expression
from search_service.adapters.milvus_rows import Row, fields_of, image_of
from search_service.core.ports import Nearest
from search_service.core.types import Hit, Metric, View

# A search is repeated this often if an image of its hits is deleted meanwhile.
RETRIES = 5


def hit_of(found: Row, metric: Metric) -> Hit:
    """Return the hit for a result of Milvus, whose distance is a similarity, or for L2 the squared distance.

    A vector that cannot be compared has the score minus infinity, because NaN cannot be sorted.
    """
    return Hit(image_of(found["entity"]), *score_and_distance(float(found["distance"]), metric))


def score_and_distance(value: float, metric: Metric) -> tuple[float, float]:
    """Return the score and the distance of the contract for a distance of Milvus."""
    if not math.isfinite(value):
        return -math.inf, math.inf
    match metric:
        case Metric.COSINE:
            # Rounding errors make the cosine of a vector with itself slightly more than 1.
            cosine = min(1.0, max(-1.0, value))
            return cosine, 1.0 - cosine
        case Metric.IP:
            return value, -value
        case Metric.L2:
            distance = math.sqrt(max(value, 0.0))
            return 1.0 / (1.0 + distance), distance


def order_of(hit: Hit) -> tuple[float, float, str]:
    """Return the sort key of a hit: by score, then by distance (near 0, all scores of L2 are 1), then by id."""
    return -hit.score, hit.distance, hit.image.id


async def with_view(
    calls: MilvusCalls, collection: str, max_regions: int, hits: Sequence[Hit], nearest: Nearest, deadline: Deadline
) -> list[Hit]:
    """Return hits with the fields of the view, without images that were deleted meanwhile."""
    if nearest.view is View.ID or not hits:
        return list(hits)
    rows = await calls.query(
        collection,
        collection,
        ids_expression([hit.image.id for hit in hits]),
        fields_of(nearest.view, max_regions),
        nearest.consistency,
        deadline,
        **calls.all_rows,
    )
    images = {row["id"]: image_of(row) for row in rows}
    return [replace(hit, image=images[hit.image.id]) for hit in hits if hit.image.id in images]
