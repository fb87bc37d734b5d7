"""The figures of a random ranking, and the notes on labels that make good figures meaningless."""

from itertools import permutations

import numpy as np
import pytest

from imagesearch_analysis.evaluation.labels import folder_labels
from imagesearch_analysis.evaluation.metrics import measures, whole_measures
from imagesearch_analysis.evaluation.random_baseline import label_notes, queries_with_copies, random_figures
from imagesearch_analysis.evaluation.task import Query, Roles, Task


def task_of(*sizes: int) -> tuple[Task, int]:
    """Return a task of folders with these numbers of images, and the number of all images."""
    ids = [f"f{folder}/{number}.jpg" for folder, size in enumerate(sizes) for number in range(size)]
    return folder_labels(ids, ids).task(Roles()), len(ids)


@pytest.mark.parametrize(("candidates", "right"), [(1, 1), (5, 1), (5, 2), (6, 3), (6, 6)])
def test_random_figures_are_the_mean_over_all_orders(candidates: int, right: int) -> None:
    orders = np.array(sorted(set(permutations([True] * right + [False] * (candidates - right)))))
    relevant = np.full(len(orders), right)
    exact = whole_measures(orders, relevant) | measures(orders, relevant, [1, 3, 10])
    task = Task([Query("a", np.arange(right))], None)
    found = random_figures(task, candidates, [1, 3, 10])
    assert found.keys() == exact.keys()
    for name, values in exact.items():
        assert found[name] == pytest.approx(values.mean()), name


def test_random_figures_are_the_mean_over_queries_without_the_query_as_candidate() -> None:
    task, images = task_of(3, 2)
    found = random_figures(task, images, [2])
    assert found["P@1"] == pytest.approx((3 * 2 / 4 + 2 * 1 / 4) / 5)
    shelf = Task([Query("q", np.array([0, 1]), position=4)], np.array([0, 1, 2, 3]))
    assert random_figures(shelf, images, [2])["P@1"] == 0.5


def test_a_note_warns_of_a_label_that_nearly_all_images_share() -> None:
    task, images = task_of(95, 5)
    found = random_figures(task, images, [10])
    assert found["P@1"] > 0.9
    (note,) = label_notes(task, found, 0)
    assert note.startswith("A random ranking reaches mAP 0.9")
    assert "95 of 100 queries have the label f0" in note
    even, images = task_of(*[10] * 10)
    assert label_notes(even, random_figures(even, images, [10]), 0) == []
    same, images = task_of(5)
    assert label_notes(same, random_figures(same, images, [10]), 0) == [same.same_label_note]


def test_a_note_warns_of_labels_of_a_single_image() -> None:
    task, images = task_of(4, 4, 4, 1, 1, 1)
    (note,) = label_notes(task, random_figures(task, images, [10]), 0)
    assert note.startswith("3 queries are left out, because no other image has their label")


def test_a_note_counts_queries_with_copies_among_their_answers() -> None:
    task, images = task_of(4, 4, 4)
    # Two copies are in one folder. Two are in different folders, and are no answers to each other.
    copies = queries_with_copies(task, [[0, 1], [2, 5]])
    assert copies == 2
    (note,) = label_notes(task, random_figures(task, images, [10]), copies)
    assert note.startswith("2 of 12 queries have a copy of their own file among the right answers")
