"""Proposes regions of an image from its feature map, without a detector.

Cells with strong activations are salient: SCDA sums a map over its channels (Wei et al., 2017, section III-A). Windows
of several sizes and aspect ratios slide over the map. A window is good if it is more salient than the whole image, and
large. Overlapping windows are suppressed. The decision on region proposals in the documentation has the measurements.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedder_service.core.heads import FeatureMaps
from embedder_service.core.types import Region, Vectors

# Rows (top, left, bottom, right) in cells.
Windows: TypeAlias = NDArray[np.int64]

# The geometric mean of a window's sides, as a part of the map's shorter side.
SIZES = (0.3, 0.42, 0.6, 0.85)
# Width over height of a window.
ASPECTS = (0.5, 1.0, 2.0)
# Intersection over union above which a window suppresses a less salient one.
MAX_OVERLAP = 0.4
# Edges of boxes are float32 in messages, so an edge on the border of a cell may be this much beyond it, in cells.
EDGE = 1e-4
# Maximum number of steps between the edges of salient boxes, in each direction.
GRID = 16
WHOLE_IMAGE = Region(0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Proposal:
    """A box and its saliency."""

    box: Region
    saliency: float


def pool(feature_map: FeatureMaps, box: Region, head: Callable[[FeatureMaps], Vectors]) -> Vectors:
    """Return the head's vector, float32[D], of the cells of float32[H, W, C] that a box touches, at least one."""
    height, width = feature_map.shape[:2]
    left, right = _cells(box.x0, box.x1, width)
    top, bottom = _cells(box.y0, box.y1, height)
    vector: Vectors = head(feature_map[None, top:bottom, left:right])[0]
    return vector


def _cells(begin: float, end: float, count: int) -> tuple[int, int]:
    """Return the first cell that a part of 0..1 touches, and the cell after the last one."""
    first = min(math.floor(begin * count + EDGE), count - 1)
    return first, max(first + 1, math.ceil(end * count - EDGE))


def propose(feature_map: FeatureMaps, max_regions: int) -> list[Proposal]:
    """Return at most `max_regions` boxes of a feature map, float32[H, W, C], the best first.

    The saliency of a window is sqrt(its area / the map's area) * (its mean saliency / the map's mean saliency - 1). The
    whole map is no proposal. The boxes for a lower `max_regions` are the first ones of those for a higher one.
    """
    saliency = saliency_map(feature_map)
    height, width = saliency.shape
    windows = _windows(height, width)
    if max_regions <= 0 or not len(windows):
        return []
    scores = _scores(saliency, windows)
    proposals: list[Proposal] = []
    remaining = scores.copy()
    # Of equal windows, argmax takes the first one.
    while len(proposals) < max_regions and remaining[best := int(np.argmax(remaining))] > -np.inf:
        proposals.append(Proposal(_box(windows[best].tolist(), height, width), float(scores[best])))
        remaining[_overlaps(windows, windows[best]) > MAX_OVERLAP] = -np.inf
    return proposals


def saliency_map(feature_map: FeatureMaps) -> FeatureMaps:
    """Return the saliency of each cell, float32[H, W]: the square root of the length of its vector.

    A length also suits networks with negative activations. The root reduces the weight of single very active cells.
    """
    # Ten times as fast as numpy.linalg.norm, which copies the map.
    squares = np.einsum("hwc,hwc->hw", feature_map, feature_map, dtype=np.float64)
    roots: FeatureMaps = np.sqrt(np.sqrt(squares).astype(np.float32))
    return roots


def _scores(saliency: FeatureMaps, windows: Windows) -> NDArray[np.float64]:
    """Return the saliency of each window, as `propose` defines it."""
    height, width = saliency.shape
    # sums[y, x] is the sum of the cells above row y and left of column x.
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = saliency.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    top, left, bottom, right = windows.T
    cells = (bottom - top) * (right - left)
    inside = (sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]) / cells
    # The mean is 0 if all cells are 0.
    mean = sums[height, width] / (height * width) or 1.0
    scores: NDArray[np.float64] = np.sqrt(cells / (height * width)) * (inside - mean) / mean
    # Rounding must not decide between windows of a constant map.
    return np.round(scores, 6)


@lru_cache(maxsize=64)
def _windows(height: int, width: int) -> Windows:
    """Return all windows, each once and in a fixed order, without the whole map."""
    shorter = min(height, width)
    found = set()
    for size in SIZES:
        for aspect in ASPECTS:
            rows = min(height, max(1, round(size * shorter / math.sqrt(aspect))))
            columns = min(width, max(1, round(size * shorter * math.sqrt(aspect))))
            if (rows, columns) != (height, width):
                found |= {
                    (top, left, top + rows, left + columns)
                    for top in range(height - rows + 1)
                    for left in range(width - columns + 1)
                }
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 4)


def _overlaps(windows: Windows, other: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the intersection over union of each window with another one."""
    top, left, bottom, right = windows.T
    rows = np.minimum(bottom, other[2]) - np.maximum(top, other[0])
    columns = np.minimum(right, other[3]) - np.maximum(left, other[1])
    shared = np.maximum(rows, 0) * np.maximum(columns, 0)
    areas = (bottom - top) * (right - left)
    own = (other[2] - other[0]) * (other[3] - other[1])
    overlaps: NDArray[np.float64] = shared / (areas + own - shared)
    return overlaps


def _box(window: Sequence[int], height: int, width: int) -> Region:
    top, left, bottom, right = window
    return Region(float(left / width), float(top / height), float(right / width), float(bottom / height))


def salient_box(feature_map: FeatureMaps) -> Region:
    """Return the box that separates salient cells from the rest best; the whole image if no box stands out.

    It is the box of cells with the highest between-class variance of inside and outside (Otsu, 1979, equation 14). So
    it fits small and large objects.
    """
    saliency = saliency_map(feature_map)
    height, width = saliency.shape
    boxes = _all_boxes(height, width)
    scores = _scores(saliency, boxes)
    if not len(boxes) or scores.max() <= 0:
        return WHOLE_IMAGE
    top, left, bottom, right = boxes.T
    # With the part of the area outside as divisor, the square is the between-class variance over the squared mean.
    outside = 1 - (bottom - top) * (right - left) / (height * width)
    return _box(boxes[int(np.argmax(np.round(scores / np.sqrt(outside), 6)))].tolist(), height, width)


@lru_cache(maxsize=16)
def _all_boxes(height: int, width: int) -> Windows:
    """Return all boxes, without the whole map. On a large map, their edges are on a grid of `GRID` steps."""
    (top, bottom), (left, right) = _intervals(height), _intervals(width)
    rows, columns = np.indices((len(top), len(left))).reshape(2, -1)
    boxes = np.stack([top[rows], left[columns], bottom[rows], right[columns]], axis=1)
    candidates: Windows = boxes[(boxes != (0, 0, height, width)).any(axis=1)]
    return candidates


def _intervals(cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the begins and ends of all intervals between the edges of the grid."""
    steps = min(cells, GRID)
    edges = np.arange(steps + 1) * cells // steps
    begins, ends = np.triu_indices(steps + 1, k=1)
    return edges[begins], edges[ends]
