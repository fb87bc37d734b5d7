"""Pairs of images that a person has judged: CSV files with the columns id_a, id_b, duplicate."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.nearest import similarities
from imagesearch_analysis.snapshot import Snapshot

COLUMNS = ("id_a", "id_b", "duplicate")
VERDICTS = {"1": True, "0": False, "true": True, "false": False}


@dataclass(frozen=True, slots=True)
class JudgedPairs:
    """Pairs by the positions of their images in a snapshot, the lower one first, and whether they are duplicates."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    duplicate: NDArray[np.bool_]
    unknown: int = 0
    """Pairs that were left out because the snapshot does not have both images."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A threshold, and what it does with judged pairs."""

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
    """The pairs of a file whose images a snapshot has. Raises AnalysisError, which names the line."""
    found: dict[tuple[int, int], bool] = {}
    unknown = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
                raise AnalysisError(f"{path} has no column {missing[0]}; it needs {', '.join(COLUMNS)}")
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                verdict = VERDICTS.get((row["duplicate"] or "").strip().lower())
                if verdict is None:
                    raise AnalysisError(f"{where}: duplicate is {row['duplicate']!r:.40}, and should be 0 or 1")
                positions = [snapshot.position(row[name] or "") for name in COLUMNS[:2]]
                if None in positions:
                    unknown += 1
                    continue
                left, right = sorted(position for position in positions if position is not None)
                if left == right:
                    raise AnalysisError(f"{where}: {row['id_a']!r:.80} is paired with itself")
                if found.setdefault((left, right), verdict) is not verdict:
                    raise AnalysisError(f"{where}: {row['id_a']!r:.80} and {row['id_b']!r:.80} are judged both ways")
    except (UnicodeDecodeError, csv.Error) as error:
        raise AnalysisError(f"{path} is no CSV file in UTF-8: {error}") from None
    pairs = np.array(list(found), np.int64).reshape(-1, 2)
    return JudgedPairs(pairs[:, 0], pairs[:, 1], np.array(list(found.values()), bool), unknown)


def choose_threshold(snapshot: Snapshot, pairs: JudgedPairs, precision: float | None = None) -> Choice:
    """The threshold that does best with judged pairs: of the best F1, or the least one of a wanted precision.

    Of equals the higher one. Raises AnalysisError where the pairs are all of one kind, or too few of those above any
    threshold are duplicates.
    """
    from sklearn.metrics import precision_recall_curve  # noqa: PLC0415 - it takes a while to import

    duplicates = int(pairs.duplicate.sum())
    if duplicates in (0, len(pairs.duplicate)):
        raise AnalysisError(
            f"of {len(pairs.duplicate)} judged pairs that are in {snapshot.collection}, {duplicates} are duplicates; "
            "both kinds are needed to choose a threshold"
        )
    scores = similarities(snapshot, pairs.left, pairs.right)
    precisions, recalls, thresholds = precision_recall_curve(pairs.duplicate, scores)
    # The last ones are of no threshold at all.
    precisions, recalls = precisions[:-1], recalls[:-1]
    if precision is None:
        f1 = 2 * precisions * recalls / np.maximum(precisions + recalls, np.finfo(float).tiny)
        best = int(np.flatnonzero(f1 == f1.max())[-1])
    else:
        enough = np.flatnonzero((precisions >= precision) & (recalls > 0))
        if not len(enough):
            raise AnalysisError(f"no threshold has a precision of {precision:g}; the best has {precisions.max():.3f}")
        best = int(enough[recalls[enough] == recalls[enough].max()][-1])
    numbers = (float(thresholds[best]), float(precisions[best]), float(recalls[best]))
    return Choice(*numbers, len(pairs.duplicate), duplicates)
