"""Groups of images that look the same: single-linkage clusters of all pairs above a threshold."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import DisjointSet
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from imagesearch_client.analysis.judged_pairs import JudgedPairs
from imagesearch_client.analysis.nearest import Doubles, Pairs, Positions, block_rows, pairs_above, similarities
from imagesearch_client.analysis.pictures import Size, at_once, read_size
from imagesearch_client.analysis.snapshot import Described, Snapshot
from imagesearch_client.analysis.wording import Action, Keep
from imagesearch_client.types import Metric

# Pairs that wait to be put into the forest, at least; more with more images.
WAITING_PAIRS = 1_000_000
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
    for each image (J. Gower and G. Ross, Minimum Spanning Trees and Single Linkage Cluster Analysis, 1969).
    """

    forest: Pairs
    """The highest score first; that of images with the same file is infinite."""
    images: int
    thresholds: Doubles
    """float64[CURVE_STEPS + 1]: from the least threshold to the highest score that there can be."""
    pairs: Positions
    """int64[CURVE_STEPS + 1]: how many pairs score at least as much."""


def compare_all(snapshot: Snapshot, least: float, tell: Callable[[int], None] = lambda _: None) -> Likeness:
    """Compares all images with all others, for thresholds from `least` on; `tell` is told how many are done."""
    thresholds = np.linspace(least, max(least, _highest(snapshot)), CURVE_STEPS + 1)
    counts = np.zeros(CURVE_STEPS + 1, np.int64)
    same = [pair for group in snapshot.same_content() for pair in itertools.pairwise(group)]
    waiting = [_of_list(same)]
    for pairs in pairs_above(snapshot, least, tell):
        waiting.append(pairs)
        counts += len(pairs.scores) - np.searchsorted(np.sort(pairs.scores), thresholds)
        if sum(len(some.left) for some in waiting) > max(WAITING_PAIRS, 2 * len(snapshot)):
            waiting = [_forest(waiting, len(snapshot))]
    return Likeness(_forest(waiting, len(snapshot)), len(snapshot), thresholds, counts)


def groups(likeness: Likeness, threshold: float, judged: JudgedPairs | None = None) -> list[list[int]]:
    """The positions of two images or more that are connected by pairs of at least this score; the largest group first.

    Images that are judged to be duplicates are connected, and those that are judged to be none are never in one group,
    whatever connects them: then of the pairs between them the one of the least score is left out.
    """
    merging = _Merging(likeness.images, judged)
    for left, right, score in _edges(likeness, judged):
        if score >= threshold:
            merging.connect(left, right)
    found = [sorted(group) for group in merging.sets.subsets() if len(group) > 1]
    return sorted(found, key=lambda group: (-len(group), group))


def curve(likeness: Likeness, judged: JudgedPairs | None = None) -> Curve:
    """How many groups there are at each threshold, from the highest to the lowest."""
    merging = _Merging(likeness.images, judged)
    edges = list(_edges(likeness, judged))
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
    tell: Callable[[int], None] = lambda _: None,
) -> Iterator[list[Member]]:
    """The images of each group, that which is kept first, the others by id.

    Args:
        snapshot: has them.
        found: their positions.
        keep: which one is kept. The largest is that of the most pixels, then of the most bytes, then the first; those
            that cannot be read are less.
        threshold: what scores less with the kept one is not to be removed, but to be reviewed.
        tell: is told how many groups are done.
    """
    for number, group in enumerate(found, start=1):
        images = [snapshot.describe(position) for position in group]
        sizes = (
            list(at_once(lambda image: read_size(image.uri), images)) if keep is Keep.LARGEST else [None] * len(images)
        )
        kept = _kept(sizes, keep)
        positions = np.array(group, np.int64)
        scores = similarities(snapshot, positions, np.full_like(positions, group[kept]))
        order = [kept, *(place for place in range(len(group)) if place != kept)]
        yield [_member(images[place], images[kept], float(scores[place]), threshold, sizes[place]) for place in order]
        tell(number)


def _member(image: Described, kept: Described, score: float, threshold: float, size: Size | None) -> Member:
    same_file = image.content_sha256 == kept.content_sha256 != "" and image.region == kept.region
    removable = same_file or score >= threshold
    action = Action.KEEP if image is kept else Action.REMOVE if removable else Action.REVIEW
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

    def __init__(self, images: int, judged: JudgedPairs | None) -> None:
        self.sets = DisjointSet(range(images))
        self.groups = 0
        """Sets of two images or more."""
        self.merged = 0
        """Images that are in a set with another one that comes before them."""
        # Of each set, by its root, the images that it must not be merged with.
        self._rivals: dict[int, set[int]] = {}
        if judged is not None:
            apart = ~judged.duplicate
            for left, right in zip(judged.left[apart].tolist(), judged.right[apart].tolist(), strict=True):
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


def _edges(likeness: Likeness, judged: JudgedPairs | None) -> Iterator[tuple[int, int, float]]:
    """The pairs that connect, the surest first."""
    if judged is not None:
        yield from (
            (left, right, np.inf)
            for left, right in zip(
                judged.left[judged.duplicate].tolist(), judged.right[judged.duplicate].tolist(), strict=True
            )
        )
    forest = likeness.forest
    yield from zip(forest.left.tolist(), forest.right.tolist(), forest.scores.tolist(), strict=True)


def _forest(parts: Sequence[Pairs], images: int) -> Pairs:
    """A maximum spanning forest of some pairs, the highest score first; of equal scores the first pairs."""
    left, right, scores = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("left", "right", "scores")
    )
    order = np.lexsort((right, left, -scores))
    left, right, scores = left[order], right[order], scores[order]
    # A pair may be there twice: by its score, and as one file.
    _, first = np.unique(left * images + right, return_index=True)
    first.sort()
    left, right, scores = left[first], right[first], scores[first]
    # Its weights are ranks: they are all different, and none is 0, which would be no pair.
    ranks = np.arange(1.0, len(left) + 1)
    tree = minimum_spanning_tree(coo_array((ranks, (left, right)), shape=(images, images)).tocsr())
    kept = np.sort(tree.data).astype(np.int64) - 1
    return Pairs(left[kept], right[kept], scores[kept])


def _of_list(pairs: Sequence[tuple[int, int]]) -> Pairs:
    sides = np.array(pairs, np.int64).reshape(-1, 2)
    return Pairs(sides[:, 0], sides[:, 1], np.full(len(sides), np.inf))


def _highest(snapshot: Snapshot) -> float:
    """What no score can exceed."""
    if snapshot.metric is not Metric.IP:
        return 1.0
    rows = block_rows(snapshot.dimension)
    blocks = (snapshot.block(begin, begin + rows) for begin in range(0, len(snapshot), rows))
    return max((float(np.square(block, dtype=np.float64).sum(axis=1).max()) for block in blocks), default=1.0)
