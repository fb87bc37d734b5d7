"""How the service is asked for targets alone."""

from pathlib import Path

import numpy as np
import pytest

from imagesearch_analysis.evaluation.collection import MOST_HITS, index_search
from imagesearch_analysis.evaluation.labels import attribute_labels
from imagesearch_analysis.evaluation.task import Label, Labelling, Roles, Task, TaskError
from imagesearch_analysis.snapshot import Snapshot
from imagesearch_client import AttributeValue
from imagesearch_client.filters import Value, all_of, equals, exists, is_in
from tests.unit.analysis.filling import snapshot_of

IMAGES = 6


def stored(folder: Path, *roles: AttributeValue) -> Snapshot:
    """Images with a role each; the rest are queries."""
    attributes: list[dict[str, AttributeValue]] = [{"role": role, "kind": "x"} for role in roles]
    attributes += [{"role": "query", "kind": "x"}] * (IMAGES - len(roles))
    return snapshot_of(folder, np.eye(IMAGES, dtype=np.float32), attributes=attributes)


def task_of(snapshot: Snapshot, roles: Roles) -> Task:
    attributes = (snapshot.describe(position).attributes for position in range(len(snapshot)))
    return attribute_labels(list(snapshot.ids), attributes, "kind", "role").task(roles)


def told_by_labels(snapshot: Snapshot) -> Task:
    """The first two images are targets, as no attribute has it."""
    labels = [Label(["x"], ["shown" if position < 2 else "asked"]) for position in range(len(snapshot))]
    return Labelling(list(snapshot.ids), labels).task(Roles("asked", "shown"))


@pytest.mark.parametrize(
    ("value", "role"),
    [("1", "1"), (1, "1"), ("007", "007"), ("true", "true"), (True, "true"), (2.5, "2.5"), ("a", "a")],
)
def test_targets_are_looked_for_by_the_value_that_is_stored_and_not_by_one_that_reads_alike(
    tmp_path: Path, value: Value, role: str
) -> None:
    snapshot = stored(tmp_path, value, value)
    roles = Roles("query", role)
    how = index_search(snapshot, task_of(snapshot, roles), roles, "role", None)
    assert how.targets_apart
    assert how.where == is_in("role", value)


def test_a_role_that_is_stored_in_several_ways_is_looked_for_in_all_of_them(tmp_path: Path) -> None:
    snapshot = stored(tmp_path, "1", 1, ["1", "b"], "1")
    roles = Roles("query", "1")
    sold = exists("sold")
    how = index_search(snapshot, task_of(snapshot, roles), roles, "role", sold, ef=64)
    assert how.where == all_of(sold, is_in("role", "1", 1))
    assert how.options(10) == {"limit": 10, "where": how.where, "ef": 64, "nprobe": None, "search_list": None}


def test_targets_that_no_attribute_tells_are_taken_from_as_many_hits_as_there_can_be(tmp_path: Path) -> None:
    snapshot = stored(tmp_path, "product")
    task = told_by_labels(snapshot)
    how = index_search(snapshot, task, Roles("asked", "shown"), "role", equals("kind", "x"), nprobe=8, ef=MOST_HITS)
    options = {"limit": MOST_HITS, "where": equals("kind", "x"), "ef": MOST_HITS, "nprobe": 8, "search_list": None}
    assert how.options(10) == options


@pytest.mark.parametrize("option", ["ef", "search_list"])
def test_candidates_below_the_hits_that_are_asked_for_are_refused_with_what_helps(tmp_path: Path, option: str) -> None:
    snapshot = stored(tmp_path, "product")
    flag = f"--{option.replace('_', '-')}"
    with pytest.raises(
        TaskError, match=rf"{flag} is 64, and should be at least 1000.* Ingest the labels as a manifest"
    ):
        index_search(snapshot, told_by_labels(snapshot), Roles("asked", "shown"), "role", None, **{option: 64})
    everything = task_of(snapshot, Roles())
    options = index_search(snapshot, everything, Roles(), "", None, **{option: 64}).options(10)
    assert (options["limit"], options[option]) == (10, 64)  # type: ignore[literal-required]
