"""Measures of ranked hits, and how sure they are.

Every measure takes the same two arrays and gives one value for each query, float64 [Q] in 0..1:

- `relevance`, bool [Q, depth]: whether the hit at each rank is right, the best hit first. Fewer hits than the depth are
  filled up with False, which changes no measure.
- `relevant`, int [Q]: how many right answers there are in all, found or not.

A query without a right answer has 0, as in scikit-learn. Equal scores are no matter here: hits come in one order, which
is by id in the service.

IIR below is Manning, Raghavan and Schuetze, Introduction to Information Retrieval (2008), chapter 8.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Relevance: TypeAlias = NDArray[np.bool_]
Counts: TypeAlias = NDArray[np.int64]
Values: TypeAlias = NDArray[np.float64]

# Resamples of a bootstrap, and how many are made at a time, which bounds the memory.
RESAMPLES = 2000
RESAMPLED_TOGETHER = 100
CONFIDENCE = 0.95
# Recalls at which a curve of precision is told: hundredths.
RECALL_LEVELS = np.linspace(0.0, 1.0, 101)


def average_precision(relevance: Relevance, relevant: Counts, k: int | None = None) -> Values:
    """The mean of the precisions at the ranks of all right answers; one that is not found has precision 0 (IIR 8.4).

    Its mean over queries is mAP. With `k` only the first k hits count, and the sum is divided by min(relevant, k), so
    that the best ranking has 1: Weyand et al., Google Landmarks Dataset v2 (CVPR 2020), section 4.
    """
    right = relevance[:, :k]
    ranks = np.arange(1, right.shape[1] + 1)
    total = np.where(right, np.cumsum(right, axis=1) / ranks, 0.0).sum(axis=1)
    return _divided(total, relevant if k is None else np.minimum(relevant, k))


def precision_at(relevance: Relevance, k: int) -> Values:
    """The share of right ones among the first k hits; a hit that is missing is a wrong one (IIR 8.4)."""
    shares: Values = relevance[:, :k].sum(axis=1) / k
    return shares


def recall_at(relevance: Relevance, relevant: Counts, k: int) -> Values:
    """The share of all right answers that is among the first k hits (IIR 8.3)."""
    return _divided(relevance[:, :k].sum(axis=1), relevant)


def ndcg_at(relevance: Relevance, relevant: Counts, k: int) -> Values:
    """Normalised discounted cumulative gain of the first k hits: gain 1 for a right one, discount log2(1 + rank).

    Jaervelin and Kekaelaeinen, Cumulated Gain-based Evaluation of IR Techniques (ACM TOIS 20, 2002).
    """
    gains = 1 / np.log2(np.arange(2, k + 2))
    best = np.concatenate(([0.0], np.cumsum(gains)))[np.minimum(relevant, k)]
    right = relevance[:, :k]
    return _divided((right * gains[: right.shape[1]]).sum(axis=1), best)


def r_precision(relevance: Relevance, relevant: Counts) -> Values:
    """The precision of as many hits as there are right answers, where precision and recall are the same (IIR 8.4)."""
    ranks = np.arange(1, relevance.shape[1] + 1)
    return _divided((relevance & (ranks <= relevant[:, None])).sum(axis=1), relevant)


def reciprocal_rank(relevance: Relevance) -> Values:
    """1 / the rank of the first right hit, 0 where none is found; its mean is MRR.

    Voorhees, The TREC-8 Question Answering Track Report (1999).
    """
    if not relevance.shape[1]:
        return np.zeros(len(relevance))
    return np.where(relevance.any(axis=1), 1 / (1 + relevance.argmax(axis=1)), 0.0)


def first_hit(relevance: Relevance) -> Values:
    """1 where the first hit is right, else 0; its mean is the first-hit rate, which is precision at 1."""
    return precision_at(relevance, 1)


def interpolated_precision(relevance: Relevance, relevant: Counts) -> Values:
    """The best precision at each recall of RECALL_LEVELS or any higher one, [Q, 101]; 0 past the last found (IIR 8.4).

    The mean over queries is the precision/recall curve.
    """
    curves = np.zeros((len(relevance), len(RECALL_LEVELS)))
    for curve, row, count in zip(curves, relevance, relevant, strict=True):
        ranks = np.flatnonzero(row) + 1
        if not len(ranks):
            continue
        # At the rank of each right hit, the best of this and all further ones.
        precisions = np.maximum.accumulate((np.arange(1, len(ranks) + 1) / ranks)[::-1])[::-1]
        # So many right hits reach a level; a little less, because a tenth of ten is not quite one in floating point.
        needed = np.maximum(np.ceil(RECALL_LEVELS * count - 1e-9), 1).astype(int)
        reached = needed <= len(ranks)
        curve[reached] = precisions[needed[reached] - 1]
    return curves


def measures(relevance: Relevance, relevant: Counts, cutoffs: Sequence[int]) -> dict[str, Values]:
    """The measures that only the first hits decide, by name: those of the first one, and those at each cutoff."""
    found = {"P@1": first_hit(relevance), f"MRR@{max(cutoffs)}": reciprocal_rank(relevance[:, : max(cutoffs)])}
    for k in cutoffs:
        found[f"P@{k}"] = precision_at(relevance, k)
        found[f"recall@{k}"] = recall_at(relevance, relevant, k)
        found[f"nDCG@{k}"] = ndcg_at(relevance, relevant, k)
        found[f"AP@{k}"] = average_precision(relevance, relevant, k)
    return found


def whole_measures(relevance: Relevance, relevant: Counts) -> dict[str, Values]:
    """The measures that need the ranking of everything, by name."""
    return {
        "mAP": average_precision(relevance, relevant),
        "MRR": reciprocal_rank(relevance),
        "R-precision": r_precision(relevance, relevant),
    }


@dataclass(frozen=True)
class Figure:
    """A mean over queries, and its confidence interval of 95 %."""

    mean: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        """As JSON has it."""
        return {"mean": self.mean, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def figures(values: Mapping[str, Values], seed: int = 0) -> dict[str, Figure]:
    """The mean of each measure with its percentile bootstrap interval over queries.

    Queries are drawn with replacement 2,000 times, the same ones for every measure: Efron and Tibshirani, An
    Introduction to the Bootstrap (1993), chapter 13; for searches Sakai, Evaluating Evaluation Metrics based on the
    Bootstrap (SIGIR 2006). Raises ValueError where there is no query.
    """
    if not values:
        return {}
    columns = np.stack(list(values.values()), axis=1)
    low, high = np.quantile(_resampled_means(columns, seed), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    rows = zip(columns.mean(axis=0).tolist(), low.tolist(), high.tolist(), strict=True)
    return {name: Figure(*row) for name, row in zip(values, rows, strict=True)}


def difference(one: Values, other: Values, seed: int = 0) -> Figure:
    """How much better `one` is than `other` on the same queries, by a paired bootstrap.

    It is significant where the interval does not hold 0. Raises ValueError where the queries are not the same number.
    """
    if one.shape != other.shape:
        raise ValueError(f"{len(one)} queries and {len(other)} are not the same")
    return figures({"difference": one - other}, seed)["difference"]


def _resampled_means(columns: Values, seed: int) -> Values:
    """Means [RESAMPLES, M] of the rows of `columns` [Q, M], drawn with replacement."""
    queries = len(columns)
    if not queries:
        raise ValueError("without queries there are no figures")
    random = np.random.default_rng(seed)
    # How often each query is drawn says as much as which ones are.
    even = np.full(queries, 1 / queries)
    return np.concatenate(
        [
            random.multinomial(queries, even, size=RESAMPLED_TOGETHER) @ columns / queries
            for _ in range(RESAMPLES // RESAMPLED_TOGETHER)
        ]
    )


def _divided(numerator: Values | Counts, denominator: Values | Counts) -> Values:
    """The quotients; 0 where the denominator is."""
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
