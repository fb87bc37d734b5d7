"""Measures of ranked hits, with confidence intervals.

All measures have the same two arguments, and return a value from 0 to 1 for each query, float64[queries]:

- `relevance`, bool[queries, depth]: whether the hit at each rank is right, best hit first. Missing hits are False,
  which changes no measure.
- `relevant`, int64[queries]: the number of all right answers, found or not.

A query without right answers has the value 0, as in scikit-learn. Ties need no treatment: hits have one order, because
the service orders equal scores by id.

IIR is Manning, Raghavan and Schuetze, Introduction to Information Retrieval (2008), chapter 8.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Relevance: TypeAlias = NDArray[np.bool_]
Counts: TypeAlias = NDArray[np.int64]
Values: TypeAlias = NDArray[np.float64]

# The number of resamples of a bootstrap, and the number that is in memory at a time.
RESAMPLES, RESAMPLES_AT_A_TIME = 2000, 100
CONFIDENCE = 0.95
# The recalls at which a precision/recall curve is sampled: hundredths.
RECALL_LEVELS = np.linspace(0.0, 1.0, 101)


def average_precision(relevance: Relevance, relevant: Counts, k: int | None = None) -> Values:
    """Return the mean of the precisions at the ranks of all right answers; 0 for answers that are not found (IIR 8.4).

    The mean over queries is mAP. With `k`, only the first k hits count, and the sum is divided by min(relevant, k), so
    that the best ranking has the value 1: Weyand et al., Google Landmarks Dataset v2 (CVPR 2020), section 4.
    """
    right = relevance[:, :k]
    ranks = np.arange(1, right.shape[1] + 1)
    total = np.where(right, np.cumsum(right, axis=1) / ranks, 0.0).sum(axis=1)
    return _divided(total, relevant if k is None else np.minimum(relevant, k))


def precision_at(relevance: Relevance, k: int) -> Values:
    """Return the share of right hits among the first k; a missing hit is wrong (IIR 8.4)."""
    shares: Values = relevance[:, :k].sum(axis=1) / k
    return shares


def recall_at(relevance: Relevance, relevant: Counts, k: int) -> Values:
    """Return the share of all right answers that are among the first k hits (IIR 8.3)."""
    return _divided(relevance[:, :k].sum(axis=1), relevant)


def ndcg_at(relevance: Relevance, relevant: Counts, k: int) -> Values:
    """Return the normalized discounted cumulative gain of the first k hits: gain 1, discount log2(1 + rank).

    Jaervelin and Kekaelaeinen, Cumulated Gain-based Evaluation of IR Techniques (ACM TOIS 20, 2002).
    """
    gains = 1 / np.log2(np.arange(2, k + 2))
    best = np.concatenate(([0.0], np.cumsum(gains)))[np.minimum(relevant, k)]
    right = relevance[:, :k]
    return _divided((right * gains[: right.shape[1]]).sum(axis=1), best)


def r_precision(relevance: Relevance, relevant: Counts) -> Values:
    """Return the precision of the first R hits, where R is the number of right answers (IIR 8.4)."""
    ranks = np.arange(1, relevance.shape[1] + 1)
    return _divided((relevance & (ranks <= relevant[:, None])).sum(axis=1), relevant)


def reciprocal_rank(relevance: Relevance) -> Values:
    """Return 1 / the rank of the first right hit, or 0 if there is none; the mean over queries is MRR.

    Voorhees, The TREC-8 Question Answering Track Report (1999).
    """
    if not relevance.shape[1]:
        return np.zeros(len(relevance))
    return np.where(relevance.any(axis=1), 1 / (1 + relevance.argmax(axis=1)), 0.0)


def interpolated_precision(relevance: Relevance, relevant: Counts) -> Values:
    """Return float64[queries, 101]: the highest precision at each recall of RECALL_LEVELS or above (IIR 8.4).

    The value is 0 at recalls that the ranking does not reach. The mean over queries is the precision/recall curve.
    """
    curves = np.zeros((len(relevance), len(RECALL_LEVELS)))
    for curve, row, count in zip(curves, relevance, relevant, strict=True):
        ranks = np.flatnonzero(row) + 1
        if not len(ranks):
            continue
        precisions = np.maximum.accumulate((np.arange(1, len(ranks) + 1) / ranks)[::-1])[::-1]
        # The number of right hits that reach each level. In floating point, 0.1 * 10 may be slightly more than 1.
        needed = np.maximum(np.ceil(RECALL_LEVELS * count - 1e-9), 1).astype(int)
        reached = needed <= len(ranks)
        curve[reached] = precisions[needed[reached] - 1]
    return curves


def measures(relevance: Relevance, relevant: Counts, cutoffs: Sequence[int]) -> dict[str, Values]:
    """Return all measures of the first hits by name: P@1, MRR at the largest cutoff, and four at each cutoff."""
    largest = max(cutoffs)
    found = {"P@1": precision_at(relevance, 1), f"MRR@{largest}": reciprocal_rank(relevance[:, :largest])}
    for k in cutoffs:
        found[f"P@{k}"] = precision_at(relevance, k)
        found[f"recall@{k}"] = recall_at(relevance, relevant, k)
        found[f"nDCG@{k}"] = ndcg_at(relevance, relevant, k)
        found[f"AP@{k}"] = average_precision(relevance, relevant, k)
    return found


def whole_measures(relevance: Relevance, relevant: Counts) -> dict[str, Values]:
    """Return all measures that need the ranking of all images, by name."""
    return {
        "mAP": average_precision(relevance, relevant),
        "MRR": reciprocal_rank(relevance),
        "R-precision": r_precision(relevance, relevant),
    }


@dataclass(frozen=True)
class Figure:
    """A mean over queries with its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        """Return the figure for JSON."""
        return {"mean": self.mean, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def figures(values: Mapping[str, Values], seed: int = 0) -> dict[str, Figure]:
    """Return the mean of each measure with its percentile bootstrap interval over queries.

    Queries are drawn 2,000 times with replacement, the same queries for all measures: Efron and Tibshirani, An
    Introduction to the Bootstrap (1993), chapter 13; for searches Sakai, Evaluating Evaluation Metrics based on the
    Bootstrap (SIGIR 2006). Raises ValueError if there are no queries.
    """
    if not values:
        return {}
    columns = np.stack(list(values.values()), axis=1)
    low, high = np.quantile(_resampled_means(columns, seed), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    rows = zip(columns.mean(axis=0).tolist(), low.tolist(), high.tolist(), strict=True)
    return {name: Figure(*row) for name, row in zip(values, rows, strict=True)}


def difference(one: Values, other: Values, seed: int = 0) -> Figure:
    """Return how much better `one` is than `other` on the same queries, by a paired bootstrap.

    The difference is significant if the interval does not contain 0. Raises ValueError if the numbers of queries
    differ.
    """
    if one.shape != other.shape:
        raise ValueError(f"cannot compare {len(one)} queries with {len(other)}; both must be the same queries")
    return figures({"difference": one - other}, seed)["difference"]


def _resampled_means(columns: Values, seed: int) -> Values:
    """Return float64[RESAMPLES, measures]: means of rows of `columns`, which are drawn with replacement."""
    queries = len(columns)
    if not queries:
        raise ValueError("there are no queries")
    random = np.random.default_rng(seed)
    # The numbers of times that each query is drawn are enough.
    probabilities = np.full(queries, 1 / queries)
    return np.concatenate(
        [
            random.multinomial(queries, probabilities, size=RESAMPLES_AT_A_TIME) @ columns / queries
            for _ in range(RESAMPLES // RESAMPLES_AT_A_TIME)
        ]
    )


def _divided(numerator: Values | Counts, denominator: Values | Counts) -> Values:
    """Return the quotients; 0 if a denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
