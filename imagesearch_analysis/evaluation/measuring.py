"""Runs the queries of a task by exact search, and measures the rankings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagesearch_analysis.evaluation import metrics
from imagesearch_analysis.evaluation.metrics import Counts, Relevance, Values
from imagesearch_analysis.evaluation.task import Query, Task, right_answers
from imagesearch_analysis.exact_search import NO_POSITION, rank_all, ranked_queries
from imagesearch_analysis.scores import lowest_equal_score
from imagesearch_analysis.vectors import Doubles, Positions, VectorSet, comparable
from imagesearch_client.types import Metric


@dataclass(frozen=True)
class Hits:
    """The first hits of each query, best first."""

    positions: Positions
    """int64[queries, depth]; NO_POSITION if there are fewer hits."""
    scores: Doubles
    """float64[queries, depth] as the service defines scores."""


@dataclass(frozen=True)
class Measured:
    """The quality of the rankings of all queries of a task."""

    values: dict[str, Values]
    """The value of each measure for each query."""
    curve: Values
    """The mean interpolated precision at metrics.RECALL_LEVELS."""
    hits: Hits


def measure(
    vectors: VectorSet, task: Task, cutoffs: Sequence[int], on_progress: Callable[[int], None] = lambda _: None
) -> Measured:
    """Rank all targets for each query by exact search, and return the measures of the rankings.

    Args:
        vectors: the vectors of the collection, by position.
        task: the queries; those outside of the collection have vectors.
        cutoffs: the values of k for the measures of the first k hits.
        on_progress: receives the number of queries so far.
    """
    targets = np.arange(len(vectors)) if task.targets is None else task.targets
    depth = min(max(cutoffs), len(targets))
    queries, step = task.queries, ranked_queries(len(targets))
    parts: list[dict[str, Values]] = []
    found: list[Hits] = []
    curve = np.zeros(len(metrics.RECALL_LEVELS))
    for begin in range(0, len(queries), step):
        batch = queries[begin : begin + step]
        own = np.array([NO_POSITION if query.position is None else query.position for query in batch])
        ranking = rank_all(vectors, _query_vectors(vectors, batch), depth, task.targets, own)
        relevance = np.take_along_axis(relevance_of(batch, targets, len(vectors)), ranking.order, axis=1)
        relevant = relevant_counts(batch)
        parts.append(metrics.whole_measures(relevance, relevant) | metrics.measures(relevance, relevant, cutoffs))
        curve += metrics.interpolated_precision(relevance, relevant).sum(axis=0)
        found.append(Hits(ranking.nearest.positions, ranking.nearest.scores))
        on_progress(begin + len(batch))
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    positions, scores = (np.concatenate([getattr(hits, name) for hits in found]) for name in ("positions", "scores"))
    return Measured(values, curve / len(queries), Hits(positions, scores))


def _query_vectors(vectors: VectorSet, queries: Sequence[Query]) -> NDArray[np.float32]:
    rows = [
        vectors.at(np.array([query.position]))[0]
        if query.vector is None
        else comparable(np.asarray(query.vector, np.float32)[np.newaxis], vectors.metric)[0]
        for query in queries
    ]
    return np.stack(rows)


def measure_hits(found: Hits, task: Task, cutoffs: Sequence[int]) -> dict[str, Values]:
    """Return the measures of the hits of another search, such as that of an index."""
    return metrics.measures(right_hits(found, task.queries), relevant_counts(task.queries), cutoffs)


def right_hits(found: Hits, queries: Sequence[Query]) -> Relevance:
    """Return bool[queries, depth]: whether each hit is right."""
    pairs = zip(found.positions, queries, strict=True)
    rows = [np.isin(row, query.relevant) & (row != query.position) for row, query in pairs]
    return np.array(rows, dtype=bool).reshape(found.positions.shape)


def agreement(found: Hits, exact: Hits, k: int, metric: Metric) -> Values:
    """Return float64[queries]: the share of the true k nearest that an index found; 1 if there are no true nearest.

    A hit that is as near as the k-th nearest counts as well, because the order of equal hits has no meaning. After
    Aumueller, Bernhardsson and Faithfull, ANN-Benchmarks (Information Systems 87, 2020), section 3.6.
    """
    true, scores = exact.positions[:, :k], exact.scores[:, :k]
    wanted = (true != NO_POSITION).sum(axis=1)
    last = np.where(wanted > 0, np.where(true != NO_POSITION, scores, np.inf).min(axis=1, initial=np.inf), 0)
    is_near_enough = found.scores[:, :k] >= lowest_equal_score(last, metric)[:, None]
    is_true = np.array(
        [np.isin(row, best) for row, best in zip(found.positions[:, :k], true, strict=True)], dtype=bool
    ).reshape(is_near_enough.shape)
    counted = ((found.positions[:, :k] != NO_POSITION) & (is_true | is_near_enough)).sum(axis=1)
    shares: Values = np.divide(np.minimum(counted, wanted), wanted, out=np.ones(len(wanted)), where=wanted > 0)
    return shares


def relevance_of(queries: Sequence[Query], targets: Positions, images: int) -> Relevance:
    """Return bool[queries, targets]: whether each target is a right answer."""
    is_right = np.zeros(images, dtype=bool)
    rows: NDArray[np.bool_] = np.zeros((len(queries), len(targets)), dtype=bool)
    for row, query in zip(rows, queries, strict=True):
        is_right[query.relevant] = True
        if query.position is not None:
            is_right[query.position] = False
        row[:] = is_right[targets]
        is_right[query.relevant] = False
    return rows


def relevant_counts(queries: Sequence[Query]) -> Counts:
    """Return int64[queries]: the number of right answers of each query."""
    return np.fromiter((right_answers(query) for query in queries), np.int64, len(queries))


def by_class(queries: Sequence[Query], values: Values) -> dict[str, tuple[int, float]]:
    """Return the number of queries of each class and the mean of their values, worst class first."""
    grouped: dict[str, list[float]] = {}
    for query, value in zip(queries, values.tolist(), strict=True):
        for name in query.classes:
            grouped.setdefault(name, []).append(value)
    means = {name: (len(found), sum(found) / len(found)) for name, found in grouped.items()}
    return dict(sorted(means.items(), key=lambda item: (item[1][1], item[0])))


def worst_and_best(values: Values, number: int) -> tuple[list[int], list[int]]:
    """Return the indexes of the worst and of the best queries, at most `number` of each, and no query twice."""
    order = np.argsort(values, kind="stable").tolist()
    best = min(number, len(order) // 2)
    return order[: min(number, len(order) - best)], order[len(order) - best :][::-1]
