"""What makes one vector of a network's last feature map, float32[N, H, W, C] to float32[N, D]."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedder_service.core.types import Vectors

FeatureMaps: TypeAlias = NDArray[np.float32]

# The usual exponent of generalized-mean pooling where it is not learned (Radenovic et al., 2018, section 3.1).
GEM_P = 3.0
# GeM's roots need values above zero.
GEM_LEAST = 1e-6
RMAC_SCALES = 3
RMAC_OVERLAP = 0.4
RMAC_MOST_STEPS = 6
LEAST_SQUARE = 1e-12


def average(maps: FeatureMaps) -> Vectors:
    """The mean of each channel (SPoC: Babenko and Lempitsky, 2015). D = C."""
    vectors: Vectors = maps.mean(axis=(1, 2), dtype=np.float32)
    return vectors


def maximum(maps: FeatureMaps) -> Vectors:
    """The maximum of each channel (MAC: Tolias et al., 2016). D = C."""
    vectors: Vectors = maps.max(axis=(1, 2))
    return vectors


def generalized_mean(maps: FeatureMaps) -> Vectors:
    """The third root of the mean of the third powers (GeM: Radenovic et al., 2018, equation 3). D = C."""
    means = np.power(np.maximum(maps, GEM_LEAST), GEM_P).mean(axis=(1, 2))
    vectors: Vectors = np.power(means, 1 / GEM_P).astype(np.float32)
    return vectors


def regional_maximum(maps: FeatureMaps) -> Vectors:
    """The sum of the maxima of square regions, each of unit length first (R-MAC: Tolias et al., 2016). D = C.

    Without the paper's whitening, which is learned on a collection.
    """
    height, width = maps.shape[1:3]
    total = np.zeros((maps.shape[0], maps.shape[3]), np.float32)
    for top, left, side in regions(height, width):
        total += unit_length(maximum(maps[:, top : top + side, left : left + side]))
    return total


def regions(height: int, width: int) -> Iterator[tuple[int, int, int]]:
    """The square regions of R-MAC as (top, left, side), in cells of a map (Tolias et al., 2016, section 3.2).

    At scale l = 1, 2, 3 the side is 2 min(H, W) / (l + 1), with l regions along the shorter side and l + m - 1 along
    the longer one, where m is such that neighbours at the first scale overlap by as near to 40 % as can be. A square
    map has 1 + 4 + 9 of them.
    """
    shorter, longer = min(height, width), max(height, width)
    along = _regions_along(shorter, longer)
    for scale in range(1, RMAC_SCALES + 1):
        side = max(1, 2 * shorter // (scale + 1))
        down, across = (scale, scale + along - 1) if width >= height else (scale + along - 1, scale)
        for top in _starts(height, side, down):
            for left in _starts(width, side, across):
                yield top, left, side


def _regions_along(shorter: int, longer: int) -> int:
    """How many regions of the shorter side's size lie along the longer one."""
    if shorter == longer:
        return 1

    def misses(count: int) -> float:
        return abs(1 - (longer - shorter) / (count - 1) / shorter - RMAC_OVERLAP)

    return min(range(2, RMAC_MOST_STEPS + 2), key=misses)


def _starts(length: int, side: int, count: int) -> list[int]:
    if count == 1:
        return [(length - side) // 2]
    return [math.floor(k * (length - side) / (count - 1)) for k in range(count)]


def flatten(maps: FeatureMaps) -> Vectors:
    """All values, rows first, as Keras' Flatten has them. D = H x W x C."""
    return maps.reshape(len(maps), -1)


def unit_length(vectors: Vectors) -> Vectors:
    """Divide each row by its Euclidean length; rows of zeros or of values that are not finite stay so."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.square(vectors, dtype=np.float32).sum(axis=1, keepdims=True)
        scaled: Vectors = vectors / np.sqrt(np.maximum(squares, np.float32(LEAST_SQUARE)))
        # Float32 cannot hold the squares of very short and very long rows.
        lost = ~((squares >= LEAST_SQUARE) & np.isfinite(squares))[:, 0]
        if lost.any():
            wide = vectors[lost].astype(np.float64)
            lengths = np.linalg.norm(wide, axis=1, keepdims=True)
            scaled[lost] = wide / np.where(lengths == 0, 1.0, lengths)
    return scaled


POOLINGS: Mapping[str, Callable[[FeatureMaps], Vectors]] = {
    "avg": average,
    "max": maximum,
    "gem": generalized_mean,
    "rmac": regional_maximum,
    "flatten": flatten,
}
