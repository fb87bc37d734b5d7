"""Region proposals of feature maps."""

import numpy as np
import pytest

from embedder_service.core.heads import HEADS
from embedder_service.core.region_proposals import MAX_OVERLAP, pool, propose, salient_box
from embedder_service.core.types import POOLABLE_HEADS, Region

WHOLE = Region(0, 0, 1, 1)
SHAPES = [(1, 1), (1, 2), (2, 2), (3, 16), (1, 64), (64, 1), (12, 9), (16, 16), (64, 64)]


def random_map(height: int, width: int, channels: int = 8) -> np.ndarray:
    dice = np.random.default_rng(height * 100 + width)
    values: np.ndarray = dice.standard_normal((height, width, channels)).astype(np.float32)
    return values


def overlap(first: Region, second: Region) -> float:
    width = min(first.x1, second.x1) - max(first.x0, second.x0)
    height = min(first.y1, second.y1) - max(first.y0, second.y0)
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box.x1 - box.x0) * (box.y1 - box.y0) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_lie_within_the_image_and_have_an_area(shape: tuple[int, int]) -> None:
    feature_map = random_map(*shape)
    boxes = [proposal.box for proposal in propose(feature_map, 64)] + [salient_box(feature_map)]
    for box in boxes:
        assert 0 <= box.x0 < box.x1 <= 1
        assert 0 <= box.y0 < box.y1 <= 1
    assert len(set(boxes[:-1])) == len(boxes) - 1
    assert WHOLE not in boxes[:-1]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_proposals_do_not_depend_on_their_number(shape: tuple[int, int]) -> None:
    feature_map = random_map(*shape)
    most = propose(feature_map, 64)
    for count in (0, 1, 8, 63):
        assert propose(feature_map, count) == most[:count]
    saliencies = [proposal.saliency for proposal in most]
    assert saliencies == sorted(saliencies, reverse=True)
    assert np.isfinite(saliencies).all()


def test_a_map_of_one_cell_has_no_proposals() -> None:
    assert propose(random_map(1, 1), 64) == []


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 1e-30, 1e15])
def test_a_constant_map_has_proposals_in_a_fixed_order_and_no_salient_part(value: float) -> None:
    feature_map = np.full((9, 12, 512), value, np.float32)
    assert propose(feature_map, 8) == propose(feature_map.copy(), 8)
    assert salient_box(feature_map) == WHOLE


def test_proposals_do_not_overlap_much() -> None:
    boxes = [proposal.box for proposal in propose(random_map(16, 16), 64)]
    for number, box in enumerate(boxes):
        assert all(overlap(box, other) <= MAX_OVERLAP + 1e-6 for other in boxes[:number])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("top", "left", "rows", "columns"), [(2, 3, 6, 6), (8, 0, 4, 8), (0, 10, 7, 4)])
def test_an_object_on_a_flat_background_is_the_first_proposal(
    sign: int, top: int, left: int, rows: int, columns: int
) -> None:
    feature_map = 0.1 * np.abs(random_map(16, 16))
    feature_map[top : top + rows, left : left + columns] += 5
    truth = Region(left / 16, top / 16, (left + columns) / 16, (top + rows) / 16)
    first = propose(sign * feature_map, 8)[0]
    assert overlap(first.box, truth) > 0.6
    assert overlap(salient_box(sign * feature_map), truth) == pytest.approx(1)


@pytest.mark.parametrize("sides", [3, 6, 10, 14])
def test_the_salient_box_fits_objects_of_every_size(sides: int) -> None:
    feature_map = 0.1 * np.abs(random_map(16, 16))
    feature_map[1 : 1 + sides, 2 : 2 + sides] += 1
    assert salient_box(feature_map) == Region(2 / 16, 1 / 16, (2 + sides) / 16, (1 + sides) / 16)


def test_the_salient_box_of_a_large_map_has_its_edges_on_a_grid() -> None:
    feature_map = 0.1 * np.abs(random_map(64, 40))
    feature_map[8:24, 10:30] += 1
    assert salient_box(feature_map) == Region(10 / 40, 8 / 64, 30 / 40, 24 / 64)


def test_a_single_very_active_cell_does_not_hide_an_object() -> None:
    feature_map = 0.1 * np.abs(random_map(16, 16))
    feature_map[2:8, 2:8] += 1
    feature_map[14, 14] += 5
    assert salient_box(feature_map) == Region(2 / 16, 2 / 16, 8 / 16, 8 / 16)


@pytest.mark.parametrize("factor", [1e-20, 1e20])
def test_boxes_and_saliencies_do_not_depend_on_the_scale_of_a_map(factor: float) -> None:
    feature_map = random_map(12, 9)
    scaled = (feature_map * factor).astype(np.float32)
    for plain, other in zip(propose(feature_map, 8), propose(scaled, 8), strict=True):
        assert plain.box == other.box
        assert plain.saliency == pytest.approx(other.saliency, abs=2e-6)
    assert salient_box(feature_map) == salient_box(scaled)


@pytest.mark.parametrize("head", POOLABLE_HEADS)
def test_the_whole_box_has_the_vector_of_the_whole_map(head: str) -> None:
    feature_map = random_map(12, 9)
    np.testing.assert_array_equal(pool(feature_map, WHOLE, HEADS[head]), HEADS[head](feature_map[None])[0])


@pytest.mark.parametrize("head", POOLABLE_HEADS)
def test_a_box_is_pooled_from_the_cells_that_it_touches(head: str) -> None:
    feature_map = random_map(10, 10)
    touched = HEADS[head](feature_map[None, 2:5, 3:7])[0]
    # Edges on the border of a cell, also as float32, do not touch the next cell.
    for box in (Region(0.3, 0.2, 0.7, 0.5), Region(0.35, 0.21, 0.61, 0.41)):
        as_sent = Region(*(float(np.float32(edge)) for edge in (box.x0, box.y0, box.x1, box.y1)))
        np.testing.assert_array_equal(pool(feature_map, as_sent, HEADS[head]), touched)


def test_a_box_within_a_cell_has_the_vector_of_that_cell() -> None:
    feature_map = random_map(4, 4)
    for x0, y0 in ((0.0, 0.0), (0.6, 0.3), (0.99999, 0.99999)):
        vector = pool(feature_map, Region(x0, y0, x0 + 1e-6, y0 + 1e-6), HEADS["max"])
        np.testing.assert_array_equal(vector, feature_map[int(4 * y0), int(4 * x0)])


def test_every_proposal_has_the_vector_of_its_window() -> None:
    feature_map = random_map(12, 9)
    for proposal in propose(feature_map, 64):
        box = proposal.box
        top, bottom, left, right = round(12 * box.y0), round(12 * box.y1), round(9 * box.x0), round(9 * box.x1)
        expected = HEADS["max"](feature_map[None, top:bottom, left:right])[0]
        np.testing.assert_array_equal(pool(feature_map, box, HEADS["max"]), expected)


def test_the_largest_map_has_all_proposals() -> None:
    assert len(propose(random_map(64, 64, 16), 64)) == 64
