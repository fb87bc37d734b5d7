"""The exact nearest neighbours among all vectors of a snapshot, by blocks of matrix products.

A product in float32 finds the candidates, and each candidate is compared again in float64. What a product rounds is
bounded (N. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 2002, section 3.1), and whatever is within
that bound of the last place is a candidate: so the result is exact, ties too, and the same with blocks of any size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from imagesearch_analysis.snapshot import FLOAT, Snapshot
from imagesearch_client.types import Metric

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Positions: TypeAlias = NDArray[np.int64]

# Vectors of a block, by rows and by bytes, whichever is less.
BLOCK_ROWS, BLOCK_BYTES = 4096, 32 * 1024 * 1024
# Pairs of a block that are looked through at a time: where much is alike, all of them may be candidates.
SLICE_PAIRS = 1024 * 1024
# Pairs that are compared in float64 at a time, by the bytes of their vectors.
PAIR_BYTES = 16 * 1024 * 1024
# The largest relative error of one operation in float32.
UNIT_ROUNDOFF = 2.0**-24
# Of a score of L2 that is made a distance in float64.
RESCALING = 1e-9


@dataclass(frozen=True, slots=True)
class Neighbors:
    """The nearest vectors of some queries, the nearest first; equal ones by position, which is the order of ids."""

    positions: Positions
    """int64[queries, k]; -1 where there are fewer than k."""
    scores: Doubles
    """float64[queries, k]: as the service gives them, higher is nearer; NaN where there are fewer."""
    distances: Doubles
    """float64[queries, k]: as the service gives them; NaN where there are fewer."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Some pairs of vectors, each by two positions, and the score of each."""

    left: Positions
    right: Positions
    scores: Doubles


def block_rows(dimension: int) -> int:
    """How many vectors a block has."""
    return max(1, min(BLOCK_ROWS, BLOCK_BYTES // (FLOAT.itemsize * dimension)))


def nearest(snapshot: Snapshot, queries: Floats, k: int, *, but: Positions | None = None) -> Neighbors:
    """The k nearest of all vectors to each query.

    Args:
        snapshot: has the vectors.
        queries: float32[queries, dimension], as `Snapshot.comparable` or `Snapshot.block` gives them.
        k: how many for each query.
        but: int64[queries]: a position to leave out for each query, such as its own; None leaves out none.
    """
    best = _Best(len(queries), k)
    rows = block_rows(snapshot.dimension)
    for begin in range(0, len(snapshot), rows):
        block = snapshot.block(begin, begin + rows)
        similarity, slack = _similarity(queries, block, snapshot.metric)
        if but is not None:
            own = np.flatnonzero((but >= begin) & (but < begin + len(block)))
            similarity[own, but[own] - begin] = -np.inf
        # Even without the one that is left out, k that are as near are before these.
        similarity[:, _repeats(block, k + 1)] = -np.inf
        for query, column in _at_least(similarity, best.cut(similarity) - slack):
            exact = _exact(queries, block, query, column, snapshot.metric)
            best.add(query, column + begin, exact)
    return Neighbors(best.positions, *scored(best.values, snapshot.metric))


def pairs_above(
    snapshot: Snapshot,
    score: float,
    tell: Callable[[int], None] = lambda _: None,
    *,
    among: Positions | None = None,
) -> Iterator[Pairs]:
    """All pairs of two different images that score at least so much, each once and the lower position first.

    They come in parts of at most a million or so.

    Args:
        snapshot: has the vectors.
        score: the least one.
        tell: is told how many images are compared with all others.
        among: int64[images] in ascending order: the positions that are compared; None is all of them.
    """

    def read(begin: int) -> Floats:
        if among is None:
            return snapshot.block(begin, begin + rows)
        return snapshot.comparable(np.asarray(snapshot.vectors[among[begin : begin + rows]]))

    rows = block_rows(snapshot.dimension)
    count = len(snapshot) if among is None else len(among)
    least = value_of(score, snapshot.metric)
    for above in range(0, count, rows):
        queries = read(above)
        for begin in range(above, count, rows):
            block = queries if begin == above else read(begin)
            similarity, slack = _similarity(queries, block, snapshot.metric)
            for query, column in _at_least(similarity, least - slack):
                once = query + above < column + begin
                left, right = query[once], column[once]
                scores, _ = scored(_exact(queries, block, left, right, snapshot.metric), snapshot.metric)
                kept = scores >= score
                if kept.any():
                    left, right = left[kept] + above, right[kept] + begin
                    yield Pairs(*((left, right) if among is None else (among[left], among[right])), scores[kept])
        tell(above + len(queries))


def similarities(snapshot: Snapshot, left: Positions, right: Positions) -> Doubles:
    """float64[pairs]: the score of each of some pairs of positions."""
    found = np.empty(len(left))
    step = _pairs_at_a_time(snapshot.dimension)
    for begin in range(0, len(left), step):
        some = slice(begin, begin + step)
        one, other = (snapshot.comparable(np.asarray(snapshot.vectors[side[some]])) for side in (left, right))
        found[some] = scored(_compare(one, other, snapshot.metric), snapshot.metric)[0]
    return found


def scored(values: Doubles, metric: Metric) -> tuple[Doubles, Doubles]:
    """Scores and distances as the service defines them, of cosines, inner products or squared Euclidean distances.

    The squared distances are negative, so that more is nearer; what is not finite is NaN.
    """
    values = np.where(np.isfinite(values), values, np.nan)
    match metric:
        case Metric.COSINE:
            cosines = np.clip(values, -1.0, 1.0)
            return cosines, 1.0 - cosines
        case Metric.IP:
            return values, -values
        case Metric.L2:
            distances = np.sqrt(-values)
            return 1.0 / (1.0 + distances), distances


def value_of(score: float, metric: Metric) -> float:
    """The other way round, and a little less: what no candidate of such a score is below."""
    if metric is not Metric.L2:
        return score
    return -((1.0 / score - 1.0) ** 2) * (1 + RESCALING) if score > 0 else -np.inf


class _Best:
    """The best of what was found so far for each query."""

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self.values: Doubles = np.full((queries, k), -np.inf)
        self.positions: Positions = np.full((queries, k), -1, np.int64)

    def cut(self, similarity: Floats) -> Doubles:
        """float64[queries]: what is less than this is not among the best, of a block that is given."""
        cut = self.values[:, -1].copy()
        # Where there are not enough yet the block itself has them.
        if similarity.shape[1] >= self._k and (lacking := np.isneginf(cut)).any():
            cut[lacking] = np.partition(similarity[lacking], -self._k, axis=1)[:, -self._k]
        return cut

    def add(self, query: Positions, positions: Positions, values: Doubles) -> None:
        """Takes more into account, as many as there are for each query."""
        changed = np.unique(query)
        rows = np.concatenate([np.repeat(changed, self._k), query])
        all_values = np.concatenate([self.values[changed].ravel(), values])
        all_positions = np.concatenate([self.positions[changed].ravel(), positions])
        order = np.lexsort((all_positions, -all_values, rows))
        rows = rows[order]
        # The place of each among those of its query.
        first = np.searchsorted(rows, changed)
        place = np.arange(len(rows)) - np.repeat(first, np.diff(np.append(first, len(rows))))
        kept = order[place < self._k]
        self.values[changed] = all_values[kept].reshape(-1, self._k)
        self.positions[changed] = all_positions[kept].reshape(-1, self._k)


def _similarity(queries: Floats, block: Floats, metric: Metric) -> tuple[Floats, Doubles]:
    """float32[queries, block], more is nearer, and how much rounding may have changed each query's: float64[queries].

    Products for COSINE and IP, the negative square of the distance for L2. The bound is twice that of one product, for
    two of them are compared.
    """
    similarity: Floats = queries @ block.T
    squares = np.einsum("ij,ij->i", queries, queries)
    block_squares = np.einsum("ij,ij->i", block, block)
    largest = float(block_squares.max(initial=0.0))
    bound = (queries.shape[1] + 4) * UNIT_ROUNDOFF
    if metric is not Metric.L2:
        return similarity, 2 * bound * np.sqrt(squares.astype(np.float64) * largest)
    similarity *= 2
    similarity -= squares[:, np.newaxis]
    similarity -= block_squares[np.newaxis, :]
    return similarity, 4 * bound * (squares.astype(np.float64) + largest)


def _at_least(similarity: Floats, least: Doubles) -> Iterator[tuple[Positions, Positions]]:
    """The rows and columns of what is at least as much as each row's bound, and not left out; some rows at a time."""
    # Rounded down, and more than what stands for what is left out.
    bound = np.nextafter(least.astype(np.float32), np.float32(-np.inf))
    bound = np.maximum(bound, np.finfo(np.float32).min)[:, np.newaxis]
    step = max(1, SLICE_PAIRS // similarity.shape[1])
    for begin in range(0, len(similarity), step):
        some = slice(begin, begin + step)
        rows, columns = np.nonzero(similarity[some] >= bound[some])
        yield rows.astype(np.int64, copy=False) + begin, columns.astype(np.int64, copy=False)


def _repeats(block: Floats, most: int) -> Positions:
    """The places in a block of the vectors that have `most` equal ones before them there."""
    # Their first numbers mostly tell that there are none, in far less time.
    if np.unique(block[:, 0], return_counts=True)[1].max() <= most:
        return np.empty(0, np.int64)
    whole = np.ascontiguousarray(block).view(f"V{block.shape[1] * block.itemsize}").ravel()
    _, kinds, counts = np.unique(whole, return_inverse=True, return_counts=True)
    order = np.argsort(kinds, kind="stable")
    before = np.arange(len(block)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[before >= most]


def _exact(queries: Floats, block: Floats, query: Positions, column: Positions, metric: Metric) -> Doubles:
    """float64[pairs]: as `_similarity`, of some pairs and without its rounding."""
    found = np.empty(len(query))
    step = _pairs_at_a_time(queries.shape[1])
    for begin in range(0, len(query), step):
        some = slice(begin, begin + step)
        found[some] = _compare(queries[query[some]], block[column[some]], metric)
    return found


def _compare(one: Floats, other: Floats, metric: Metric) -> Doubles:
    left, right = one.astype(np.float64), other.astype(np.float64)
    if metric is Metric.L2:
        left -= right
        return -_products(left, left)
    products = _products(left, right)
    if metric is Metric.COSINE:
        # Vectors of float32 are of unit length but for rounding, and equal ones should have 1.
        products /= np.maximum(np.sqrt(_products(left, left) * _products(right, right)), np.finfo(np.float64).tiny)
    return products


def _products(left: Doubles, right: Doubles) -> Doubles:
    products: Doubles = np.einsum("ij,ij->i", left, right)
    return products


def _pairs_at_a_time(dimension: int) -> int:
    return max(1, PAIR_BYTES // (2 * np.dtype(np.float64).itemsize * dimension))
