"""The figures that a random ranking reaches, and notes on labels that make good figures meaningless.

A query has N candidates, and R of them are right. In a random ranking, all orders of the candidates are equally likely.
The expected values of all measures of `metrics` follow from N and R.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from imagesearch_analysis.evaluation.metrics import Values
from imagesearch_analysis.evaluation.task import Task, right_answers

# A note is added if the first hit of a random ranking is right with this probability.
HIGH_PRECISION = 0.5
# A note is added if this share of the queries has no right answer.
MANY_WITHOUT_ANSWER = 0.2


def random_figures(task: Task, images: int, cutoffs: Sequence[int]) -> dict[str, float]:
    """Return the mean of each measure over the queries of a task if the hits came in random order.

    Args:
        task: at least one query.
        images: the number of images of the collection.
        cutoffs: the values of k for the measures of the first k hits.
    """
    sizes = Counter(_sizes(task, images))
    expected = [(_expected(candidates, right, cutoffs), count) for (candidates, right), count in sizes.items()]
    return {name: sum(values[name] * count for values, count in expected) / sizes.total() for name in expected[0][0]}


def _sizes(task: Task, images: int) -> Iterable[tuple[int, int]]:
    """Return the number of candidates and of right answers of each query, both without the query."""
    targets = None if task.targets is None else set(task.targets.tolist())
    for query in task.queries:
        is_target = query.position is not None and (targets is None or query.position in targets)
        yield (images if targets is None else len(targets)) - is_target, right_answers(query)


def _expected(candidates: int, right: int, cutoffs: Sequence[int]) -> dict[str, float]:
    """Return the expected value of each measure of one query."""
    ranks = np.arange(1, candidates + 1)
    share = right / candidates
    # The probability that another hit is right if the hit at a rank is right.
    other_share = (right - 1) / (candidates - 1) if candidates > 1 else 0.0
    # The contribution of each rank to the sum of the average precision.
    precisions = share * (1 + (ranks - 1) * other_share) / ranks
    first = _first_right(candidates, right)
    largest = max(cutoffs)
    values = {
        "mAP": float(precisions.sum()) / right,
        "MRR": float((first / ranks).sum()),
        "R-precision": share,
        "P@1": share,
        f"MRR@{largest}": float((first / ranks)[:largest].sum()),
    }
    for k in cutoffs:
        hits = min(k, candidates)
        gains = 1 / np.log2(np.arange(2, hits + 2))
        values[f"P@{k}"] = share * hits / k
        values[f"recall@{k}"] = hits / candidates
        values[f"nDCG@{k}"] = share * float(gains.sum() / gains[: min(right, k)].sum())
        values[f"AP@{k}"] = float(precisions[:k].sum()) / min(right, k)
    return values


def _first_right(candidates: int, right: int) -> Values:
    """Return float64[candidates]: the probability that the first right hit is at each rank."""
    before = np.arange(candidates)
    # The probability that the hit at a rank is right if all hits before it are wrong.
    is_right = np.minimum(right / (candidates - before), 1.0)
    all_wrong_before = np.concatenate(([1.0], np.cumprod(1 - is_right)[:-1]))
    probabilities: Values = all_wrong_before * is_right
    return probabilities


def queries_with_copies(task: Task, groups_of_same_file: Iterable[Sequence[int]]) -> int:
    """Return the number of queries that have a copy of their own file among their right answers.

    `groups_of_same_file` are the positions of the images of each file that several images have in common.
    """
    group_of = {position: group for group in groups_of_same_file for position in group}
    count = 0
    for query in task.queries:
        if query.position is not None and (group := group_of.get(query.position)):
            others = [position for position in group if position != query.position]
            count += bool(np.isin(others, query.relevant).any())
    return count


def label_notes(task: Task, expected: dict[str, float], copies: int) -> list[str]:
    """Return a sentence for each property of the labels that makes good figures meaningless.

    Args:
        task: the queries.
        expected: the figures of a random ranking.
        copies: the number of queries that have a copy of their own file among their right answers.
    """
    if task.same_label_note:
        return [task.same_label_note]
    notes: list[str] = []
    if expected["P@1"] >= HIGH_PRECISION:
        labels = Counter(name for query in task.queries for name in query.classes)
        label, count = labels.most_common(1)[0] if labels else ("", 0)
        most = f" {count:,} of {len(task.queries):,} queries have the label {label}." if label else ""
        notes.append(
            f"A random ranking reaches mAP {expected['mAP']:.3f} and P@1 {expected['P@1']:.3f}.{most} Only the "
            "difference to these figures counts. More specific labels would show more."
        )
    alone = len(task.without_answer)
    if alone >= MANY_WITHOUT_ANSWER * (alone + len(task.queries)):
        notes.append(
            f"{alone:,} queries are left out, because no other image has their label. The figures are of the other "
            f"{len(task.queries):,} queries."
        )
    if copies:
        notes.append(
            f"{copies:,} of {len(task.queries):,} queries have a copy of their own file among the right answers. Every "
            "model finds that first, so the figures are too high. `imagesearch duplicates` lists such copies."
        )
    return notes
