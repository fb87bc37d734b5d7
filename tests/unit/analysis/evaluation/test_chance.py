"""What a random ranking reaches, and the warnings of labels that make figures say little."""

from itertools import permutations

import numpy as np
import pytest

from imagesearch_analysis.evaluation.chance import cautions, chance, copies_among_answers
from imagesearch_analysis.evaluation.labels import folder_labels
from imagesearch_analysis.evaluation.metrics import measures, whole_measures
from imagesearch_analysis.evaluation.task import Query, Roles, Task


def task_of(*sizes: int) -> tuple[Task, int]:
    """Images in folders of so many each."""
    ids = [f"f{folder}/{number}.jpg" for folder, size in enumerate(sizes) for number in range(size)]
    return folder_labels(ids, ids).task(Roles()), len(ids)


@pytest.mark.parametrize(("candidates", "right"), [(1, 1), (5, 1), (5, 2), (6, 3), (6, 6)])
def test_it_is_the_mean_over_all_orders(candidates: int, right: int) -> None:
    orders = np.array(sorted(set(permutations([True] * right + [False] * (candidates - right)))))
    relevant = np.full(len(orders), right)
    exact = whole_measures(orders, relevant) | measures(orders, relevant, [1, 3, 10])
    task = Task([Query("a", np.arange(right))], None)
    found = chance(task, candidates, [1, 3, 10])
    assert found.keys() == exact.keys()
    for name, values in exact.items():
        assert found[name] == pytest.approx(values.mean()), name


def test_it_is_the_mean_over_queries_and_a_query_is_no_candidate() -> None:
    task, images = task_of(3, 2)
    found = chance(task, images, [2])
    assert found["P@1"] == pytest.approx((3 * 2 / 4 + 2 * 1 / 4) / 5)
    shelf = Task([Query("q", np.array([0, 1]), position=4)], np.array([0, 1, 2, 3]))
    assert chance(shelf, images, [2])["P@1"] == 0.5


def test_labels_that_nearly_all_share_are_warned_of() -> None:
    task, images = task_of(95, 5)
    found = chance(task, images, [10])
    assert found["P@1"] > 0.9
    (said,) = cautions(task, found, 0)
    assert said.startswith("A random ranking would reach mAP 0.9")
    assert "95 of 100 queries have the label f0" in said
    even, images = task_of(*[10] * 10)
    assert cautions(even, chance(even, images, [10]), 0) == []
    same, images = task_of(5)
    assert cautions(same, chance(same, images, [10]), 0) == [same.caution]


def test_labels_of_one_image_are_warned_of() -> None:
    task, images = task_of(4, 4, 4, 1, 1, 1)
    (said,) = cautions(task, chance(task, images, [10]), 0)
    assert said.startswith("3 queries are in no figure, because no other image shares their label")


def test_copies_of_a_query_among_its_answers_are_counted_and_warned_of() -> None:
    task, images = task_of(4, 4, 4)
    # Two copies within a folder, and two in different ones, which are no answers to each other.
    copies = copies_among_answers(task, [[0, 1], [2, 5]])
    assert copies == 2
    (said,) = cautions(task, chance(task, images, [10]), copies)
    assert said.startswith("2 of 12 queries have a copy of their own file among the right answers")
