"""Exact search: compare every query with every vector, in blocks that bound the memory.

`nearest` and `pairs_above` find candidates with matrix products in float32, and compare each candidate again in
float64. The rounding error of a product has a known bound (N. Higham, Accuracy and Stability of Numerical Algorithms,
2nd ed., 2002, section 3.1). Every vector within that bound of the last place is a candidate. So the results are exact,
and they do not depend on the block size. `rank_all` compares all vectors in float64, and rounds to float32 only to
order them.

Vectors with equal scores come in the order of their positions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from imagesearch_analysis.scores import lowest_closeness, scores_and_distances
from imagesearch_analysis.vectors import Doubles, Floats, PartedVectors, Positions, VectorSet, block_rows, blocks
from imagesearch_client.types import Metric

NO_POSITION = -1
# Candidates are selected from at most this many pairs at a time: among similar vectors, all pairs may be candidates.
SLICE_PAIRS = 1024 * 1024
# Pairs are compared in float64 in groups, whose vectors have at most this many bytes.
PAIR_BYTES = 16 * 1024 * 1024
# `rank_all` keeps about this many bytes for each query and target: the closeness, the order and the caller's arrays.
BYTES_PER_TARGET, RANKED_BYTES, MAX_RANKED_QUERIES = 32, 256 * 1024 * 1024, 256
# The largest relative error of one operation in float32.
UNIT_ROUNDOFF = 2.0**-24
# Below this part of the squared lengths, a squared distance is computed again from the differences.
CANCELLATION = 1e-6


@dataclass(frozen=True, slots=True)
class Neighbors:
    """The nearest vectors of each query, nearest first."""

    positions: Positions
    """int64[queries, k]; NO_POSITION if there are fewer than k vectors."""
    scores: Doubles
    """float64[queries, k] as the service defines scores: higher is nearer; NaN if there are fewer than k vectors."""
    distances: Doubles
    """float64[queries, k] as the service defines distances; NaN if there are fewer than k vectors."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of positions with their scores."""

    left: Positions
    right: Positions
    scores: Doubles


@dataclass(frozen=True, slots=True)
class Ranking:
    """All targets of each query in order, and the nearest of them."""

    order: Positions
    """int64[queries, targets]: indexes into the targets, nearest first. An excluded target is last."""
    nearest: Neighbors


def nearest(vectors: VectorSet, queries: Floats, k: int, *, excluded: Positions | None = None) -> Neighbors:
    """Return the k nearest vectors of each query.

    Args:
        vectors: the vectors to search.
        queries: float32[queries, dimension], as `VectorSet.block` returns vectors.
        k: the number of neighbors of each query.
        excluded: int64[queries]: one position to leave out for each query, such as its own; None leaves out none.
    """
    best = _BestSoFar(len(queries), k)
    for begin, block in blocks(vectors):
        closeness, error = _approximate_closeness(queries, block, vectors.metric)
        if excluded is not None:
            inside = np.flatnonzero((excluded >= begin) & (excluded < begin + len(block)))
            closeness[inside, excluded[inside] - begin] = -np.inf
        # k + 1 equal vectors precede these, so at least k remain even if one is excluded.
        closeness[:, _repeated_vectors(block, k + 1)] = -np.inf
        for query, column in _at_least(closeness, best.lower_bound(closeness) - error):
            best.add(query, column + begin, _exact_closeness(queries, block, query, column, vectors.metric))
    return Neighbors(best.positions, *scores_and_distances(best.closeness, vectors.metric))


def pairs_above(
    vectors: VectorSet,
    min_score: float,
    on_progress: Callable[[int], None] = lambda _: None,
    *,
    among: Positions | None = None,
) -> Iterator[Pairs]:
    """Return all pairs of two vectors that score at least `min_score`, in parts of about a million pairs at most.

    Each pair comes once, with the lower position as `left`.

    Args:
        vectors: the vectors to compare.
        min_score: the lowest score.
        on_progress: receives the number of vectors that were compared with all others.
        among: int64[n], ascending: the positions to compare; None compares all.
    """
    rows = block_rows(vectors.dimension)
    count = len(vectors) if among is None else len(among)
    lowest = lowest_closeness(min_score, vectors.metric)
    for above in range(0, count, rows):
        queries = _read(vectors, among, above, above + rows)
        for begin in range(above, count, rows):
            block = queries if begin == above else _read(vectors, among, begin, begin + rows)
            closeness, error = _approximate_closeness(queries, block, vectors.metric)
            for query, column in _at_least(closeness, lowest - error):
                once = query + above < column + begin
                left, right = query[once], column[once]
                exact = _exact_closeness(queries, block, left, right, vectors.metric)
                scores, _ = scores_and_distances(exact, vectors.metric)
                kept = scores >= min_score
                if kept.any():
                    left, right = left[kept] + above, right[kept] + begin
                    if among is not None:
                        left, right = among[left], among[right]
                    yield Pairs(left, right, scores[kept])
        on_progress(above + len(queries))


def scores_of_pairs(vectors: VectorSet, left: Positions, right: Positions) -> Doubles:
    """Return float64[pairs]: the score of each pair of positions."""
    scores = np.empty(len(left))
    step = _pairs_at_a_time(vectors.dimension)
    for begin in range(0, len(left), step):
        part = slice(begin, begin + step)
        closeness = _compare_rows(vectors.at(left[part]), vectors.at(right[part]), vectors.metric)
        scores[part] = scores_and_distances(closeness, vectors.metric)[0]
    return scores


def rank_all(
    vectors: VectorSet, queries: Floats, depth: int, targets: Positions | None, excluded: Positions
) -> Ranking:
    """Return the order of all targets for each query. `ranked_queries` says how many queries fit into memory.

    Args:
        vectors: the vectors to search; of `PartedVectors`, the best part of each image counts.
        queries: float32[queries, dimension], as `VectorSet.block` returns vectors.
        depth: the number of nearest targets to return with scores.
        targets: int64[targets], ascending: the positions that may be hits; None is all.
        excluded: int64[queries]: one position to leave out for each query, or NO_POSITION.
    """
    places = np.arange(len(vectors)) if targets is None else targets
    closeness = np.empty((len(queries), len(places)), np.float32)
    if isinstance(vectors, PartedVectors):
        _fill_with_best_parts(closeness, vectors, queries, places)
    else:
        rows = block_rows(vectors.dimension)
        for begin in range(0, len(places), rows):
            block = _read(vectors, targets, begin, begin + rows)
            closeness[:, begin : begin + len(block)] = _double_closeness(queries, block, vectors.metric)
    own = np.searchsorted(places, excluded).clip(max=max(0, len(places) - 1))
    is_target = np.flatnonzero(places[own] == excluded) if len(places) else np.empty(0, np.int64)
    closeness[is_target, own[is_target]] = -np.inf
    order = np.argsort(-closeness, axis=1, kind="stable")
    first = order[:, :depth]
    best = np.take_along_axis(closeness, first, axis=1).astype(np.float64)
    positions = np.where(np.isneginf(best), NO_POSITION, places[first])
    return Ranking(order, Neighbors(positions, *scores_and_distances(best, vectors.metric)))


def _fill_with_best_parts(closeness: Floats, vectors: PartedVectors, queries: Floats, places: Positions) -> None:
    """Write the closeness of the best part of each image; minus infinity for an image without parts."""
    step = max(1, block_rows(vectors.dimension) // vectors.parts_per_image)
    for begin in range(0, len(places), step):
        some = places[begin : begin + step]
        parts = vectors.parts(some)
        each = _double_closeness(queries, parts, vectors.metric)
        each[:, ~parts.any(axis=1)] = -np.inf
        closeness[:, begin : begin + len(some)] = each.reshape(len(queries), len(some), -1).max(axis=2)


def ranked_queries(targets: int) -> int:
    """Return how many queries `rank_all` should get at a time."""
    return int(np.clip(RANKED_BYTES // (BYTES_PER_TARGET * max(targets, 1)), 1, MAX_RANKED_QUERIES))


class _BestSoFar:
    """The k nearest vectors of each query among the vectors that were added."""

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self.closeness: Doubles = np.full((queries, k), -np.inf)
        self.positions: Positions = np.full((queries, k), NO_POSITION, np.int64)

    def lower_bound(self, closeness: Floats) -> Doubles:
        """Return float64[queries]: the closeness that a vector needs to be among the k nearest.

        `closeness`, float32[queries, block], is that of the block that is added next.
        """
        bound = self.closeness[:, -1].copy()
        if closeness.shape[1] >= self._k and (incomplete := np.isneginf(bound)).any():
            bound[incomplete] = np.partition(closeness[incomplete], -self._k, axis=1)[:, -self._k]
        return bound

    def add(self, query: Positions, positions: Positions, closeness: Doubles) -> None:
        """Add vectors: the query, the position and the closeness of each."""
        changed = np.unique(query)
        rows = np.concatenate([np.repeat(changed, self._k), query])
        all_closeness = np.concatenate([self.closeness[changed].ravel(), closeness])
        all_positions = np.concatenate([self.positions[changed].ravel(), positions])
        order = np.lexsort((all_positions, -all_closeness, rows))
        rows = rows[order]
        first = np.searchsorted(rows, changed)
        rank = np.arange(len(rows)) - np.repeat(first, np.diff(np.append(first, len(rows))))
        kept = order[rank < self._k]
        self.closeness[changed] = all_closeness[kept].reshape(-1, self._k)
        self.positions[changed] = all_positions[kept].reshape(-1, self._k)


def _read(vectors: VectorSet, positions: Positions | None, begin: int, end: int) -> Floats:
    return vectors.block(begin, end) if positions is None else vectors.at(positions[begin:end])


def _approximate_closeness(queries: Floats, block: Floats, metric: Metric) -> tuple[Floats, Doubles]:
    """Return float32[queries, block], and float64[queries]: the largest error of a comparison of two of its values."""
    closeness: Floats = queries @ block.T
    squares = np.einsum("ij,ij->i", queries, queries)
    block_squares = np.einsum("ij,ij->i", block, block)
    largest = float(block_squares.max(initial=0.0))
    bound = (queries.shape[1] + 4) * UNIT_ROUNDOFF
    if metric is not Metric.L2:
        return closeness, 2 * bound * np.sqrt(squares.astype(np.float64) * largest)
    closeness *= 2
    closeness -= squares[:, np.newaxis]
    closeness -= block_squares[np.newaxis, :]
    return closeness, 4 * bound * (squares.astype(np.float64) + largest)


def _double_closeness(queries: Floats, block: Floats, metric: Metric) -> Doubles:
    """Return float64[queries, block]: the closeness of all pairs, with an error far below the resolution of float32."""
    left, right = queries.astype(np.float64), block.astype(np.float64)
    closeness: Doubles = left @ right.T
    if metric is Metric.IP:
        return closeness
    left_squares, right_squares = _products(left, left)[:, np.newaxis], _products(right, right)[np.newaxis, :]
    if metric is Metric.COSINE:
        return closeness / np.maximum(np.sqrt(left_squares * right_squares), np.finfo(np.float64).tiny)
    squares = left_squares + right_squares
    closeness = 2 * closeness - squares
    query, column = np.nonzero(closeness > -CANCELLATION * squares)
    closeness[query, column] = _exact_closeness(queries, block, query, column, metric)
    return closeness


def _at_least(closeness: Floats, lowest: Doubles) -> Iterator[tuple[Positions, Positions]]:
    """Return the rows and columns of all values that reach the bound of their row, some rows at a time."""
    # Round down. Excluded pairs are -inf, and stay below every bound.
    bound = np.nextafter(lowest.astype(np.float32), np.float32(-np.inf))
    bound = np.maximum(bound, np.finfo(np.float32).min)[:, np.newaxis]
    step = max(1, SLICE_PAIRS // closeness.shape[1])
    for begin in range(0, len(closeness), step):
        part = slice(begin, begin + step)
        rows, columns = np.nonzero(closeness[part] >= bound[part])
        yield rows.astype(np.int64, copy=False) + begin, columns.astype(np.int64, copy=False)


def _repeated_vectors(block: Floats, count: int) -> Positions:
    """Return the indexes of the vectors that at least `count` equal vectors precede in the block."""
    # The first component is enough to see that most blocks have none.
    if np.unique(block[:, 0], return_counts=True)[1].max() <= count:
        return np.empty(0, np.int64)
    whole = np.ascontiguousarray(block).view(f"V{block.shape[1] * block.itemsize}").ravel()
    _, kinds, counts = np.unique(whole, return_inverse=True, return_counts=True)
    order = np.argsort(kinds, kind="stable")
    preceding = np.arange(len(block)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[preceding >= count]


def _exact_closeness(queries: Floats, block: Floats, query: Positions, column: Positions, metric: Metric) -> Doubles:
    """Return float64[pairs]: the closeness of some pairs, each by its row of the queries and its row of the block."""
    closeness = np.empty(len(query))
    step = _pairs_at_a_time(queries.shape[1])
    for begin in range(0, len(query), step):
        part = slice(begin, begin + step)
        closeness[part] = _compare_rows(queries[query[part]], block[column[part]], metric)
    return closeness


def _compare_rows(one: Floats, other: Floats, metric: Metric) -> Doubles:
    left, right = one.astype(np.float64), other.astype(np.float64)
    if metric is Metric.L2:
        left -= right
        return -_products(left, left)
    products = _products(left, right)
    if metric is Metric.COSINE:
        # Vectors scaled in float32 do not have exactly unit length, and equal vectors must have the cosine 1.
        products /= np.maximum(np.sqrt(_products(left, left) * _products(right, right)), np.finfo(np.float64).tiny)
    return products


def _products(left: Doubles, right: Doubles) -> Doubles:
    products: Doubles = np.einsum("ij,ij->i", left, right)
    return products


def _pairs_at_a_time(dimension: int) -> int:
    return max(1, PAIR_BYTES // (2 * np.dtype(np.float64).itemsize * dimension))
