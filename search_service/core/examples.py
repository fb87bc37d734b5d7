"""The query vector of positive and negative examples."""

from collections.abc import Sequence

import numpy as np

from grpc_kit.errors import InvalidArgumentError
from search_service.core.types import Metric, Vector
from search_service.core.vector_checks import length_of, shortest_length

# Rocchio's formula with the weights of Manning, Raghavan and Schütze, Introduction to Information Retrieval (2008),
# section 9.1.1: beta = 0.75 and gamma = 0.15. The weights are scaled so that they add up to 1, for the metric L2; only
# their ratio changes an order of cosines.
AWAY_FROM_NEGATIVE = 0.25
MAX_EXAMPLES = 32


def vector_of_examples(positive: Sequence[Vector], negative: Sequence[Vector], metric: Metric) -> Vector:
    """Return p + 0.25 (p - n), float32[D]; p and n are the means of the positive and the negative examples.

    With the metric COSINE, each example is scaled to length 1 first. Without negative examples, the vector is p.
    Raises InvalidArgumentError if the vector is zero.
    """
    towards = _mean(positive, metric)
    combined = towards
    if negative:
        combined = towards + AWAY_FROM_NEGATIVE * (towards - _mean(negative, metric))
    vector = combined.astype(np.float32)
    if length_of(vector) < shortest_length(len(vector)):
        raise InvalidArgumentError(
            "VECTOR_ZERO",
            "query.examples cancel each other out: the query vector is zero; change the examples",
            field="query.examples",
        )
    return vector


def _mean(vectors: Sequence[Vector], metric: Metric) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    matrix = np.asarray(vectors, dtype=np.float64)
    if metric is Metric.COSINE:
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    mean: np.ndarray[tuple[int], np.dtype[np.float64]] = matrix.mean(axis=0)
    return mean
