"""Runs the queries of a task, and measures what they find."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagesearch_analysis.evaluation import metrics
from imagesearch_analysis.evaluation.metrics import Counts, Relevance, Values
from imagesearch_analysis.evaluation.ranking import ExactSearch, Positions, Vectors, least_equal, ranked
from imagesearch_analysis.evaluation.task import Query, Task, answers_to
from imagesearch_client.types import Metric

NOBODY = -1


@dataclass(frozen=True)
class Hits:
    """The first hits of each query, the best first; what is missing has the position NOBODY."""

    positions: Positions
    """int64 [Q, depth]"""
    scores: Vectors
    """float32 [Q, depth], as the service tells them."""


@dataclass(frozen=True)
class Measured:
    """How good the rankings of a task's queries are."""

    values: dict[str, Values]
    """Each measure by name, a value for each query."""
    curve: Values
    """The mean interpolated precision at metrics.RECALL_LEVELS."""
    hits: Hits


def measure(
    vectors: Vectors,
    metric: Metric,
    task: Task,
    cutoffs: Sequence[int],
    tell: Callable[[int], None] = lambda _: None,
) -> Measured:
    """Ranks all targets for each query by exact search, and measures the rankings.

    Args:
        vectors: float32 [N, D] of the collection, by position.
        metric: how they are compared.
        task: whose queries outside of the collection have vectors.
        cutoffs: the k of the measures of the first k hits.
        tell: is told the queries so far.
    """
    search = ExactSearch(vectors, metric, task.targets)
    depth = min(max(cutoffs), len(search.targets))
    queries = task.queries
    hits = Hits(np.full((len(queries), depth), NOBODY), np.zeros((len(queries), depth), np.float32))
    parts: list[dict[str, Values]] = []
    curve = np.zeros(len(metrics.RECALL_LEVELS))
    for begin in range(0, len(queries), search.batch):
        batch = queries[begin : begin + search.batch]
        asked = np.stack([vectors[query.position] if query.vector is None else query.vector for query in batch])
        scores = search.scores(asked.astype(np.float32, copy=False))
        order = ranked(scores, [_place(query, search.targets) for query in batch])
        relevance = np.take_along_axis(relevance_of(batch, search.targets, len(vectors)), order, axis=1)
        relevant = relevant_of(batch)
        parts.append(metrics.whole_measures(relevance, relevant) | metrics.measures(relevance, relevant, cutoffs))
        curve += metrics.interpolated_precision(relevance, relevant).sum(axis=0)
        best = np.take_along_axis(scores, order[:, :depth], axis=1)
        # The query itself came last, with the score -inf.
        rows = slice(begin, begin + len(batch))
        hits.positions[rows] = np.where(np.isneginf(best), NOBODY, search.targets[order[:, :depth]])
        hits.scores[rows] = search.as_service(best)
        tell(begin + len(batch))
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Measured(values, curve / len(queries), hits)


def measure_hits(found: Hits, task: Task, cutoffs: Sequence[int]) -> dict[str, Values]:
    """The measures of hits that another search found, as an index."""
    relevant = relevant_of(task.queries)
    return metrics.measures(right_hits(found, task.queries), relevant, cutoffs)


def right_hits(found: Hits, queries: Sequence[Query]) -> Relevance:
    """Which hits are right, bool [Q, depth]."""
    pairs = zip(found.positions, queries, strict=True)
    rows = [np.isin(row, query.relevant) & (row != query.position) for row, query in pairs]
    return np.array(rows, dtype=bool).reshape(found.positions.shape)


def agreement(found: Hits, exact: Hits, k: int, metric: Metric) -> Values:
    """The share of the true k nearest by a metric that an index found, for each query [Q]; 1 where there are none.

    A hit counts that is as near as the k-th nearest, too: which of equals comes first says nothing. After
    Aumueller, Bernhardsson and Faithfull, ANN-Benchmarks (Information Systems 87, 2020), section 3.6.
    """
    true, scores = exact.positions[:, :k], exact.scores[:, :k]
    wanted = (true != NOBODY).sum(axis=1)
    last = np.where(wanted > 0, np.where(true != NOBODY, scores, np.inf).min(axis=1, initial=np.inf), 0)
    near_enough = found.scores[:, :k] >= least_equal(last, metric)[:, None]
    is_known = np.array(
        [np.isin(row, best) for row, best in zip(found.positions[:, :k], true, strict=True)], dtype=bool
    )
    counted = ((found.positions[:, :k] != NOBODY) & (is_known.reshape(near_enough.shape) | near_enough)).sum(axis=1)
    shares: Values = np.divide(np.minimum(counted, wanted), wanted, out=np.ones(len(wanted)), where=wanted > 0)
    return shares


def relevance_of(queries: Sequence[Query], targets: Positions, images: int) -> Relevance:
    """Which targets are right answers, bool [Q, T]."""
    is_right = np.zeros(images, dtype=bool)
    rows: NDArray[np.bool_] = np.zeros((len(queries), len(targets)), dtype=bool)
    for row, query in zip(rows, queries, strict=True):
        is_right[query.relevant] = True
        if query.position is not None:
            is_right[query.position] = False
        row[:] = is_right[targets]
        is_right[query.relevant] = False
    return rows


def relevant_of(queries: Sequence[Query]) -> Counts:
    """How many right answers each query has, int [Q]."""
    return np.fromiter((answers_to(query) for query in queries), np.int64, len(queries))


def by_class(queries: Sequence[Query], values: Values) -> dict[str, tuple[int, float]]:
    """For each class the number of its queries and the mean of their values; the worst first."""
    grouped: dict[str, list[float]] = {}
    for query, value in zip(queries, values.tolist(), strict=True):
        for name in query.classes:
            grouped.setdefault(name, []).append(value)
    means = {name: (len(found), sum(found) / len(found)) for name, found in grouped.items()}
    return dict(sorted(means.items(), key=lambda item: (item[1][1], item[0])))


def extremes(values: Values, number: int) -> tuple[list[int], list[int]]:
    """The places of the worst and of the best queries, so many of each and none twice."""
    order = np.argsort(values, kind="stable").tolist()
    best = min(number, len(order) // 2)
    return order[: min(number, len(order) - best)], order[len(order) - best :][::-1]


def _place(query: Query, targets: Positions) -> int | None:
    """Where a query is among the targets; None where it is not."""
    if query.position is None:
        return None
    place = int(np.searchsorted(targets, query.position))
    return place if place < len(targets) and targets[place] == query.position else None
