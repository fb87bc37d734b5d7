"""How the service searches only targets."""

from pathlib import Path

import numpy as np
import pytest

from imagesearch_analysis.evaluation.collection_quality import MAX_HITS, IndexSearch, index_search
from imagesearch_analysis.evaluation.labels import attribute_labels
from imagesearch_analysis.evaluation.task import Label, Labelling, Roles, Task, TaskError
from imagesearch_analysis.snapshot import Snapshot
from imagesearch_client import AttributeValue, Match
from imagesearch_client.filters import Value, all_of, equals, exists, is_in
from tests.unit.analysis.snapshots import snapshot_of

IMAGES = 6


def stored(folder: Path, *roles: AttributeValue) -> Snapshot:
    """Return images with these roles; the other images are queries."""
    attributes: list[dict[str, AttributeValue]] = [{"role": role, "kind": "x"} for role in roles]
    attributes += [{"role": "query", "kind": "x"}] * (IMAGES - len(roles))
    return snapshot_of(folder, np.eye(IMAGES, dtype=np.float32), attributes=attributes)


def task_of(snapshot: Snapshot, roles: Roles) -> Task:
    attributes = (snapshot.image(position).attributes for position in range(len(snapshot)))
    return attribute_labels(list(snapshot.ids), attributes, "kind", "role").task(roles)


def roles_only_in_labels(snapshot: Snapshot) -> Task:
    """Return a task whose targets are the first two images; no attribute has their role."""
    labels = [Label(["x"], ["shown" if position < 2 else "asked"]) for position in range(len(snapshot))]
    return Labelling(list(snapshot.ids), labels).task(Roles("asked", "shown"))


@pytest.mark.parametrize(
    ("value", "role"),
    [("1", "1"), (1, "1"), ("007", "007"), ("true", "true"), (True, "true"), (2.5, "2.5"), ("a", "a")],
)
def test_targets_are_filtered_by_the_stored_value_and_type(tmp_path: Path, value: Value, role: str) -> None:
    snapshot = stored(tmp_path, value, value)
    roles = Roles("query", role)
    how = index_search(snapshot, task_of(snapshot, roles), roles, "role", IndexSearch())
    assert how.filters_targets
    assert how.where == is_in("role", value)


def test_a_role_that_is_stored_with_several_types_is_filtered_by_all_of_them(tmp_path: Path) -> None:
    snapshot = stored(tmp_path, "1", 1, ["1", "b"], "1")
    roles = Roles("query", "1")
    sold = exists("sold")
    how = index_search(snapshot, task_of(snapshot, roles), roles, "role", IndexSearch(sold, ef=64))
    assert how.where == all_of(sold, is_in("role", "1", 1))
    options = {"limit": 10, "where": how.where, "ef": 64, "nprobe": None, "search_list": None, "match": Match.IMAGES}
    assert how.options(10) == options


def test_without_an_attribute_of_roles_the_largest_number_of_hits_is_requested(tmp_path: Path) -> None:
    snapshot = stored(tmp_path, "product")
    task = roles_only_in_labels(snapshot)
    wanted = IndexSearch(equals("kind", "x"), nprobe=8, ef=MAX_HITS)
    how = index_search(snapshot, task, Roles("asked", "shown"), "role", wanted)
    options = {"limit": MAX_HITS, "where": equals("kind", "x"), "ef": MAX_HITS, "nprobe": 8, "search_list": None}
    assert how.options(10) == options | {"match": Match.IMAGES}


@pytest.mark.parametrize("option", ["ef", "search_list"])
def test_fewer_candidates_than_requested_hits_are_rejected(tmp_path: Path, option: str) -> None:
    snapshot = stored(tmp_path, "product")
    wanted = IndexSearch(ef=64) if option == "ef" else IndexSearch(search_list=64)
    flag = f"--{option.replace('_', '-')}"
    with pytest.raises(
        TaskError, match=rf"{flag} is 64; it must be at least 1000 here.* Ingest the label file as a manifest"
    ):
        index_search(snapshot, roles_only_in_labels(snapshot), Roles("asked", "shown"), "role", wanted)
    everything = task_of(snapshot, Roles())
    options = index_search(snapshot, everything, Roles(), "", wanted).options(10)
    assert (options["limit"], options[option]) == (10, 64)  # type: ignore[literal-required]
