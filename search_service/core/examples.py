"""A query by examples: the one vector that stands for images to be like and images to be unlike."""

from collections.abc import Sequence

import numpy as np

from grpc_kit.errors import InvalidArgumentError
from search_service.core.checks import length_of, shortest_length
from search_service.core.types import Metric, Vector

# Rocchio's formula with the weights of Manning, Raghavan and Schütze, Introduction to Information Retrieval (2008),
# section 9.1.1, beta = 0.75 and gamma = 0.15, less its common factor: only the ratio of the weights changes an order
# of cosines. Written so that the weights add up to 1, it holds for points in space (L2) too.
AWAY_FROM_NEGATIVE = 0.25
MAX_EXAMPLES = 32


def vector_of_examples(positive: Sequence[Vector], negative: Sequence[Vector], metric: Metric) -> Vector:
    """`p + 0.25 (p - n)`, where p and n are the means of the positive and the negative examples, as float32[D].

    For COSINE each example is scaled to length 1 first. Without negative examples it is p. Raises
    InvalidArgumentError where the examples cancel out.
    """
    towards = _mean(positive, metric)
    combined = towards
    if negative:
        combined = towards + AWAY_FROM_NEGATIVE * (towards - _mean(negative, metric))
    vector = combined.astype(np.float32)
    if length_of(vector) < shortest_length(len(vector)):
        raise InvalidArgumentError(
            "VECTOR_ZERO",
            "query.examples cancel each other out: their vector is zero, and is like nothing",
            field="query.examples",
        )
    return vector


def _mean(vectors: Sequence[Vector], metric: Metric) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    matrix = np.asarray(vectors, dtype=np.float64)
    if metric is Metric.COSINE:
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    mean: np.ndarray[tuple[int], np.dtype[np.float64]] = matrix.mean(axis=0)
    return mean
