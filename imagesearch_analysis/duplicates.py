"""Groups images that look the same, and decides what to do with each image of a group."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import DisjointSet

from imagesearch_analysis.choices import Action, Keep
from imagesearch_analysis.exact_search import scores_of_pairs
from imagesearch_analysis.judged_pairs import JudgedPairs
from imagesearch_analysis.pictures import Size, map_in_threads, read_size
from imagesearch_analysis.similarity_forest import SimilarityForest
from imagesearch_analysis.snapshot import Snapshot, SnapshotImage
from imagesearch_analysis.vectors import Doubles, Positions


@dataclass(frozen=True, slots=True)
class Member:
    """An image of a group."""

    image: SnapshotImage
    action: Action
    score: float
    """The score with the kept image."""
    same_file: bool
    """Whether its file is a copy of the kept file, byte for byte."""
    size: Size | None
    """None if the file was not read, or cannot be read."""


@dataclass(frozen=True, slots=True)
class ThresholdCurve:
    """The numbers of pairs, groups and repeated images by threshold."""

    thresholds: Doubles
    pairs: Positions
    groups: Positions
    repeated: Positions
    """The number of images that are in a group and not its first image."""


def groups_above(forest: SimilarityForest, threshold: float) -> list[list[int]]:
    """Return the positions of each group at a threshold, largest group first.

    Judged duplicates are always in one group. Separated images are never in one group: the weakest pair that would join
    them is left out.
    """
    sets = _GrowingSets(forest)
    for left, right, score in forest.edges():
        if score >= threshold:
            sets.connect(left, right)
    groups = [sorted(group) for group in sets.sets.subsets() if len(group) > 1]
    return sorted(groups, key=lambda group: (-len(group), group))


def threshold_curve(forest: SimilarityForest) -> ThresholdCurve:
    """Return the numbers of pairs, groups and repeated images at each threshold of the forest."""
    sets = _GrowingSets(forest)
    edges = list(forest.edges())
    groups, repeated = np.zeros((2, len(forest.thresholds)), np.int64)
    done = 0
    for step in reversed(range(len(forest.thresholds))):
        while done < len(edges) and edges[done][2] >= forest.thresholds[step]:
            sets.connect(*edges[done][:2])
            done += 1
        groups[step], repeated[step] = sets.groups, sets.repeated
    return ThresholdCurve(forest.thresholds, forest.pairs, groups, repeated)


class _GrowingSets:
    """Sets of images that are merged pair by pair; two separated images never get into one set."""

    def __init__(self, forest: SimilarityForest) -> None:
        self.sets = DisjointSet(range(forest.images))
        self.groups = 0
        """The number of sets with at least two images."""
        self.repeated = 0
        """The number of images that are in a set and not its first image."""
        # The separated images of each set, by the root of the set.
        self._rivals: dict[int, set[int]] = {}
        for left, right in forest.separated:
            self._rivals.setdefault(left, set()).add(right)
            self._rivals.setdefault(right, set()).add(left)

    def connect(self, left: int, right: int) -> None:
        """Merge the sets of two images, unless that would join separated images."""
        one, other = self.sets[left], self.sets[right]
        if one == other or any(self.sets[rival] == other for rival in self._rivals.get(one, ())):
            return
        self.groups += 1 - sum(self.sets.subset_size(root) > 1 for root in (one, other))
        self.repeated += 1
        self.sets.merge(one, other)
        if rivals := self._rivals.pop(one, set()) | self._rivals.pop(other, set()):
            self._rivals[self.sets[left]] = rivals


def members(
    snapshot: Snapshot,
    groups: Sequence[Sequence[int]],
    keep: Keep,
    threshold: float,
    judged: JudgedPairs | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
    *,
    trusted: bool = False,
) -> Iterator[list[Member]]:
    """Return the images of each group with an action: first the kept image, then the others by id.

    Copies of the kept file, and judged duplicates of the kept image, get the action REMOVE.

    Args:
        snapshot: the images.
        groups: the positions of each group.
        keep: which image is kept. LARGEST is the image with the most pixels, then the most bytes, then the lowest id.
        threshold: the threshold of the groups.
        judged: the decisions of a person.
        on_progress: receives the number of groups that are done.
        trusted: whether a person has checked the threshold. Only then do images that score at least as much with the
            kept image get the action REMOVE; otherwise REVIEW.
    """
    duplicates = set() if judged is None else set(judged.listed(duplicate=True))
    for number, group in enumerate(groups, start=1):
        images = [snapshot.image(position) for position in group]
        sizes: list[Size | None] = [None] * len(images)
        if keep is Keep.LARGEST:
            sizes = list(map_in_threads(lambda image: read_size(image.uri), images))
        kept = _kept_index(sizes, keep)
        positions = np.array(group, np.int64)
        scores = scores_of_pairs(snapshot, positions, np.full_like(positions, group[kept])).tolist()
        found = []
        for index in (kept, *(other for other in range(len(group)) if other != kept)):
            pair = min(group[index], group[kept]), max(group[index], group[kept])
            removable = (trusted and scores[index] >= threshold) or pair in duplicates
            found.append(_member(images[index], images[kept], scores[index], sizes[index], removable=removable))
        yield found
        on_progress(number)


def _member(image: SnapshotImage, kept: SnapshotImage, score: float, size: Size | None, *, removable: bool) -> Member:
    same_file = image.content_sha256 == kept.content_sha256 != "" and image.region == kept.region
    action = Action.KEEP if image is kept else Action.REMOVE if same_file or removable else Action.REVIEW
    return Member(image, action, score, same_file, size)


def _kept_index(sizes: Sequence[Size | None], keep: Keep) -> int:
    """Return the index of the kept image of a group, whose images are ordered by id."""
    if keep is Keep.LAST:
        return len(sizes) - 1
    return max(range(len(sizes)), key=lambda index: (_extent(sizes[index]), -index))


def _extent(size: Size | None) -> tuple[int, int]:
    return (0, 0) if size is None else (size.pixels, size.bytes)
