"""Heads: compute a vector from a backbone's last feature map, float32[N, H, W, C] to float32[N, D]."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedder_service.core.types import Vectors

FeatureMaps: TypeAlias = NDArray[np.float32]

# Exponent of generalized-mean pooling if it is not learned (Radenovic et al., 2018, section 3.1).
GEM_P = 3.0
# Minimum value before GeM computes powers and roots.
GEM_MIN = 1e-6
RMAC_SCALES = 3
RMAC_OVERLAP = 0.4
RMAC_MAX_STEPS = 6
MIN_SQUARED_LENGTH = 1e-12


def average(maps: FeatureMaps) -> Vectors:
    """Return the mean of each channel (SPoC: Babenko and Lempitsky, 2015). D = C."""
    vectors: Vectors = maps.mean(axis=(1, 2), dtype=np.float32)
    return vectors


def maximum(maps: FeatureMaps) -> Vectors:
    """Return the maximum of each channel (MAC: Tolias et al., 2016). D = C."""
    vectors: Vectors = maps.max(axis=(1, 2))
    return vectors


def generalized_mean(maps: FeatureMaps) -> Vectors:
    """Return the cube root of the mean cube of each channel (GeM: Radenovic et al., 2018, equation 3). D = C."""
    means = np.power(np.maximum(maps, GEM_MIN), GEM_P).mean(axis=(1, 2))
    vectors: Vectors = np.power(means, 1 / GEM_P).astype(np.float32)
    return vectors


def regional_maximum(maps: FeatureMaps) -> Vectors:
    """Return the sum of the maxima of square regions, each scaled to unit length (R-MAC: Tolias et al., 2016). D = C.

    This omits the paper's whitening, which is learned on a collection.
    """
    height, width = maps.shape[1:3]
    total = np.zeros((maps.shape[0], maps.shape[3]), np.float32)
    for top, left, side in regions(height, width):
        total += unit_length(maximum(maps[:, top : top + side, left : left + side]))
    return total


def regions(height: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Yield the square regions of R-MAC as (top, left, side), in cells (Tolias et al., 2016, section 3.2).

    At scale l = 1, 2, 3 the side is 2 min(H, W) / (l + 1). There are l regions along the shorter side, and l + m - 1
    along the longer side. The number m brings the overlap of neighbors at the first scale closest to 40 %. A square
    map has 1 + 4 + 9 regions.
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
    """Return the number of regions along the longer side at the first scale, m."""
    if shorter == longer:
        return 1

    def overlap_error(count: int) -> float:
        return abs(1 - (longer - shorter) / (count - 1) / shorter - RMAC_OVERLAP)

    return min(range(2, RMAC_MAX_STEPS + 2), key=overlap_error)


def _starts(length: int, side: int, count: int) -> list[int]:
    if count == 1:
        return [(length - side) // 2]
    return [math.floor(k * (length - side) / (count - 1)) for k in range(count)]


def flatten(maps: FeatureMaps) -> Vectors:
    """Return all values in the order of Keras' Flatten, rows first. D = H x W x C."""
    return maps.reshape(len(maps), -1)


def unit_length(vectors: Vectors) -> Vectors:
    """Divide each row by its Euclidean length. Rows of zeros, or with values that are not finite, stay so."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.square(vectors, dtype=np.float32).sum(axis=1, keepdims=True)
        scaled: Vectors = vectors / np.sqrt(np.maximum(squares, np.float32(MIN_SQUARED_LENGTH)))
        # The squares of very short and very long rows exceed the range of float32.
        out_of_range = ~((squares >= MIN_SQUARED_LENGTH) & np.isfinite(squares))[:, 0]
        if out_of_range.any():
            wide = vectors[out_of_range].astype(np.float64)
            lengths = np.linalg.norm(wide, axis=1, keepdims=True)
            scaled[out_of_range] = wide / np.where(lengths == 0, 1.0, lengths)
    return scaled


HEADS: Mapping[str, Callable[[FeatureMaps], Vectors]] = {
    "avg": average,
    "max": maximum,
    "gem": generalized_mean,
    "rmac": regional_maximum,
    "flatten": flatten,
}
