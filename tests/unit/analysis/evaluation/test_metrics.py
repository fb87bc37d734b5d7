"""The measures against scikit-learn and against their definitions."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, ndcg_score

from imagesearch_analysis.evaluation import metrics

RIGHT, WRONG = True, False


def ranked(*rows: list[bool]) -> NDArray[np.bool_]:
    return np.array(rows, dtype=bool)


def random_rankings(seed: int) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return scores with many ties, whether each candidate is right, and the ranking by score and then by index."""
    random = np.random.default_rng(seed)
    scores = random.integers(0, 6, size=(40, 25))
    right = random.random((40, 25)) < random.choice([0.0, 0.05, 0.3, 0.9], size=(40, 1))
    order = np.argsort(-scores, axis=1, kind="stable")
    return scores, right, np.take_along_axis(right, order, axis=1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.filterwarnings("ignore:No positive class found")
def test_average_precision_equals_that_of_scikit_learn(seed: int) -> None:
    _, right, relevance = random_rankings(seed)
    falling = -np.arange(relevance.shape[1])
    expected = [average_precision_score(row, falling) for row in relevance]
    assert metrics.average_precision(relevance, right.sum(axis=1)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 3, 10, 25, 40])
def test_ndcg_equals_that_of_scikit_learn(seed: int, k: int) -> None:
    _, right, relevance = random_rankings(seed)
    falling = -np.arange(relevance.shape[1])
    expected = [ndcg_score([row], [falling], k=k) for row in relevance]
    assert metrics.ndcg_at(relevance, right.sum(axis=1), k) == pytest.approx(expected, abs=1e-12)


def test_mean_ndcg_over_the_orders_of_ties_equals_that_of_scikit_learn() -> None:
    scores = np.array([3, 2, 2, 2, 1, 1])
    right = np.array([0, 1, 0, 1, 0, 1], dtype=bool)
    orders = {
        order for order in itertools.permutations(range(6)) if list(scores[list(order)]) == sorted(scores, reverse=True)
    }
    relevance = np.array([right[list(order)] for order in sorted(orders)])
    found = metrics.ndcg_at(relevance, np.full(len(orders), 3), 6).mean()
    assert found == pytest.approx(ndcg_score([right], [scores], k=6))


def test_measures_follow_their_definitions() -> None:
    relevance = ranked([WRONG, RIGHT, RIGHT, WRONG, RIGHT], [RIGHT, WRONG, WRONG, WRONG, WRONG], [WRONG] * 5)
    relevant = np.array([4, 1, 2])
    assert metrics.average_precision(relevance, relevant) == pytest.approx([(1 / 2 + 2 / 3 + 3 / 5) / 4, 1, 0])
    assert metrics.average_precision(relevance, relevant, 2) == pytest.approx([(1 / 2) / 2, 1, 0])
    assert metrics.precision_at(relevance, 3) == pytest.approx([2 / 3, 1 / 3, 0])
    assert metrics.recall_at(relevance, relevant, 3) == pytest.approx([2 / 4, 1, 0])
    assert metrics.r_precision(relevance, relevant) == pytest.approx([2 / 4, 1, 0])
    assert metrics.reciprocal_rank(relevance) == pytest.approx([1 / 2, 1, 0])
    assert metrics.precision_at(relevance, 1) == pytest.approx([0, 1, 0])


def test_missing_hits_count_as_wrong() -> None:
    relevance, filled = ranked([RIGHT, WRONG]), ranked([RIGHT, WRONG, WRONG, WRONG, WRONG])
    relevant = np.array([3])
    assert metrics.precision_at(relevance, 5) == pytest.approx([1 / 5])
    for k in (2, 5, 9):
        short, full = (metrics.measures(rows, relevant, [k]) for rows in (relevance, filled))
        assert short.keys() == full.keys()
        for name, values in short.items():
            assert values == pytest.approx(full[name]), name
    none_at_all = np.zeros((1, 0), dtype=bool)
    whole = metrics.whole_measures(none_at_all, relevant) | metrics.measures(none_at_all, relevant, [5])
    assert all(values == [0.0] for values in whole.values())


def test_a_perfect_ranking_has_the_value_one_even_with_more_right_answers_than_k() -> None:
    relevance = ranked([RIGHT] * 8 + [WRONG] * 2)
    relevant = np.array([8])
    for k in (1, 4, 8, 10):
        assert metrics.ndcg_at(relevance, relevant, k) == pytest.approx([1])
        assert metrics.average_precision(relevance, relevant, k) == pytest.approx([1])
    assert metrics.recall_at(relevance, relevant, 4) == pytest.approx([0.5])


def test_a_query_without_right_answers_has_the_value_zero() -> None:
    relevance, relevant = ranked([WRONG] * 4), np.array([0])
    found = metrics.measures(relevance, relevant, [1, 3]) | metrics.whole_measures(relevance, relevant)
    assert {name: float(values[0]) for name, values in found.items()} == dict.fromkeys(found, 0.0)
    assert not metrics.interpolated_precision(relevance, relevant).any()


def test_interpolated_precision_is_the_highest_at_a_recall_or_above() -> None:
    # The precisions are 1, 2/3 and 3/5 at the recalls 1/4, 2/4 and 3/4. The fourth answer is not found.
    relevance = ranked([RIGHT, WRONG, RIGHT, WRONG, RIGHT])
    (curve,) = metrics.interpolated_precision(relevance, np.array([4]))
    levels = metrics.RECALL_LEVELS
    assert np.all(curve[levels <= 0.25] == 1)
    assert curve[(levels > 0.25) & (levels <= 0.5)] == pytest.approx(2 / 3)
    assert curve[(levels > 0.5) & (levels <= 0.75)] == pytest.approx(3 / 5)
    assert np.all(curve[levels > 0.75] == 0)


def test_an_interval_has_the_theoretical_width_and_depends_only_on_the_seed() -> None:
    values = (np.arange(1000) % 4 == 0).astype(float)
    figure = metrics.figures({"P@1": values})["P@1"]
    assert figure.mean == 0.25
    width = 2 * 1.96 * math.sqrt(0.25 * 0.75 / 1000)
    assert figure.high - figure.low == pytest.approx(width, rel=0.1)
    assert figure.low < 0.25 < figure.high
    assert metrics.figures({"P@1": values})["P@1"] == figure
    assert metrics.figures({"P@1": values}, seed=1)["P@1"] != figure


def test_95_percent_of_the_intervals_contain_the_truth() -> None:
    random = np.random.default_rng(3)
    samples = (random.random((100, 60)) < 0.3).astype(float)
    found = [metrics.figures({"x": sample})["x"] for sample in samples]
    assert sum(figure.low <= 0.3 <= figure.high for figure in found) / 100 == pytest.approx(0.95, abs=0.04)


def test_a_paired_difference_is_significant_when_intervals_overlap() -> None:
    random = np.random.default_rng(0)
    hard = random.random(400)
    better, worse = hard * 0.9 + 0.1, hard * 0.9 + 0.1 - random.random(400) * 0.1
    alone = metrics.figures({"better": better, "worse": worse})
    assert alone["worse"].high > alone["better"].low
    assert metrics.difference(better, worse).low > 0
    assert metrics.difference(worse, better).high < 0
    with pytest.raises(ValueError, match="cannot compare 400 queries with 3"):
        metrics.difference(better, worse[:3])


def test_figures_need_queries() -> None:
    with pytest.raises(ValueError, match="there are no queries"):
        metrics.figures({"mAP": np.array([])})
