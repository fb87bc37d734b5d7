"""Measurements of tasks on vectors with known rankings."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from imagesearch_analysis import exact_search
from imagesearch_analysis.evaluation.measuring import (
    Hits,
    agreement,
    by_class,
    measure,
    measure_hits,
    worst_and_best,
)
from imagesearch_analysis.evaluation.task import Label, Labelling, Query, Roles, Task
from imagesearch_analysis.exact_search import NO_POSITION
from imagesearch_analysis.vectors import ArrayVectors
from imagesearch_client.types import Metric


@pytest.fixture
def vectors() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(120, 8)).astype(np.float32)


@pytest.fixture
def task() -> Task:
    random = np.random.default_rng(5)
    labels = [Label([f"class {random.integers(0, 9)}"]) for _ in range(120)]
    return Labelling([f"{number:03d}" for number in range(120)], labels).task(Roles())


@pytest.mark.parametrize("ranked_bytes", [1, 2**28])
def test_measures_equal_those_of_scikit_learn_for_each_query(
    vectors: NDArray[np.float32], task: Task, ranked_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact_search, "RANKED_BYTES", ranked_bytes)
    progress: list[int] = []
    measured = measure(ArrayVectors(vectors, Metric.IP), task, [1, 10], progress.append)
    for number, query in enumerate(task.queries):
        others = np.arange(120) != query.position
        right = np.isin(np.arange(120), query.relevant)[others]
        scores = (vectors[query.position] @ vectors.T)[others]
        assert measured.values["mAP"][number] == pytest.approx(average_precision_score(right, scores))
        nearest = np.arange(120)[others][np.argsort(-scores)][:10]
        assert measured.hits.positions[number].tolist() == nearest.tolist()
    assert progress[-1] == len(task.queries)
    assert sorted(progress) == progress


def test_a_query_is_never_its_own_hit_and_missing_hits_have_no_position() -> None:
    vectors = np.eye(3, dtype=np.float32)
    all_images = np.arange(3)
    queries = [Query("0", all_images, position=0), Query("file", all_images, vector=vectors[1])]
    measured = measure(ArrayVectors(vectors, Metric.COSINE), Task(queries, None), [5])
    assert measured.hits.positions.tolist() == [[1, 2, NO_POSITION], [1, 0, 2]]
    assert measured.values["mAP"].tolist() == [1, 1]
    assert measured.values["P@5"] == pytest.approx([2 / 5, 3 / 5])
    assert np.all(measured.curve == 1)


def test_only_targets_are_hits(vectors: NDArray[np.float32]) -> None:
    targets = np.array([5, 60, 119])
    task = Task([Query("7", np.array([60]), position=7), Query("60", np.array([5]), position=60)], targets)
    measured = measure(ArrayVectors(vectors, Metric.L2), task, [3])
    assert set(measured.hits.positions[0].tolist()) == {5, 60, 119}
    assert sorted(measured.hits.positions[1].tolist()) == [NO_POSITION, 5, 119]
    assert measured.values["recall@3"].tolist() == [1, 1]


def test_agreement_measures_only_the_loss_of_the_index(vectors: NDArray[np.float32], task: Task) -> None:
    exact = measure(ArrayVectors(vectors, Metric.COSINE), task, [10])
    same = Hits(exact.hits.positions.copy(), exact.hits.scores.copy())
    assert agreement(same, exact.hits, 10, Metric.COSINE).tolist() == [1] * len(task.queries)
    assert measure_hits(same, task, [10])["AP@10"] == pytest.approx(exact.values["AP@10"])

    # An index that misses the first three hits of each query, and returns nothing instead.
    worse = Hits(np.roll(same.positions, -3, axis=1), np.roll(same.scores, -3, axis=1))
    worse.positions[:, 7:] = NO_POSITION
    assert agreement(worse, exact.hits, 10, Metric.COSINE) == pytest.approx([0.7] * len(task.queries))
    assert agreement(worse, exact.hits, 3, Metric.COSINE) == pytest.approx([0] * len(task.queries))
    assert measure_hits(worse, task, [10])["recall@10"].mean() < exact.values["recall@10"].mean()


def test_an_equally_near_hit_counts() -> None:
    exact = Hits(np.array([[0, 1]]), np.array([[0.9, 0.5]]))
    equal = Hits(np.array([[0, 2]]), np.array([[0.9, 0.5000001]]))
    worse = Hits(np.array([[0, 2]]), np.array([[0.9, 0.49]]))
    assert agreement(equal, exact, 2, Metric.COSINE).tolist() == [1]
    assert agreement(worse, exact, 2, Metric.COSINE).tolist() == [0.5]
    nothing = Hits(np.array([[NO_POSITION, NO_POSITION]]), np.zeros((1, 2)))
    assert agreement(nothing, exact, 2, Metric.COSINE).tolist() == [0]
    assert agreement(nothing, nothing, 2, Metric.COSINE).tolist() == [1]


def service_hits(vectors: NDArray[np.float32], metric: Metric, positions: NDArray[np.int64]) -> Hits:
    """Return hits for each vector, with scores that are not computed by exact search."""
    exact = vectors.astype(np.float64)
    pairs = exact[:, None], exact[positions]
    products = (pairs[0] * pairs[1]).sum(axis=2)
    scores = products if metric is Metric.IP else 1 / (1 + np.linalg.norm(pairs[0] - pairs[1], axis=2))
    return Hits(positions, scores.astype(np.float32).astype(np.float64))


@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP])
@pytest.mark.parametrize("scale", [1e-4, 1, 1e4])
def test_agreement_counts_equal_hits_and_not_farther_ones_at_any_length(
    vectors: NDArray[np.float32], metric: Metric, scale: float
) -> None:
    # Each vector has a copy 120 positions later.
    twice = np.tile(vectors * np.float32(scale), (2, 1))
    queries = [Query(str(number), np.array([0]), position=number) for number in range(240)]
    exact = measure(ArrayVectors(twice, metric), Task(queries, None), [21]).hits
    # The eleventh hit may be the copy of the tenth.
    farther = service_hits(twice, metric, exact.positions[:, 11:])
    assert agreement(farther, exact, 10, metric).mean() < 0.05
    copies = (exact.positions[:, :10] + 120) % 240
    own = copies == np.arange(240)[:, None]
    equal = service_hits(twice, metric, np.where(own, exact.positions[:, :10], copies))
    assert agreement(equal, exact, 10, metric).tolist() == [1] * 240


def test_unknown_hits_are_wrong() -> None:
    found = Hits(np.array([[NO_POSITION, 2, 1]]), np.ones((1, 3)))
    task = Task([Query("0", np.array([0, 1]), position=0)], None)
    assert measure_hits(found, task, [3])["P@3"] == pytest.approx([1 / 3])


def test_classes_are_ordered_by_quality_and_no_query_is_both_worst_and_best() -> None:
    queries = [
        Query(str(number), np.array([0]), classes) for number, classes in enumerate([("a",), ("a", "b"), ("c",)])
    ]
    values = np.array([0.2, 0.6, 0.1])
    assert by_class(queries, values) == {"c": (1, 0.1), "a": (2, 0.4), "b": (1, 0.6)}
    assert worst_and_best(values, 5) == ([2, 0], [1])
    assert worst_and_best(np.array([0.5]), 5) == ([0], [])
    assert worst_and_best(np.arange(10) / 10, 2) == ([0, 1], [9, 8])
