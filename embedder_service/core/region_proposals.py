"""Proposes regions of an image from its feature map, without a detector.

The sum of a feature map over its channels is a saliency map (SCDA: Wei et al., 2017). Windows of several sizes and
aspect ratios are scored by their mean saliency, and overlapping windows are suppressed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from embedder_service.core.heads import FeatureMaps
from embedder_service.core.types import Region, Vectors

# The geometric mean of a window's sides, as a part of the image's shorter side.
SIZES = (0.3, 0.42, 0.6, 0.85)
# Width over height of a window.
ASPECTS = (0.5, 1.0, 2.0)
# Intersection over union above which a window suppresses a less salient one.
MAX_OVERLAP = 0.4


@dataclass(frozen=True)
class Proposal:
    """A box and its saliency."""

    box: Region
    saliency: float


def pool(feature_map: FeatureMaps, box: Region, head: Callable[[FeatureMaps], Vectors]) -> Vectors:
    """Return the head's vector, float32[D], of the cells of float32[H, W, C] that a box touches."""
    height, width = feature_map.shape[:2]
    left, right = cells(box.x0, box.x1, width)
    top, bottom = cells(box.y0, box.y1, height)
    vector: Vectors = head(feature_map[None, top:bottom, left:right])[0]
    return vector


def cells(begin: float, end: float, count: int) -> tuple[int, int]:
    """Return the first cell that a part of 0..1 touches, and the cell after the last; at least one cell."""
    # A float32 edge of a cell must not touch the next cell.
    first = min(math.floor(begin * count + 1e-4), count - 1)
    return first, max(first + 1, math.ceil(end * count - 1e-4))


def saliency_map(feature_map: FeatureMaps) -> FeatureMaps:
    """Return the saliency of each cell, float32[H, W]: the sum of its channels without negative values."""
    summed: FeatureMaps = np.maximum(feature_map, 0).sum(axis=2, dtype=np.float32)
    return summed


def propose(feature_map: FeatureMaps, max_regions: int) -> list[Proposal]:
    """Return at most `max_regions` boxes, the most salient first. The whole image is not among them.

    The score of a window is the square root of its area times the difference between its mean saliency and that of the
    whole image. Each window suppresses later ones with which its intersection over union is above MAX_OVERLAP.
    """
    if max_regions <= 0:
        return []
    saliency = saliency_map(feature_map)
    height, width = saliency.shape
    windows = _windows(height, width)
    if not len(windows):
        return []
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = saliency.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    top, left, bottom, right = windows.T
    areas = (bottom - top) * (right - left)
    means = (sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]) / areas
    scores = np.sqrt(areas / (height * width)) * (means - float(saliency.mean()))
    order = np.argsort(-scores, kind="stable")
    chosen: list[int] = []
    for number in order.tolist():
        if len(chosen) == max_regions:
            break
        if all(_overlap(windows[number], windows[other]) <= MAX_OVERLAP for other in chosen):
            chosen.append(number)
    return [
        Proposal(Region(left[n] / width, top[n] / height, right[n] / width, bottom[n] / height), float(means[n]))
        for n in chosen
    ]


def _windows(height: int, width: int) -> "np.ndarray[tuple[int, int], np.dtype[np.int64]]":
    """Return the windows as rows (top, left, bottom, right) in cells, each once, in a fixed order."""
    shorter = min(height, width)
    found = set()
    for size in SIZES:
        for aspect in ASPECTS:
            rows = min(height, max(1, round(size * shorter / math.sqrt(aspect))))
            columns = min(width, max(1, round(size * shorter * math.sqrt(aspect))))
            if (rows, columns) == (height, width):
                continue
            for top in range(height - rows + 1):
                for left in range(width - columns + 1):
                    found.add((top, left, top + rows, left + columns))
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 4)


def _overlap(first: Sequence[int], second: Sequence[int]) -> float:
    """Return the intersection over union of two windows."""
    rows = min(first[2], second[2]) - max(first[0], second[0])
    columns = min(first[3], second[3]) - max(first[1], second[1])
    if rows <= 0 or columns <= 0:
        return 0.0
    both = rows * columns
    areas = [(window[2] - window[0]) * (window[3] - window[1]) for window in (first, second)]
    return float(both / (areas[0] + areas[1] - both))


def salient_box(feature_map: FeatureMaps) -> Region:
    """Return the box round the cells with more than the mean saliency; the whole image if there are none."""
    saliency = saliency_map(feature_map)
    rows, columns = np.nonzero(saliency > saliency.mean())
    if not len(rows):
        return Region(0.0, 0.0, 1.0, 1.0)
    height, width = saliency.shape
    return Region(
        float(columns.min() / width),
        float(rows.min() / height),
        float((columns.max() + 1) / width),
        float((rows.max() + 1) / height),
    )
