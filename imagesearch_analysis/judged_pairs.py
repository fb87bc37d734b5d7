"""Reads pairs of images that a person has judged, and chooses a threshold by them."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.exact_search import scores_of_pairs
from imagesearch_analysis.snapshot import Snapshot

COLUMNS = ("id_a", "id_b", "duplicate")
VERDICTS = {"1": True, "0": False, "true": True, "false": False}


@dataclass(frozen=True, slots=True)
class JudgedPairs:
    """Pairs of positions in a snapshot, the lower position first, and whether they are duplicates."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    duplicate: NDArray[np.bool_]
    unknown: int = 0
    """The number of pairs that were left out, because the snapshot does not contain both images."""

    def listed(self, *, duplicate: bool) -> list[tuple[int, int]]:
        """Return the pairs that are duplicates, or those that are not."""
        chosen = self.duplicate == duplicate
        return list(zip(self.left[chosen].tolist(), self.right[chosen].tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class ChosenThreshold:
    """A threshold, and how well it separates judged pairs."""

    threshold: float
    precision: float
    recall: float
    pairs: int
    duplicates: int

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return 2 * self.precision * self.recall / (self.precision + self.recall)


def read_pairs(path: Path, snapshot: Snapshot) -> JudgedPairs:
    """Return the pairs of a CSV file with the columns id_a, id_b and duplicate, as far as the snapshot has the images.

    Raises AnalysisError, which names the line; OSError.
    """
    found: dict[tuple[int, int], bool] = {}
    unknown = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
                raise AnalysisError(f"{path} has no column {missing[0]}; it needs {', '.join(COLUMNS)}")
            for row in rows:
                line = f"{path}, line {rows.line_num}"
                verdict = VERDICTS.get((row["duplicate"] or "").strip().lower())
                if verdict is None:
                    raise AnalysisError(f"{line}: duplicate is {row['duplicate']!r:.40}; it must be 0 or 1")
                positions = [snapshot.position(row[name] or "") for name in COLUMNS[:2]]
                if None in positions:
                    unknown += 1
                    continue
                left, right = sorted(position for position in positions if position is not None)
                if left == right:
                    raise AnalysisError(f"{line}: {row['id_a']!r:.80} is paired with itself; name two images")
                if found.setdefault((left, right), verdict) is not verdict:
                    raise AnalysisError(
                        f"{line}: {row['id_a']!r:.80} and {row['id_b']!r:.80} are judged 0 and 1; remove "
                        "one of the lines"
                    )
    except (UnicodeDecodeError, csv.Error) as error:
        raise AnalysisError(f"{path} is not a CSV file in UTF-8: {error}") from None
    pairs = np.array(list(found), np.int64).reshape(-1, 2)
    return JudgedPairs(pairs[:, 0], pairs[:, 1], np.array(list(found.values()), bool), unknown)


def choose_threshold(snapshot: Snapshot, pairs: JudgedPairs, precision: float | None = None) -> ChosenThreshold:
    """Return the threshold with the best F1 on judged pairs, or the lowest threshold with a wanted precision.

    Among equally good thresholds, the highest is chosen. Raises AnalysisError if all pairs have the same verdict, or no
    threshold has the wanted precision.
    """
    from sklearn.metrics import precision_recall_curve  # noqa: PLC0415 - scikit-learn takes a while to import

    duplicates = int(pairs.duplicate.sum())
    if duplicates in (0, len(pairs.duplicate)):
        raise AnalysisError(
            f"{snapshot.collection} contains {len(pairs.duplicate)} judged pairs, {duplicates} of them duplicates; a "
            "threshold needs duplicates and pairs that are none"
        )
    scores = scores_of_pairs(snapshot, pairs.left, pairs.right)
    precisions, recalls, thresholds = precision_recall_curve(pairs.duplicate, scores)
    # The last precision and recall belong to no threshold.
    precisions, recalls = precisions[:-1], recalls[:-1]
    if precision is None:
        f1 = 2 * precisions * recalls / np.maximum(precisions + recalls, np.finfo(float).tiny)
        best = int(np.flatnonzero(f1 == f1.max())[-1])
    else:
        enough = np.flatnonzero((precisions >= precision) & (recalls > 0))
        if not len(enough):
            raise AnalysisError(f"no threshold has the precision {precision:g}; the highest is {precisions.max():.3f}")
        best = int(enough[recalls[enough] == recalls[enough].max()][-1])
    numbers = (float(thresholds[best]), float(precisions[best]), float(recalls[best]))
    return ChosenThreshold(*numbers, len(pairs.duplicate), duplicates)
