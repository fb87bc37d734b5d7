"""All pairs, against comparisons in float64 one by one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imagesearch_analysis import nearest as nearest_module
from imagesearch_analysis.nearest import nearest, pairs_above, similarities
from imagesearch_analysis.snapshot import Snapshot
from imagesearch_client import Metric
from tests.unit.analysis.filling import normal, snapshot_of

COUNT = 500


def vectors_with_ties() -> NDArray[np.float32]:
    """Vectors away from the origin, where differences are small, 150 of them equal."""
    vectors = 10 + normal(COUNT, 12)
    # The longest one, so that it is near to all by inner product.
    vectors[5] *= 1.5
    vectors[200:350] = vectors[5]
    return vectors


def exact_scores(vectors: NDArray[np.float32], metric: Metric) -> NDArray[np.float64]:
    """float64[n, n]: straight from the definitions."""
    points = vectors.astype(np.float64)
    if metric is Metric.L2:
        distances = np.linalg.norm(points[:, np.newaxis] - points[np.newaxis], axis=2)
        return np.asarray(1 / (1 + distances))
    products = points @ points.T
    if metric is Metric.IP:
        return np.asarray(products)
    norms = np.linalg.norm(points, axis=1)
    return np.asarray(products / np.outer(norms, norms))


@pytest.fixture(params=Metric, ids=lambda metric: metric.value)
def snapshot(request: pytest.FixtureRequest, tmp_path: Path) -> Snapshot:
    return snapshot_of(tmp_path, vectors_with_ties(), request.param)


@pytest.mark.parametrize("block", [64, 4096])
@pytest.mark.parametrize("with_self", [False, True])
def test_neighbours_are_the_exact_ones_and_ties_are_by_position(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, block: int, *, with_self: bool
) -> None:
    monkeypatch.setattr(nearest_module, "BLOCK_ROWS", block)
    rows = np.arange(190, 260)
    found = nearest(snapshot, snapshot.block(190, 260), 12, but=None if with_self else rows)
    truth = exact_scores(snapshot.vectors, snapshot.metric)
    # Equal vectors have equal scores here, whatever the order of the sums.
    truth[:, 200:350] = truth[:, [5]]
    if not with_self:
        np.fill_diagonal(truth, -np.inf)
    expected = np.argsort(-truth[rows], axis=1, kind="stable")[:, :12]
    scores = np.take_along_axis(truth[rows], expected, axis=1)
    assert found.scores == pytest.approx(scores, rel=1e-6, abs=1e-6)
    tied = (np.abs(np.diff(scores, axis=1)) < 1e-9).any(axis=1)
    assert tied.sum() > 50
    assert (found.positions[tied] == expected[tied]).all()
    assert (np.sort(found.positions) == np.sort(expected)).mean() > 0.99


def test_scores_and_distances_are_as_the_service_defines_them(tmp_path: Path) -> None:
    vectors = np.array([[3, 0], [0, 4], [6, 0]], np.float32)
    expected = {
        Metric.COSINE: ([1, 0], [0, 1]),
        Metric.IP: ([18, 0], [-18, 0]),
        Metric.L2: ([1 / 4, 1 / 6], [3, 5]),
    }
    for metric, (scores, distances) in expected.items():
        with snapshot_of(tmp_path / metric.value, vectors, metric) as snapshot:
            found = nearest(snapshot, snapshot.block(0, 1), 2, but=np.array([0]))
        assert found.positions.tolist() == [[2, 1]]
        assert found.scores[0] == pytest.approx(scores)
        assert found.distances[0] == pytest.approx(distances)


def test_where_there_are_fewer_the_rest_is_empty(tmp_path: Path) -> None:
    with snapshot_of(tmp_path, normal(3, 4)) as snapshot:
        found = nearest(snapshot, snapshot.block(0, 3), 5, but=np.arange(3))
    assert (found.positions[:, :2] >= 0).all()
    assert (found.positions[:, 2:] == -1).all()
    assert np.isnan(found.scores[:, 2:]).all()
    assert np.isnan(found.distances[:, 2:]).all()


@pytest.mark.parametrize("block", [64, 4096])
def test_pairs_above_a_score_are_all_and_once(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(nearest_module, "BLOCK_ROWS", block)
    truth = np.triu(exact_scores(snapshot.vectors, snapshot.metric), 1)
    # In the middle of a gap, so that rounding does not decide.
    some = np.sort(truth[np.triu_indices(COUNT, 1)])[-18_000:-14_000]
    gap = int(np.diff(some).argmax())
    least = float(some[gap : gap + 2].mean())
    told: list[int] = []
    parts = list(pairs_above(snapshot, least, told.append))
    found = {pair for part in parts for pair in zip(part.left.tolist(), part.right.tolist(), strict=True)}
    expected = np.argwhere(truth > least)
    assert sum(len(part.left) for part in parts) == len(found)
    assert found == set(map(tuple, expected[expected[:, 0] < expected[:, 1]].tolist()))
    assert told[-1] == COUNT
    for part in parts:
        again = similarities(snapshot, part.left, part.right)
        assert part.scores == pytest.approx(again, rel=1e-12)
        assert part.scores == pytest.approx(truth[part.left, part.right], rel=1e-6)


def test_pairs_come_in_small_parts_however_much_is_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_module, "SLICE_PAIRS", 5000)
    with snapshot_of(tmp_path, 10 + normal(COUNT, 12)) as snapshot:
        parts = list(pairs_above(snapshot, 0.0))
    assert sum(len(part.left) for part in parts) == COUNT * (COUNT - 1) / 2
    assert max(len(part.left) for part in parts) <= 5000


def test_pairs_among_some_images_are_those_of_all_that_have_both(snapshot: Snapshot) -> None:
    among = np.arange(3, COUNT, 7)
    (every,) = pairs_above(snapshot, 0.05)
    (some,) = pairs_above(snapshot, 0.05, among=among)
    both = np.isin(every.left, among) & np.isin(every.right, among)
    assert some.left.tolist() == every.left[both].tolist()
    assert some.right.tolist() == every.right[both].tolist()
    assert some.scores.tolist() == every.scores[both].tolist()


def test_of_equal_vectors_few_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    exact = nearest_module._exact

    def counting(*arguments: Any) -> Any:
        found = exact(*arguments)
        compared.append(len(found))
        return found

    monkeypatch.setattr(nearest_module, "_exact", counting)
    monkeypatch.setattr(nearest_module, "BLOCK_ROWS", 200)
    with snapshot_of(tmp_path, np.repeat(normal(1, 12), 600, axis=0)) as snapshot:
        found = nearest(snapshot, snapshot.block(0, 100), 3, but=np.arange(100))
    # The first of the others, of which each block has one more than are wanted.
    assert found.positions[[0, 1, 2, 50]].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    assert sum(compared) <= 100 * 4 * 3


def test_equal_vectors_have_a_cosine_of_one(tmp_path: Path) -> None:
    vectors = np.repeat(normal(50, 512), 2, axis=0)
    with snapshot_of(tmp_path, vectors) as snapshot:
        (part,) = pairs_above(snapshot, 1.0)
    assert (part.right - part.left).tolist() == [1] * 50
    assert (part.scores == 1).all()
