"""Vectors with a metric that are read in blocks, and the array types of this package."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from imagesearch_client.types import Match, Metric

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Positions: TypeAlias = NDArray[np.int64]

FLOAT = np.dtype("<f4")
# A block has at most this many vectors, and at most this many bytes.
BLOCK_ROWS, BLOCK_BYTES = 4096, 32 * 1024 * 1024


class VectorSet(Protocol):
    """Vectors of one dimension with a metric. A position is the index of a vector, from 0."""

    @property
    def metric(self) -> Metric:
        """The metric that compares the vectors."""

    @property
    def dimension(self) -> int:
        """The number of components of each vector."""

    def __len__(self) -> int: ...

    def block(self, begin: int, end: int) -> Floats:
        """Return float32[at most end - begin, dimension]: consecutive vectors as the metric compares them."""

    def at(self, positions: Positions) -> Floats:
        """Return float32[len(positions), dimension]: the vectors at positions as the metric compares them."""


@dataclass(frozen=True)
class ArrayVectors:
    """A VectorSet on an array, in memory or memory-mapped."""

    values: Floats
    """float32[N, dimension], not normalized."""
    metric: Metric

    @property
    def dimension(self) -> int:
        """The number of components of each vector."""
        return int(self.values.shape[1])

    def __len__(self) -> int:
        return len(self.values)

    def block(self, begin: int, end: int) -> Floats:
        """Return float32[at most end - begin, dimension]: consecutive vectors as the metric compares them."""
        return comparable(np.asarray(self.values[begin:end]), self.metric)

    def at(self, positions: Positions) -> Floats:
        """Return float32[len(positions), dimension]: the vectors at positions as the metric compares them."""
        return comparable(np.asarray(self.values[positions]), self.metric)


@dataclass(frozen=True)
class PartedVectors:
    """Images with several vectors: their own and those of their regions. It is a `VectorSet` of their own vectors.

    A hit of an image has the score of the best of its compared vectors.
    """

    values: Floats
    """float32[N, 1 + regions, dimension], not normalized: first the image's own vector. Missing regions are zero."""
    metric: Metric
    match: Match
    """What is compared: regions, or the image and its regions."""

    @property
    def dimension(self) -> int:
        """The number of components of each vector."""
        return int(self.values.shape[2])

    def __len__(self) -> int:
        return len(self.values)

    def block(self, begin: int, end: int) -> Floats:
        """Return float32[at most end - begin, dimension]: the own vectors of consecutive images."""
        return comparable(np.asarray(self.values[begin:end, 0]), self.metric)

    def at(self, positions: Positions) -> Floats:
        """Return float32[len(positions), dimension]: the own vectors of the images at positions."""
        return comparable(np.asarray(self.values[positions, 0]), self.metric)

    @property
    def parts_per_image(self) -> int:
        """The number of compared vectors of each image."""
        return int(self.values.shape[1]) - (self.match is Match.REGIONS)

    def parts(self, positions: Positions) -> Floats:
        """Return float32[len(positions) * parts_per_image, dimension]: the compared vectors; missing ones are zero."""
        first = 1 if self.match is Match.REGIONS else 0
        return comparable(np.asarray(self.values[positions, first:]).reshape(-1, self.dimension), self.metric)


def comparable(vectors: Floats, metric: Metric) -> Floats:
    """Return float32[n, dimension]: vectors as a metric compares them, scaled to unit length for COSINE."""
    if metric is not Metric.COSINE:
        return vectors
    norms: Floats = np.linalg.norm(vectors, axis=1, keepdims=True)
    norms[norms == 0] = 1
    return vectors / norms


def block_rows(dimension: int) -> int:
    """Return the number of vectors in a block."""
    return max(1, min(BLOCK_ROWS, BLOCK_BYTES // (FLOAT.itemsize * dimension)))


def blocks(vectors: VectorSet) -> Iterator[tuple[int, Floats]]:
    """Return all vectors in blocks, each with the position of its first vector."""
    rows = block_rows(vectors.dimension)
    return ((begin, vectors.block(begin, begin + rows)) for begin in range(0, len(vectors), rows))


def sample_positions(count: int, limit: int | None, seed: int) -> Positions:
    """Return int64[at most limit]: a random sample of the positions below `count`, ascending; all if limit is None."""
    if limit is None or count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, limit, replace=False))
