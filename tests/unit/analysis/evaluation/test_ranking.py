"""Exact search against the plain formulas in float64."""

import numpy as np
import pytest
from numpy.typing import NDArray

from imagesearch_analysis.evaluation import ranking
from imagesearch_analysis.evaluation.ranking import ExactSearch, ranked
from imagesearch_client.types import Metric


def plain(metric: Metric, queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """The score as the contract defines it."""
    q, x = queries.astype(np.float64), vectors.astype(np.float64)
    products: NDArray[np.float64] = q @ x.T
    if metric is Metric.COSINE:
        cosines: NDArray[np.float64] = products / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(x, axis=1)
        return cosines
    if metric is Metric.IP:
        return products
    distances: NDArray[np.float64] = np.linalg.norm(q[:, None] - x[None], axis=2)
    return 1 / (1 + distances)


@pytest.fixture
def vectors() -> NDArray[np.float32]:
    # Far from the origin, where squared lengths are large beside the distances.
    return np.random.default_rng(1).normal(30, 1, size=(300, 24)).astype(np.float32)


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("block_bytes", [64, 4096, 2**26])
def test_scores_are_those_of_the_contract_with_blocks_of_any_size(
    metric: Metric, block_bytes: int, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "BLOCK_BYTES", block_bytes)
    search = ExactSearch(vectors, metric)
    scores = search.scores(vectors[:20])
    assert search.as_service(scores)[:, 20:] == pytest.approx(plain(metric, vectors[:20], vectors[20:]), rel=1e-5)
    expected = np.argsort(-plain(metric, vectors[:20], vectors), axis=1, kind="stable")
    assert np.array_equal(ranked(scores, [None] * 20)[:, :10], expected[:, :10])


def test_only_targets_are_hits_and_come_in_the_order_of_their_places(vectors: NDArray[np.float32]) -> None:
    targets = np.array([3, 7, 200, 299])
    search = ExactSearch(vectors, Metric.COSINE, targets)
    scores = search.scores(vectors[:2])
    assert scores == pytest.approx(plain(Metric.COSINE, vectors[:2], vectors[targets]), rel=1e-5)
    assert ExactSearch(vectors, Metric.L2, targets).scores(vectors[:1]).shape == (1, 4)


def test_equal_scores_are_ordered_by_place_and_what_is_left_out_comes_last() -> None:
    scores = np.array([[0.5, 0.9, 0.5, 0.9], [0.1, 0.1, 0.1, 0.1]], np.float32)
    assert ranked(scores, [1, None]).tolist() == [[3, 0, 2, 1], [0, 1, 2, 3]]


def test_a_vector_of_zeros_is_like_nothing() -> None:
    vectors = np.array([[0, 0], [1, 0]], np.float32)
    assert ExactSearch(vectors, Metric.COSINE).scores(vectors).tolist() == [[0, 0], [0, 1]]


def test_memory_is_bounded_by_fewer_queries_at_a_time() -> None:
    small, large = (np.broadcast_to(np.float32(1), (size, 2)) for size in (1000, 10_000_000))
    assert ExactSearch(small, Metric.COSINE).batch == ranking.MOST_QUERIES
    assert ExactSearch(large, Metric.COSINE).batch == 1
