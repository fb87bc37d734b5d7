"""Exact search against the definitions of the scores in float64."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imagesearch_analysis import exact_search
from imagesearch_analysis import vectors as vectors_module
from imagesearch_analysis.exact_search import (
    NO_POSITION,
    nearest,
    pairs_above,
    rank_all,
    ranked_queries,
    scores_of_pairs,
)
from imagesearch_analysis.snapshot import Snapshot
from imagesearch_analysis.vectors import ArrayVectors, PartedVectors, Positions
from imagesearch_client import Match, Metric
from tests.unit.analysis.snapshots import normal, snapshot_of

COUNT = 500


def vectors_with_ties() -> NDArray[np.float32]:
    """Return vectors far from the origin, where differences are small; 150 of them are equal."""
    vectors = 10 + normal(COUNT, 12)
    # The longest vector is the nearest to all by inner product.
    vectors[5] *= 1.5
    vectors[200:350] = vectors[5]
    return vectors


def exact_scores(vectors: NDArray[np.float32], metric: Metric) -> NDArray[np.float64]:
    """Return float64[n, n]: the scores by their definitions."""
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
def test_neighbors_are_exact_and_ties_are_ordered_by_position(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, block: int, *, with_self: bool
) -> None:
    monkeypatch.setattr(vectors_module, "BLOCK_ROWS", block)
    rows = np.arange(190, 260)
    found = nearest(snapshot, snapshot.block(190, 260), 12, excluded=None if with_self else rows)
    truth = exact_scores(snapshot.vectors, snapshot.metric)
    # Give equal vectors equal scores; the order of sums would make them differ.
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


def test_scores_and_distances_are_those_of_the_service(tmp_path: Path) -> None:
    vectors = np.array([[3, 0], [0, 4], [6, 0]], np.float32)
    expected = {
        Metric.COSINE: ([1, 0], [0, 1]),
        Metric.IP: ([18, 0], [-18, 0]),
        Metric.L2: ([1 / 4, 1 / 6], [3, 5]),
    }
    for metric, (scores, distances) in expected.items():
        with snapshot_of(tmp_path / metric.value, vectors, metric) as snapshot:
            found = nearest(snapshot, snapshot.block(0, 1), 2, excluded=np.array([0]))
        assert found.positions.tolist() == [[2, 1]]
        assert found.scores[0] == pytest.approx(scores)
        assert found.distances[0] == pytest.approx(distances)


def test_missing_neighbors_have_no_position_and_no_score(tmp_path: Path) -> None:
    with snapshot_of(tmp_path, normal(3, 4)) as snapshot:
        found = nearest(snapshot, snapshot.block(0, 3), 5, excluded=np.arange(3))
    assert (found.positions[:, :2] >= 0).all()
    assert (found.positions[:, 2:] == NO_POSITION).all()
    assert np.isnan(found.scores[:, 2:]).all()
    assert np.isnan(found.distances[:, 2:]).all()


@pytest.mark.parametrize("block", [64, 4096])
def test_all_pairs_above_a_score_are_returned_once(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(vectors_module, "BLOCK_ROWS", block)
    truth = np.triu(exact_scores(snapshot.vectors, snapshot.metric), 1)
    # The score is in the middle of a gap, so rounding does not matter.
    some = np.sort(truth[np.triu_indices(COUNT, 1)])[-18_000:-14_000]
    gap = int(np.diff(some).argmax())
    least = float(some[gap : gap + 2].mean())
    progress: list[int] = []
    parts = list(pairs_above(snapshot, least, progress.append))
    found = {pair for part in parts for pair in zip(part.left.tolist(), part.right.tolist(), strict=True)}
    expected = np.argwhere(truth > least)
    assert sum(len(part.left) for part in parts) == len(found)
    assert found == set(map(tuple, expected[expected[:, 0] < expected[:, 1]].tolist()))
    assert progress[-1] == COUNT
    for part in parts:
        again = scores_of_pairs(snapshot, part.left, part.right)
        assert part.scores == pytest.approx(again, rel=1e-12)
        assert part.scores == pytest.approx(truth[part.left, part.right], rel=1e-6)


def test_pairs_come_in_small_parts_even_if_all_images_are_similar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact_search, "SLICE_PAIRS", 5000)
    with snapshot_of(tmp_path, 10 + normal(COUNT, 12)) as snapshot:
        parts = list(pairs_above(snapshot, 0.0))
    assert sum(len(part.left) for part in parts) == COUNT * (COUNT - 1) / 2
    assert max(len(part.left) for part in parts) <= 5000


def test_pairs_among_positions_are_the_pairs_of_all_with_both_positions(snapshot: Snapshot) -> None:
    among = np.arange(3, COUNT, 7)
    (every,) = pairs_above(snapshot, 0.05)
    (some,) = pairs_above(snapshot, 0.05, among=among)
    both = np.isin(every.left, among) & np.isin(every.right, among)
    assert some.left.tolist() == every.left[both].tolist()
    assert some.right.tolist() == every.right[both].tolist()
    assert some.scores.tolist() == every.scores[both].tolist()


def test_only_few_of_many_equal_vectors_are_compared_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    exact = exact_search._exact_closeness

    def counting(*arguments: Any) -> Any:
        found = exact(*arguments)
        compared.append(len(found))
        return found

    monkeypatch.setattr(exact_search, "_exact_closeness", counting)
    monkeypatch.setattr(vectors_module, "BLOCK_ROWS", 200)
    with snapshot_of(tmp_path, np.repeat(normal(1, 12), 600, axis=0)) as snapshot:
        found = nearest(snapshot, snapshot.block(0, 100), 3, excluded=np.arange(100))
    # Each block compares one vector more than the three that are requested.
    assert found.positions[[0, 1, 2, 50]].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    assert sum(compared) <= 100 * 4 * 3


def test_equal_vectors_have_the_cosine_one(tmp_path: Path) -> None:
    vectors = np.repeat(normal(50, 512), 2, axis=0)
    with snapshot_of(tmp_path, vectors) as snapshot:
        (part,) = pairs_above(snapshot, 1.0)
    assert (part.right - part.left).tolist() == [1] * 50
    assert (part.scores == 1).all()


def ranked(
    vectors: NDArray[np.float32], metric: Metric, queries: int, targets: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the order of all targets for the first vectors as queries, and the ten nearest with their scores."""
    found = ArrayVectors(vectors, metric)
    ranking = rank_all(found, found.block(0, queries), 10, targets, np.full(queries, NO_POSITION))
    return ranking.order, ranking.nearest.positions, ranking.nearest.scores


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("block", [1, 64, 4096])
def test_the_ranking_of_all_vectors_is_that_of_the_definitions(
    metric: Metric, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors_module, "BLOCK_ROWS", block)
    vectors = np.random.default_rng(1).normal(30, 1, size=(300, 24)).astype(np.float32)
    order, positions, scores = ranked(vectors, metric, 20)
    truth = exact_scores(vectors, metric)[:20]
    expected = np.argsort(-truth, axis=1, kind="stable")
    assert np.array_equal(order[:, :10], expected[:, :10])
    assert np.array_equal(positions, expected[:, :10])
    ranked_scores = np.take_along_axis(truth, order, axis=1)
    assert (np.diff(ranked_scores, axis=1) <= 1e-7 * np.abs(ranked_scores[:, 1:])).all()
    assert scores == pytest.approx(ranked_scores[:, :10], rel=1e-6)


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("scale", [1e-15, 1, 1e15])
def test_equal_vectors_rank_by_position_at_any_length(metric: Metric, scale: float) -> None:
    vectors = normal(40, 48)
    vectors[20:] = vectors[:20]
    order, _, _ = ranked(vectors * np.float32(scale), metric, 40)
    rank = np.argsort(order, axis=1)
    assert (rank[:, 20:] - rank[:, :20] == 1).all()


def test_only_targets_are_ranked() -> None:
    vectors = normal(300, 24)
    targets = np.array([3, 7, 200, 299])
    order, positions, _ = ranked(vectors, Metric.COSINE, 2, targets)
    expected = np.argsort(-exact_scores(vectors, Metric.COSINE)[:2, targets], axis=1)
    assert np.array_equal(order, expected)
    assert np.array_equal(positions, targets[expected])


def test_an_excluded_target_ranks_last_and_has_no_position() -> None:
    vectors = ArrayVectors(np.eye(4, dtype=np.float32), Metric.COSINE)
    ranking = rank_all(vectors, vectors.block(0, 2), 4, None, np.array([1, NO_POSITION]))
    assert ranking.order.tolist() == [[0, 2, 3, 1], [1, 0, 2, 3]]
    assert ranking.nearest.positions.tolist() == [[0, 2, 3, NO_POSITION], [1, 0, 2, 3]]


def test_a_zero_vector_has_the_cosine_zero() -> None:
    vectors = ArrayVectors(np.array([[0, 0], [1, 0]], np.float32), Metric.COSINE)
    ranking = rank_all(vectors, vectors.block(0, 2), 2, None, np.full(2, NO_POSITION))
    assert ranking.nearest.scores.tolist() == [[0, 0], [1, 0]]


def test_more_targets_allow_fewer_queries_at_a_time() -> None:
    assert ranked_queries(1000) == exact_search.MAX_RANKED_QUERIES
    assert ranked_queries(10_000_000) == 1


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("match", [Match.REGIONS, Match.ALL])
@pytest.mark.parametrize("targets", [None, np.array([0, 3, 4, 17, 29])])
def test_the_best_part_of_an_image_counts(metric: Metric, match: Match, targets: Positions | None) -> None:
    dice = np.random.default_rng(3)
    values = dice.normal(size=(30, 5, 8)).astype(np.float32)
    # Some images have fewer regions, and some have none.
    for image, count in enumerate(dice.integers(0, 5, 30)):
        values[image, 1 + count :] = 0
    found = PartedVectors(values, metric, match)
    queries = found.at(np.arange(4))
    ranking = rank_all(found, queries, 30, targets, np.array([0, NO_POSITION, 2, 3]))
    places = np.arange(30) if targets is None else targets
    for query in range(4):
        scores = {}
        for place in places.tolist():
            parts = [part for part in values[place, 1 if match is Match.REGIONS else 0 :] if part.any()]
            if parts and place != [0, NO_POSITION, 2, 3][query]:
                plain = ArrayVectors(np.array(parts), metric)
                scores[place] = nearest(plain, queries[query : query + 1], 1).scores[0, 0]
        wanted = sorted(scores, key=lambda place: -scores[place])
        positions = [place for place in ranking.nearest.positions[query].tolist() if place != NO_POSITION]
        assert positions == wanted
        np.testing.assert_allclose(ranking.nearest.scores[query, : len(wanted)], [scores[p] for p in wanted], atol=1e-5)
