"""What a random ranking would reach, and what makes good figures say little.

A query has N candidates, R of them right, and every order of the candidates is as likely as any other. The expected
values of the measures in `metrics` follow from N and R, without drawing any order.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from imagesearch_analysis.evaluation.metrics import Values
from imagesearch_analysis.evaluation.task import Task, answers_to

# From this expected precision of the first hit on, figures are warned of.
HIGH = 0.5
# From this share of queries on that cannot be measured, figures are warned of.
MANY = 0.2


def chance(task: Task, images: int, cutoffs: Sequence[int]) -> dict[str, float]:
    """The mean of each measure over the queries of a task, if hits came in random order.

    Args:
        task: has one query or more.
        images: of the collection.
        cutoffs: the k of the measures of the first k hits.
    """
    sizes = Counter(_sizes(task, images))
    expected = [(_expected(candidates, right, cutoffs), count) for (candidates, right), count in sizes.items()]
    return {name: sum(found[name] * count for found, count in expected) / sizes.total() for name in expected[0][0]}


def _sizes(task: Task, images: int) -> Iterable[tuple[int, int]]:
    """The candidates and the right answers of each query, itself not counted."""
    targets = None if task.targets is None else set(task.targets.tolist())
    for query in task.queries:
        inside = query.position is not None and (targets is None or query.position in targets)
        yield (images if targets is None else len(targets)) - inside, answers_to(query)


def _expected(candidates: int, right: int, cutoffs: Sequence[int]) -> dict[str, float]:
    """The expected value of each measure of a query."""
    ranks = np.arange(1, candidates + 1)
    share = right / candidates
    # How likely the hits before a rank, beside a right one there, are right.
    others = (right - 1) / (candidates - 1) if candidates > 1 else 0.0
    # Of each rank: what it adds to the average precision's sum, and how likely the first right hit is there.
    precisions = share * (1 + (ranks - 1) * others) / ranks
    first = _first_right(candidates, right)
    most = max(cutoffs)
    found = {
        "mAP": float(precisions.sum()) / right,
        "MRR": float((first / ranks).sum()),
        "R-precision": share,
        "P@1": share,
        f"MRR@{most}": float((first / ranks)[:most].sum()),
    }
    for k in cutoffs:
        seen = min(k, candidates)
        gains = 1 / np.log2(np.arange(2, seen + 2))
        found[f"P@{k}"] = share * seen / k
        found[f"recall@{k}"] = seen / candidates
        found[f"nDCG@{k}"] = share * float(gains.sum() / gains[: min(right, k)].sum())
        found[f"AP@{k}"] = float(precisions[:k].sum()) / min(right, k)
    return found


def _first_right(candidates: int, right: int) -> Values:
    """How likely the first right hit is at each rank, float64 [candidates]."""
    before = np.arange(candidates)
    # Of the hits that are left at a rank, if all before it were wrong.
    likely = np.minimum(right / (candidates - before), 1.0)
    none_before = np.concatenate(([1.0], np.cumprod(1 - likely)[:-1]))
    found: Values = none_before * likely
    return found


def copies_among_answers(task: Task, same_content: Iterable[Sequence[int]]) -> int:
    """How many queries have a copy of their own file among their right answers.

    `same_content` has the positions of the images of each content that several images have.
    """
    group_of = {position: group for group in same_content for position in group}
    count = 0
    for query in task.queries:
        if query.position is not None and (group := group_of.get(query.position)):
            others = [position for position in group if position != query.position]
            count += bool(np.isin(others, query.relevant).any())
    return count


def cautions(task: Task, expected: dict[str, float], copies: int) -> list[str]:
    """What makes good figures say little, a sentence for each."""
    if task.caution:
        return [task.caution]
    told: list[str] = []
    if expected["P@1"] >= HIGH:
        names = Counter(name for query in task.queries for name in query.classes)
        name, count = names.most_common(1)[0] if names else ("", 0)
        most = f": {count:,} of {len(task.queries):,} queries have the label {name}" if name else ""
        told.append(
            f"A random ranking would reach mAP {expected['mAP']:.3f} and P@1 {expected['P@1']:.3f}{most}. Only what is "
            "above that tells anything; labels that tell more images apart would tell more."
        )
    alone = len(task.without_answer)
    if alone >= MANY * (alone + len(task.queries)):
        told.append(
            f"{alone:,} queries are in no figure, because no other image shares their label: the figures are of the "
            f"other {len(task.queries):,} only."
        )
    if copies:
        told.append(
            f"{copies:,} of {len(task.queries):,} queries have a copy of their own file among the right answers, which "
            "any model finds first: the figures are too high. `imagesearch duplicates` lists such copies."
        )
    return told
