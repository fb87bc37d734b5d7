"""Groups of images that look the same: single-linkage clusters of all pairs above a threshold."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
from scipy.cluster.hierarchy import DisjointSet
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from imagesearch_analysis.judged_pairs import JudgedPairs
from imagesearch_analysis.nearest import Doubles, Pairs, Positions, block_rows, pairs_above, similarities
from imagesearch_analysis.pictures import Size, at_once, read_size
from imagesearch_analysis.snapshot import Described, Snapshot
from imagesearch_analysis.wording import Action, Keep
from imagesearch_client.types import Metric

# Pairs that wait to be reduced to those that count, at least; more where more of them count.
WAITING_PAIRS = 1_000_000
# The strength of pairs that a person has judged to be duplicates, and of images with one file: above all scores.
JUDGED, SAME_FILE = np.inf, np.finfo(np.float64).max
# Points of a curve.
CURVE_STEPS = 200


@dataclass(frozen=True, slots=True)
class Member:
    """An image of a group."""

    image: Described
    action: Action
    score: float
    """With the image that is kept."""
    same_file: bool
    """Whether its file is that of the image that is kept, byte for byte."""
    size: Size | None
    """None where its file cannot be read, or was not looked at."""


@dataclass(frozen=True, slots=True)
class Curve:
    """How many pairs and groups there are by threshold, and how many images are in a group and not the first there."""

    thresholds: Doubles
    pairs: Positions
    groups: Positions
    repeats: Positions


@dataclass(frozen=True, slots=True)
class Likeness:
    """What is alike in a snapshot, as far as groups need it.

    A maximum spanning forest of all pairs has the same groups as all of them, at any threshold, and at most one pair
    for each image (J. Gower and G. Ross, Minimum Spanning Trees and Single Linkage Cluster Analysis, 1969). Where a
    person has parted pairs, it is a forest with one of their images in each of its trees, and for any two of those
    trees the strongest pair between them.
    """

    links: Pairs
    """The strongest first; JUDGED and SAME_FILE stand for the scores of those."""
    images: int
    apart: Sequence[tuple[int, int]]
    """Pairs that a person has judged to be no duplicates."""
    thresholds: Doubles
    """float64[CURVE_STEPS + 1]: from the least threshold to the highest score that there can be."""
    pairs: Positions
    """int64[CURVE_STEPS + 1]: how many pairs score at least as much."""


def compare_all(
    snapshot: Snapshot, least: float, judged: JudgedPairs | None = None, tell: Callable[[int], None] = lambda _: None
) -> Likeness:
    """Compares all images with all others.

    Args:
        snapshot: has them.
        least: the lowest threshold that will be asked for.
        judged: what a person has decided. Those of its images that are parted from another one, and what is connected
            with them, are compared a second time.
        tell: is told how many images are compared.
    """
    thresholds = np.linspace(least, max(least, _highest(snapshot)), CURVE_STEPS + 1)
    counts = np.zeros(CURVE_STEPS + 1, np.int64)

    def counted() -> Iterator[Pairs]:
        for pairs in pairs_above(snapshot, least, tell):
            counts[:] += len(pairs.scores) - np.searchsorted(np.sort(pairs.scores), thresholds)
            yield pairs

    sure = _sure(snapshot, judged)
    apart = [] if judged is None else _listed(judged, duplicate=False)
    rivals = np.unique(np.array(apart, np.int64))
    # Images that are parted from others are one node to the forest: so none of its trees has two of them.
    nodes = np.arange(len(snapshot))
    nodes[rivals] = rivals[:1]
    links = _reduced(chain([sure], counted()), lambda pairs: _forest(pairs, nodes))
    if len(rivals):
        # Nothing parts what such a tree connects. Which trees may be joined is only known once groups grow.
        trees = _trees(links, len(snapshot))
        held = np.flatnonzero(np.isin(trees, trees[rivals]))
        again = pairs_above(snapshot, least, among=held)
        between = _reduced(chain([sure], again), lambda pairs: _strongest(pairs, trees))
        links = _sorted(_joined([links, between]))
    return Likeness(links, len(snapshot), apart, thresholds, counts)


def groups(likeness: Likeness, threshold: float) -> list[list[int]]:
    """The positions of two images or more that are connected by pairs of at least this score; the largest group first.

    Images that are judged to be duplicates are connected, and those that are judged to be none are never in one group,
    whatever connects them: of the pairs that would join them the weakest is left out.
    """
    merging = _Merging(likeness)
    for left, right, score in _edges(likeness):
        if score >= threshold:
            merging.connect(left, right)
    found = [sorted(group) for group in merging.sets.subsets() if len(group) > 1]
    return sorted(found, key=lambda group: (-len(group), group))


def curve(likeness: Likeness) -> Curve:
    """How many groups there are at each threshold, from the highest to the lowest."""
    merging = _Merging(likeness)
    edges = list(_edges(likeness))
    group_counts, repeats = np.zeros((2, len(likeness.thresholds)), np.int64)
    done = 0
    for step in reversed(range(len(likeness.thresholds))):
        while done < len(edges) and edges[done][2] >= likeness.thresholds[step]:
            merging.connect(*edges[done][:2])
            done += 1
        group_counts[step], repeats[step] = merging.groups, merging.merged
    return Curve(likeness.thresholds, likeness.pairs, group_counts, repeats)


def members(
    snapshot: Snapshot,
    found: Sequence[Sequence[int]],
    keep: Keep,
    threshold: float,
    judged: JudgedPairs | None = None,
    tell: Callable[[int], None] = lambda _: None,
    *,
    trusted: bool = False,
) -> Iterator[list[Member]]:
    """The images of each group, that which is kept first, the others by id.

    Args:
        snapshot: has them.
        found: their positions.
        keep: which one is kept. The largest is that of the most pixels, then of the most bytes, then the first; those
            that cannot be read are less.
        threshold: what scores at least as much with the kept one may be removed if the threshold is `trusted`.
        judged: what a person has decided to be a duplicate of the kept one may be removed.
        tell: is told how many groups are done.
        trusted: whether the threshold was checked. If not, pictures that only look alike are to be reviewed; copies of
            the kept one's file may always be removed.
    """
    duplicates = set() if judged is None else set(_listed(judged, duplicate=True))
    for number, group in enumerate(found, start=1):
        images = [snapshot.describe(position) for position in group]
        sizes = (
            list(at_once(lambda image: read_size(image.uri), images)) if keep is Keep.LARGEST else [None] * len(images)
        )
        kept = _kept(sizes, keep)
        positions = np.array(group, np.int64)
        scores = similarities(snapshot, positions, np.full_like(positions, group[kept]))
        order = [kept, *(place for place in range(len(group)) if place != kept)]
        alike = [
            (trusted and score >= threshold) or (min(position, group[kept]), max(position, group[kept])) in duplicates
            for position, score in zip(group, scores.tolist(), strict=True)
        ]
        yield [
            _member(images[place], images[kept], float(scores[place]), sizes[place], alike=alike[place])
            for place in order
        ]
        tell(number)


def _member(image: Described, kept: Described, score: float, size: Size | None, *, alike: bool) -> Member:
    same_file = image.content_sha256 == kept.content_sha256 != "" and image.region == kept.region
    action = Action.KEEP if image is kept else Action.REMOVE if same_file or alike else Action.REVIEW
    return Member(image, action, score, same_file, size)


def _kept(sizes: Sequence[Size | None], keep: Keep) -> int:
    """Which of a group, in the order of ids, is kept."""
    if keep is Keep.LAST:
        return len(sizes) - 1
    return max(range(len(sizes)), key=lambda place: (_extent(sizes[place]), -place))


def _extent(size: Size | None) -> tuple[int, int]:
    return (0, 0) if size is None else (size.pixels, size.bytes)


class _Merging:
    """Sets of images that grow together, but for those that are to stay apart."""

    def __init__(self, likeness: Likeness) -> None:
        self.sets = DisjointSet(range(likeness.images))
        self.groups = 0
        """Sets of two images or more."""
        self.merged = 0
        """Images that are in a set with another one that comes before them."""
        # Of each set, by its root, the images that it must not be merged with.
        self._rivals: dict[int, set[int]] = {}
        for left, right in likeness.apart:
            self._rivals.setdefault(left, set()).add(right)
            self._rivals.setdefault(right, set()).add(left)

    def connect(self, left: int, right: int) -> None:
        one, other = self.sets[left], self.sets[right]
        if one == other or any(self.sets[rival] == other for rival in self._rivals.get(one, ())):
            return
        grown = sum(self.sets.subset_size(root) > 1 for root in (one, other))
        self.groups += 1 - grown
        self.merged += 1
        self.sets.merge(one, other)
        rivals = self._rivals.pop(one, set()) | self._rivals.pop(other, set())
        if rivals:
            self._rivals[self.sets[left]] = rivals


def _edges(likeness: Likeness) -> Iterator[tuple[int, int, float]]:
    """The pairs that connect, the strongest first."""
    links = likeness.links
    return zip(links.left.tolist(), links.right.tolist(), links.scores.tolist(), strict=True)


def _listed(judged: JudgedPairs, *, duplicate: bool) -> list[tuple[int, int]]:
    """The pairs of one verdict."""
    some = judged.duplicate == duplicate
    return list(zip(judged.left[some].tolist(), judged.right[some].tolist(), strict=True))


def _sure(snapshot: Snapshot, judged: JudgedPairs | None) -> Pairs:
    """Pairs that connect whatever they score.

    Images with one file are a chain, and each that somebody has judged is paired with all others of its file: where
    some are parted, what is not stays connected.
    """
    duplicates = [] if judged is None else _listed(judged, duplicate=True)
    decided = set() if judged is None else {*judged.left.tolist(), *judged.right.tolist()}
    same: list[tuple[int, int]] = []
    for group in snapshot.same_content():
        same += pairwise(position for position in group if position not in decided)
        for one in decided.intersection(group):
            same += [(min(one, other), max(one, other)) for other in group if other != one]
    return _joined([_of_list(duplicates, JUDGED), _of_list(same, SAME_FILE)])


def _reduced(parts: Iterable[Pairs], reduce: Callable[[Pairs], Pairs]) -> Pairs:
    """All parts reduced as if they were one, which takes the room of WAITING_PAIRS or twice what is left of them."""
    waiting: list[Pairs] = []
    count, limit = 0, WAITING_PAIRS
    for part in parts:
        waiting.append(part)
        count += len(part.left)
        if count > limit:
            waiting = [reduce(_joined(waiting))]
            count = len(waiting[0].left)
            limit = max(WAITING_PAIRS, 2 * count)
    return reduce(_joined(waiting))


def _forest(pairs: Pairs, nodes: Positions) -> Pairs:
    """A maximum spanning forest of the nodes that the images stand for: int64[images]."""
    pairs = _strongest(pairs, nodes)
    # Its weights are ranks: they are all different, and none is 0, which would be no pair.
    ranks = np.arange(1.0, len(pairs.left) + 1)
    tree = minimum_spanning_tree(_graph(ranks, nodes[pairs.left], nodes[pairs.right], len(nodes)))
    return _some(pairs, np.sort(tree.data).astype(np.int64) - 1)


def _strongest(pairs: Pairs, nodes: Positions) -> Pairs:
    """The strongest pair between any two nodes that the images stand for, int64[images]; the strongest first."""
    pairs = _sorted(pairs)
    low, high = np.sort([nodes[pairs.left], nodes[pairs.right]], axis=0)
    _, first = np.unique(low * len(nodes) + high, return_index=True)
    first.sort()
    return _some(pairs, first[low[first] != high[first]])


def _trees(forest: Pairs, images: int) -> Positions:
    """int64[images]: the number of the tree that each is in."""
    graph = _graph(np.ones(len(forest.left)), forest.left, forest.right, images)
    trees: Positions = connected_components(graph, directed=False)[1].astype(np.int64)
    return trees


def _graph(weights: Doubles, left: Positions, right: Positions, nodes: int) -> csr_array:
    return coo_array((weights, (left, right)), shape=(nodes, nodes)).tocsr()


def _sorted(pairs: Pairs) -> Pairs:
    """The strongest first; of equal ones by position."""
    return _some(pairs, np.lexsort((pairs.right, pairs.left, -pairs.scores)))


def _some(pairs: Pairs, places: Positions) -> Pairs:
    return Pairs(pairs.left[places], pairs.right[places], pairs.scores[places])


def _joined(parts: Sequence[Pairs]) -> Pairs:
    left, right, scores = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("left", "right", "scores")
    )
    return Pairs(left, right, scores)


def _of_list(pairs: Sequence[tuple[int, int]], strength: float) -> Pairs:
    sides = np.array(pairs, np.int64).reshape(-1, 2)
    return Pairs(sides[:, 0], sides[:, 1], np.full(len(sides), strength))


def _highest(snapshot: Snapshot) -> float:
    """What no score can exceed."""
    if snapshot.metric is not Metric.IP:
        return 1.0
    rows = block_rows(snapshot.dimension)
    blocks = (snapshot.block(begin, begin + rows) for begin in range(0, len(snapshot), rows))
    return max((float(np.square(block, dtype=np.float64).sum(axis=1).max()) for block in blocks), default=1.0)
