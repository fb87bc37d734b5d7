"""Compares all images with all, and keeps only the pairs that decide which images form groups at any threshold.

Groups are the connected components of all pairs above a threshold (single linkage). A maximum spanning forest of the
pairs has the same groups at any threshold, and at most one pair for each image (J. Gower and G. Ross, Minimum Spanning
Trees and Single Linkage Cluster Analysis, 1969).

Separated images, which a person has judged to be no duplicates, need more pairs: a pair that the forest omits may be
needed if one of the stronger pairs is not used. So no tree contains two separated images, and for any two trees with
separated images the strongest pair between them is kept.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from imagesearch_analysis.exact_search import Pairs, pairs_above
from imagesearch_analysis.judged_pairs import JudgedPairs
from imagesearch_analysis.snapshot import Snapshot
from imagesearch_analysis.vectors import Doubles, Positions, blocks
from imagesearch_client.types import Metric

# Pairs are collected up to this number, or to twice the number that the last reduction kept, before the next reduction.
MAX_COLLECTED_PAIRS = 1_000_000
# The strength of judged duplicates, and of images with the same file: above all scores.
JUDGED, SAME_FILE = np.inf, np.finfo(np.float64).max
CURVE_STEPS = 200


@dataclass(frozen=True, slots=True)
class SimilarityForest:
    """The pairs of a snapshot that decide its groups at any threshold."""

    links: Pairs
    """Strongest first; JUDGED and SAME_FILE replace scores."""
    images: int
    separated: Sequence[tuple[int, int]]
    """Pairs that a person has judged to be no duplicates."""
    thresholds: Doubles
    """float64[CURVE_STEPS + 1]: from the lowest threshold to the highest possible score."""
    pairs: Positions
    """int64[CURVE_STEPS + 1]: the number of pairs that reach each threshold."""

    def edges(self) -> Iterator[tuple[int, int, float]]:
        """Return the links, strongest first."""
        links = self.links
        return zip(links.left.tolist(), links.right.tolist(), links.scores.tolist(), strict=True)


def compare_all(
    snapshot: Snapshot,
    min_threshold: float,
    judged: JudgedPairs | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> SimilarityForest:
    """Compare all images with all, and return the forest.

    Args:
        snapshot: the images.
        min_threshold: the lowest threshold that the forest must answer.
        judged: the decisions of a person. Images that are connected with a separated image are compared twice.
        on_progress: receives the number of images that were compared with all others.
    """
    thresholds = np.linspace(min_threshold, max(min_threshold, _highest_score(snapshot)), CURVE_STEPS + 1)
    counts = np.zeros(CURVE_STEPS + 1, np.int64)

    def counted() -> Iterator[Pairs]:
        for pairs in pairs_above(snapshot, min_threshold, on_progress):
            counts[:] += len(pairs.scores) - np.searchsorted(np.sort(pairs.scores), thresholds)
            yield pairs

    certain = _certain_pairs(snapshot, judged)
    separated = [] if judged is None else judged.listed(duplicate=False)
    rivals = np.unique(np.array(separated, np.int64))
    # All separated images are one node for the forest, so no tree contains two of them.
    nodes = np.arange(len(snapshot))
    nodes[rivals] = rivals[:1]
    links = _reduced(chain([certain], counted()), lambda pairs: _spanning_forest(pairs, nodes))
    if len(rivals):
        # Which trees may be joined is only known when groups are merged in order of strength.
        trees = _trees(links, len(snapshot))
        among = np.flatnonzero(np.isin(trees, trees[rivals]))
        again = pairs_above(snapshot, min_threshold, among=among)
        between = _reduced(chain([certain], again), lambda pairs: _strongest(pairs, trees))
        links = _sorted(_joined([links, between]))
    return SimilarityForest(links, len(snapshot), separated, thresholds, counts)


def _certain_pairs(snapshot: Snapshot, judged: JudgedPairs | None) -> Pairs:
    """Return the pairs that connect images at any score: judged duplicates, and images with the same file.

    Images with the same file form a chain. A judged image is paired with all images of its file instead: the chain must
    not break if the image is separated from some of them.
    """
    duplicates = [] if judged is None else judged.listed(duplicate=True)
    decided = set() if judged is None else {*judged.left.tolist(), *judged.right.tolist()}
    same_file: list[tuple[int, int]] = []
    for group in snapshot.groups_of_same_file():
        same_file += pairwise(position for position in group if position not in decided)
        for one in decided.intersection(group):
            same_file += [(min(one, other), max(one, other)) for other in group if other != one]
    return _joined([_with_strength(duplicates, JUDGED), _with_strength(same_file, SAME_FILE)])


def _reduced(parts: Iterable[Pairs], reduce: Callable[[Pairs], Pairs]) -> Pairs:
    """Return the reduction of all parts together, with the memory of few parts at a time."""
    collected: list[Pairs] = []
    count, limit = 0, MAX_COLLECTED_PAIRS
    for part in parts:
        collected.append(part)
        count += len(part.left)
        if count > limit:
            collected = [reduce(_joined(collected))]
            count = len(collected[0].left)
            limit = max(MAX_COLLECTED_PAIRS, 2 * count)
    return reduce(_joined(collected))


def _spanning_forest(pairs: Pairs, nodes: Positions) -> Pairs:
    """Return a maximum spanning forest of the nodes, int64[images], that the images belong to."""
    pairs = _strongest(pairs, nodes)
    # Ranks are unique weights, and start at 1: a weight of 0 would be no edge.
    ranks = np.arange(1.0, len(pairs.left) + 1)
    tree = minimum_spanning_tree(_graph(ranks, nodes[pairs.left], nodes[pairs.right], len(nodes)))
    return _selected(pairs, np.sort(tree.data).astype(np.int64) - 1)


def _strongest(pairs: Pairs, nodes: Positions) -> Pairs:
    """Return the strongest pair between any two nodes, int64[images], strongest first."""
    pairs = _sorted(pairs)
    low, high = np.sort([nodes[pairs.left], nodes[pairs.right]], axis=0)
    _, first = np.unique(low * len(nodes) + high, return_index=True)
    first.sort()
    return _selected(pairs, first[low[first] != high[first]])


def _trees(forest: Pairs, images: int) -> Positions:
    """Return int64[images]: the number of the tree of each image."""
    graph = _graph(np.ones(len(forest.left)), forest.left, forest.right, images)
    trees: Positions = connected_components(graph, directed=False)[1].astype(np.int64)
    return trees


def _graph(weights: Doubles, left: Positions, right: Positions, nodes: int) -> csr_array:
    return coo_array((weights, (left, right)), shape=(nodes, nodes)).tocsr()


def _sorted(pairs: Pairs) -> Pairs:
    """Return the pairs, strongest first, and equal ones by position."""
    return _selected(pairs, np.lexsort((pairs.right, pairs.left, -pairs.scores)))


def _selected(pairs: Pairs, indexes: Positions) -> Pairs:
    return Pairs(pairs.left[indexes], pairs.right[indexes], pairs.scores[indexes])


def _joined(parts: Sequence[Pairs]) -> Pairs:
    left, right, scores = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("left", "right", "scores")
    )
    return Pairs(left, right, scores)


def _with_strength(pairs: Sequence[tuple[int, int]], strength: float) -> Pairs:
    sides = np.array(pairs, np.int64).reshape(-1, 2)
    return Pairs(sides[:, 0], sides[:, 1], np.full(len(sides), strength))


def _highest_score(snapshot: Snapshot) -> float:
    """Return an upper bound of all scores."""
    if snapshot.metric is not Metric.IP:
        return 1.0
    squares = (float(np.square(block, dtype=np.float64).sum(axis=1).max()) for _, block in blocks(snapshot))
    return max(squares, default=1.0)
