"""Exact search: every query compared with every vector, in blocks, so that memory does not grow with their number."""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from imagesearch_client.types import Metric

Vectors: TypeAlias = NDArray[np.float32]
Positions: TypeAlias = NDArray[np.int64]

# Bytes of a block of vectors, and of what is known of all targets for the queries of a batch.
BLOCK_BYTES = 64 * 2**20
BATCH_BYTES = 256 * 2**20
# Of a score, the place in the order and what else is made of each, for one query and one target.
BYTES_OF_PAIR = 32
MOST_QUERIES = 256
# What two ways to compute a cosine, an inner product or a distance may differ by, as a part of it; and what float32
# makes of a score, as a part of that.
TOLERANCE = 1e-5
RESOLUTION = 2 * float(np.finfo(np.float32).eps)


class ExactSearch:
    """Compares queries with vectors as a metric does."""

    def __init__(self, vectors: Vectors, metric: Metric, targets: Positions | None = None) -> None:
        """Prepares a search.

        Args:
            vectors: float32 [N, D], in memory or mapped, as the service holds them.
            metric: how they are compared.
            targets: positions, ascending, of those that may be hits; None is all.
        """
        self._vectors = vectors
        self._metric = metric
        self.targets = np.arange(len(vectors)) if targets is None else targets
        self._is_all = targets is None
        # Distances are the same from anywhere, and exacter near the middle, because less is subtracted from less.
        self._middle = self._mean() if metric is Metric.L2 else None

    @property
    def batch(self) -> int:
        """The queries to be given at a time."""
        return int(np.clip(BATCH_BYTES // (BYTES_OF_PAIR * max(len(self.targets), 1)), 1, MOST_QUERIES))

    def scores(self, queries: Vectors) -> Vectors:
        """How alike queries [Q, D] and targets are, float32 [Q, T], higher for better.

        The cosine or the inner product, or minus the squared distance.
        """
        asked = self._comparable(queries)
        found = np.empty((len(queries), len(self.targets)), np.float32)
        for begin, block in self._blocks():
            part = found[:, begin : begin + len(block)]
            against = self._comparable(block)
            np.matmul(asked, against.T, out=part)
            if self._metric is Metric.L2:
                part *= 2
                part -= _squares(against)
                part -= _squares(asked)[:, None]
        return found

    def as_service(self, scores: Vectors) -> Vectors:
        """Scores as the service tells them: for L2, 1 / (1 + distance); see the contract's Metric."""
        if self._metric is not Metric.L2:
            return scores
        distances = np.sqrt(np.maximum(-scores, 0))
        likeness: Vectors = np.reciprocal(1 + distances)
        return likeness

    def _blocks(self) -> Iterator[tuple[int, Vectors]]:
        rows = max(1, BLOCK_BYTES // (4 * max(self._vectors.shape[1], 1)))
        for begin in range(0, len(self.targets), rows):
            end = min(begin + rows, len(self.targets))
            chosen = slice(begin, end) if self._is_all else self.targets[begin:end]
            yield begin, np.asarray(self._vectors[chosen], np.float32)

    def _comparable(self, vectors: Vectors) -> Vectors:
        if self._middle is not None:
            return vectors - self._middle
        if self._metric is Metric.COSINE:
            lengths: Vectors = np.sqrt(_squares(vectors))[:, None]
            unit: Vectors = np.divide(vectors, np.where(lengths == 0, 1, lengths), dtype=np.float32)
            return unit
        return vectors

    def _mean(self) -> Vectors:
        total = np.zeros(self._vectors.shape[1])
        for _, block in self._blocks():
            total += block.sum(axis=0, dtype=np.float64)
        return (total / max(len(self.targets), 1)).astype(np.float32)


def least_equal(scores: Vectors, metric: Metric) -> Vectors:
    """The least scores that equal these but for rounding, of the same shape; scores are as the service tells them."""
    # A score of L2 is 1 / (1 + distance): where the distance grows by a part, it falls by score * (1 - score) of that.
    steepness = scores * (1 - scores) if metric is Metric.L2 else np.abs(scores)
    return (scores - TOLERANCE * steepness - RESOLUTION * np.abs(scores)).astype(np.float32, copy=False)


def _squares(vectors: Vectors) -> Vectors:
    """The squared length of each, float32 [n]."""
    found: Vectors = np.einsum("nd,nd->n", vectors, vectors)
    return found


def ranked(scores: Vectors, left_out: Sequence[int | None]) -> NDArray[np.intp]:
    """The order of targets for each query, [Q, T]: the best first, and of equal scores the lower place.

    Equal vectors may have scores that differ in the last digit of float32, and then come in either order.

    Args:
        scores: [Q, T]; changed where something is left out.
        left_out: for each query the place of a target that is no hit, and comes last; None where all may be hits.
    """
    for row, place in zip(scores, left_out, strict=True):
        if place is not None:
            row[place] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")
