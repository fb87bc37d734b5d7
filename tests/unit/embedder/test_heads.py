"""Heads compared with the papers' formulas, computed value by value."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from embedder_service.core.heads import HEADS, regions, unit_length

RANDOM = np.random.default_rng(11)


def feature_maps(*shape: int) -> NDArray[np.float32]:
    """As a network's last ReLU gives them: nothing below zero, and many zeros."""
    return np.maximum(RANDOM.normal(size=shape), 0).astype(np.float32)


def by_formula(head: str, cells: NDArray[np.float64]) -> float:
    """One channel's value of float64[H, W]."""
    values = [float(value) for value in cells.reshape(-1)]
    match head:
        case "avg":
            return math.fsum(values) / len(values)
        case "max":
            return max(values)
        case _:
            return float((math.fsum(max(value, 1e-6) ** 3 for value in values) / len(values)) ** (1 / 3))


@pytest.mark.parametrize("head", ["avg", "max", "gem"])
@pytest.mark.parametrize("shape", [(2, 7, 7, 5), (1, 3, 9, 4), (3, 1, 1, 6)])
def test_a_global_head_computes_its_formula(head: str, shape: tuple[int, int, int, int]) -> None:
    maps = feature_maps(*shape)
    expected = [
        [by_formula(head, maps[n, :, :, c].astype(np.float64)) for c in range(shape[3])] for n in range(shape[0])
    ]
    pooled = HEADS[head](maps)
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, expected, rtol=1e-5, atol=1e-6)


def rmac_by_formula(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """The sum over regions of their maxima scaled to unit length, float32[H, W, C] to float64[C]."""
    total = np.zeros(image.shape[2])
    for top, left, side in regions(*image.shape[:2]):
        maxima = np.array(
            [
                max(float(image[top + y, left + x, c]) for y, x in itertools.product(range(side), repeat=2))
                for c in range(image.shape[2])
            ]
        )
        length = math.sqrt(float((maxima**2).sum()))
        total += maxima / length if length else maxima
    return total


@pytest.mark.parametrize("shape", [(2, 7, 7, 8), (1, 12, 16, 4), (1, 16, 5, 4), (2, 1, 1, 3), (1, 2, 3, 3)])
def test_rmac_computes_its_formula(shape: tuple[int, int, int, int]) -> None:
    maps = feature_maps(*shape)
    np.testing.assert_allclose(HEADS["rmac"](maps), [rmac_by_formula(image) for image in maps], rtol=1e-5, atol=1e-6)


def test_rmac_of_a_map_of_zeros_is_zero() -> None:
    assert not HEADS["rmac"](np.zeros((1, 7, 7, 3), np.float32)).any()


# As the paper counts them: l (l + m - 1) at the scales l = 1, 2, 3, with m regions along the longer side.
@pytest.mark.parametrize(
    ("height", "width", "along"), [(7, 7, 1), (24, 32, 2), (32, 24, 2), (21, 32, 2), (16, 32, 3), (10, 32, 5)]
)
def test_rmac_has_the_papers_number_of_regions(height: int, width: int, along: int) -> None:
    found = list(regions(height, width))
    sides = [2 * min(height, width) // (scale + 1) for scale in (1, 2, 3)]
    counts = [sum(side == each for _, _, side in found) for each in sides]
    assert counts == [scale * (scale + along - 1) for scale in (1, 2, 3)]
    assert sum(counts) == len(found)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (24, 32), (32, 9), (1, 1), (1, 40), (3, 2)])
def test_regions_lie_within_the_map_and_reach_all_of_its_edges(height: int, width: int) -> None:
    found = list(regions(height, width))
    for top, left, side in found:
        assert side >= 1
        assert 0 <= top <= height - side
        assert 0 <= left <= width - side
    if max(height, width) <= 6 * min(height, width):
        covered = np.zeros((height, width), bool)
        for top, left, side in found:
            covered[top : top + side, left : left + side] = True
        assert covered.all()


def test_neighbors_at_the_first_scale_overlap_by_about_two_fifths() -> None:
    lefts = sorted(left for _, left, side in regions(24, 40) if side == 24)
    overlaps = [1 - (right - left) / 24 for left, right in itertools.pairwise(lefts)]
    assert overlaps == pytest.approx([0.4] * len(overlaps), abs=0.3)


def test_flatten_keeps_every_value_rows_first() -> None:
    maps = feature_maps(2, 3, 4, 5)
    flat = HEADS["flatten"](maps)
    assert flat.shape == (2, 60)
    assert flat[1, (2 * 4 + 3) * 5 + 1] == maps[1, 2, 3, 1]


def test_unit_length_does_not_change_zeros() -> None:
    scaled = unit_length(np.array([[3, 4], [0, 0]], np.float32))
    np.testing.assert_allclose(scaled, np.array([[0.6, 0.8], [0, 0]]), rtol=1e-6)


def test_unit_length_holds_for_very_short_and_very_long_rows() -> None:
    rows = np.array([[3e-30, 4e-30], [3e-8, 4e-8], [3e25, -4e25], [3e38, 0]], np.float32)
    scaled = unit_length(rows)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, np.array([[0.6, 0.8], [0.6, 0.8], [0.6, -0.8], [1, 0]]), rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_unit_length_keeps_values_that_are_not_finite(value: float) -> None:
    scaled = unit_length(np.array([[1, value], [3, 4]], np.float32))
    assert not np.isfinite(scaled[0]).all()
    np.testing.assert_allclose(scaled[1], [0.6, 0.8], rtol=1e-6)
