"""Labels from files, folders and attributes, and the tasks of these labels."""

import json
from pathlib import Path

import numpy as np
import pytest

from imagesearch_analysis.evaluation.label_tables import columns_of, read_table
from imagesearch_analysis.evaluation.labels import (
    KnownImages,
    LabelColumns,
    LabelsFile,
    attribute_labels,
    folder_labels,
)
from imagesearch_analysis.evaluation.task import Label, Labelling, Query, Roles, Task, TaskError, right_answers

IDS = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "p1.jpg", "p2.jpg"]
CSV = """path,role,product,colour
a.jpg,shelf,milk,white
b.jpg,shelf,milk,blue
c.jpg,shelf,apple,red
p1.jpg,product,milk,white
p2.jpg,product,apple,red
"""


def known(root: Path) -> KnownImages:
    return KnownImages(IDS, [f"{root}/{name}" for name in IDS], root)


def written(folder: Path, text: str, name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def answers(task: Task) -> dict[str, list[str]]:
    """Return the ids of the right answers of each query."""
    return {query.name: [IDS[place] for place in query.relevant if place != query.position] for query in task.queries}


def test_images_with_one_label_are_right_answers_to_each_other(tmp_path: Path) -> None:
    task = LabelsFile(written(tmp_path, CSV), LabelColumns("product", "")).labelling(known(tmp_path)).task(Roles())
    assert answers(task) == {
        "a.jpg": ["b.jpg", "p1.jpg"],
        "b.jpg": ["a.jpg", "p1.jpg"],
        "c.jpg": ["p2.jpg"],
        "p1.jpg": ["a.jpg", "b.jpg"],
        "p2.jpg": ["c.jpg"],
    }
    assert task.targets is None
    assert task.without_label == ["d.jpg"]
    assert [right_answers(query) for query in task.queries] == [2, 2, 1, 2, 1]


def test_roles_select_queries_and_targets(tmp_path: Path) -> None:
    labelling = LabelsFile(written(tmp_path, CSV), LabelColumns("product", "role")).labelling(known(tmp_path))
    task = labelling.task(Roles("shelf", "product"))
    assert answers(task) == {"a.jpg": ["p1.jpg"], "b.jpg": ["p1.jpg"], "c.jpg": ["p2.jpg"]}
    assert task.targets is not None
    assert task.targets.tolist() == [4, 5]
    assert answers(labelling.task(Roles("", "shelf")))["p2.jpg"] == ["c.jpg"]
    # No other apple is on a shelf.
    assert labelling.task(Roles("shelf", "shelf")).without_answer == ["c.jpg"]
    with pytest.raises(TaskError, match="no image has the role 'table'; the roles are product, shelf"):
        labelling.task(Roles("table", ""))


@pytest.mark.parametrize("column", ["id", "uri", "path"])
def test_images_are_found_by_id_uri_and_path(tmp_path: Path, column: str) -> None:
    name = {"id": "{}", "uri": f"file://{tmp_path}/{{}}", "path": f"./{tmp_path.name}/../{{}}"}[column]
    rows = "".join(f"{name.format(image)},x\n" for image in IDS[:2])
    images = KnownImages(IDS, [f"{tmp_path}/{image}" for image in IDS], tmp_path)
    task = LabelsFile(written(tmp_path, f"{column},kind\n{rows}"), LabelColumns()).labelling(images).task(Roles())
    assert answers(task) == {"a.jpg": ["b.jpg"], "b.jpg": ["a.jpg"]}


def test_a_labelled_file_outside_of_the_collection_is_a_query(tmp_path: Path) -> None:
    (tmp_path / "new.jpg").write_bytes(b"")
    path = written(tmp_path, CSV + "new.jpg,shelf,milk,white\ngone.jpg,shelf,milk,white\nid only,shelf,milk,\n")
    labels = LabelsFile(path, LabelColumns("product", "role"))
    task = labels.labelling(known(tmp_path)).task(Roles("shelf", "product"))
    outside = task.queries[-1]
    assert (outside.file, outside.position) == (tmp_path / "new.jpg", None)
    assert [IDS[place] for place in outside.relevant] == ["p1.jpg"]
    assert task.without_image == ["gone.jpg", "id only"]
    inside = labels.labelling(known(tmp_path), outside=False)
    assert inside.without_image == ["new.jpg", "gone.jpg", "id only"]


def test_json_lines_support_several_labels(tmp_path: Path) -> None:
    rows = [{"id": "a.jpg", "tags": ["x", "y"]}, {"id": "b.jpg", "tags": ["y"]}, {"id": "c.jpg", "tags": "x"}]
    rows += [{"id": "d.jpg", "tags": [1, True]}, {"id": "p1.jpg", "tags": 1}, {"id": "p2.jpg", "tags": None}]
    path = written(tmp_path, "\n".join(map(json.dumps, rows)), "labels.jsonl")
    task = LabelsFile(path, LabelColumns()).labelling(known(tmp_path)).task(Roles())
    assert answers(task) == {
        "a.jpg": ["b.jpg", "c.jpg"],
        "b.jpg": ["a.jpg"],
        "c.jpg": ["a.jpg"],
        "d.jpg": ["p1.jpg"],
        "p1.jpg": ["d.jpg"],
    }
    assert task.queries[0].classes == ("x", "y")


def test_folders_and_attributes_become_labels() -> None:
    ids = ["x/1.jpg", "x/2.jpg", "y/1.jpg", "3"]
    task = folder_labels(ids, ["", "", "", "/photos/x/3.jpg"]).task(Roles())
    assert [query.name for query in task.queries] == ["x/1.jpg", "x/2.jpg", "3"]
    assert task.without_answer == ["y/1.jpg"]
    by_attribute = attribute_labels(
        ids,
        [{"size": 4, "role": "shelf"}, {"size": 4, "role": "product"}, {}, {"size": 5, "role": "shelf"}],
        "size",
        "role",
    )
    task = by_attribute.task(Roles("shelf", "product"))
    assert [(query.name, query.classes) for query in task.queries] == [("x/1.jpg", ("4",))]
    assert task.without_label == ["y/1.jpg"]
    assert task.without_answer == ["3"]


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.jsonl"])
def test_a_list_of_right_answers_becomes_a_task(tmp_path: Path, name: str) -> None:
    (tmp_path / "new.jpg").write_bytes(b"")
    pairs = [("a.jpg", "b.jpg"), ("a.jpg", "c.jpg"), ("a.jpg", "a.jpg"), ("new.jpg", "d.jpg"), ("b.jpg", "gone.jpg")]
    pairs += [("nobody.jpg", "a.jpg"), ("c.jpg", "c.jpg")]
    if name.endswith("csv"):
        text = "query,relevant\n" + "".join(f"{query},{relevant}\n" for query, relevant in pairs)
    else:
        text = "".join(f'{{"query": "{query}", "relevant": ["{relevant}"]}}\n' for query, relevant in pairs)
    labels = LabelsFile(written(tmp_path, text, name), LabelColumns())
    assert labels.has_pairs
    task = labels.pairs(known(tmp_path))
    assert answers(task) == {"a.jpg": ["b.jpg", "c.jpg"], str(tmp_path / "new.jpg"): ["d.jpg"]}
    assert task.without_image == ["gone.jpg", "nobody.jpg"]
    assert task.without_answer == ["b.jpg", "c.jpg"]


@pytest.mark.parametrize(
    ("name", "text", "columns", "message"),
    [
        ("l.csv", "", LabelColumns(), "has no rows"),
        ("l.txt", "id,x\na,b\n", LabelColumns(), r"must be .csv, .tsv, .jsonl, .ndjson"),
        ("l.csv", "name,x\na,b\n", LabelColumns(), "has the columns name, x; it must have id, path"),
        ("l.csv", "id,x,y\na,b,c\n", LabelColumns(), "has the columns x, y; use --label-column"),
        ("l.csv", "id\na\n", LabelColumns(), "has no column of labels"),
        ("l.csv", "id,x\na,b\n", LabelColumns("z"), "has no column 'z'; it has id, x"),
        ("l.csv", "id,x\na,b\n", LabelColumns("x", "role"), "has no column 'role'"),
        ("l.csv", "id,x\na,b\na,b,c\n", LabelColumns(), "row 3: it has 3 cells, but the header has 2"),
        ("l.csv", "id,x,x\na,b,c\n", LabelColumns(), "two columns with one name"),
        ("l.csv", 'id,x\na,"b\n', LabelColumns(), "row 2: .*unexpected end of data"),
        ("l.jsonl", '{"id": "a", "x": 1}\n{"id":', LabelColumns(), "line 2: it is not JSON"),
        ("l.jsonl", '{"id": "a", "x": {}}\n', LabelColumns(), "line 1: x is an object; a label is a text"),
        ("l.csv", "query,relevant\na,b\n", LabelColumns("x"), "has no labels and no roles"),
    ],
)
def test_invalid_label_files_raise_an_error(
    tmp_path: Path, name: str, text: str, columns: LabelColumns, message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        LabelsFile(written(tmp_path, text, name), columns)


@pytest.mark.parametrize(
    "text",
    [
        "path, label\na.jpg, milk\nb.jpg, tea\n",
        "path;label;\na.jpg;milk;\nb.jpg;tea;\n",
        "path,label,\r\na.jpg ,milk,\r\nb.jpg, tea\r\n",
        f"path,label,about\na.jpg,milk,{'x' * 200_000}\nb.jpg,tea,y\n",
    ],
)
def test_label_files_follow_the_rules_of_manifests(tmp_path: Path, text: str) -> None:
    rows = read_table(written(tmp_path, text))
    assert [(row["path"], row["label"]) for row in rows] == [(("a.jpg",), ("milk",)), (("b.jpg",), ("tea",))]
    assert "" not in columns_of(rows)


def test_a_file_in_another_encoding_raises_an_error(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes("id,x\nä,b\n".encode("latin-1"))
    with pytest.raises(TaskError, match="it is not UTF-8"):
        LabelsFile(tmp_path / "labels.csv", LabelColumns())


def test_labels_of_unknown_images_raise_an_error_with_examples(tmp_path: Path) -> None:
    labels = LabelsFile(written(tmp_path, "id,x\nother.jpg,y\n"), LabelColumns())
    with pytest.raises(TaskError, match=r"such as 'other.jpg'; an id is, for example, 'a.jpg'"):
        labels.labelling(known(tmp_path)).task(Roles())
    with pytest.raises(TaskError, match=r"no label belongs to an image.*; there are no images"):
        folder_labels([], []).task(Roles())
    with pytest.raises(TaskError, match="none of 6 queries has a right answer among 6 images"):
        attribute_labels(IDS, [{"x": name} for name in IDS], "x").task(Roles())


def test_a_note_says_that_equal_labels_mean_nothing() -> None:
    same = attribute_labels(IDS, [{"x": "lime"} for _ in IDS], "x").task(Roles())
    assert same.same_label_note.startswith("Every image has the label lime. No hit can be wrong")
    differing = [{"x": "lime"} for _ in IDS[1:]] + [{"x": "kiwi"}]
    assert attribute_labels(IDS, differing, "x").task(Roles()).same_label_note == ""


def test_a_sample_of_queries_depends_only_on_the_seed() -> None:
    task = Task([Query(str(number), np.array([0])) for number in range(100)], None)
    names = [query.name for query in task.sampled(10, 1).queries]
    assert len(set(names)) == 10
    assert names == [query.name for query in task.sampled(10, 1).queries]
    assert names != [query.name for query in task.sampled(10, 2).queries]
    assert task.sampled(1000, 1).queries is task.queries


def test_sampling_labels_equals_sampling_their_task() -> None:
    labelling = Labelling(
        [str(number) for number in range(100)],
        [Label([f"class {number % 7}", "odd" if number % 2 else "even"]) for number in range(100)],
    )
    sampled, whole = labelling.task(Roles(), 10, 1), labelling.task(Roles()).sampled(10, 1)
    assert [query.name for query in sampled.queries] == [query.name for query in whole.queries]
    for one, other in zip(sampled.queries, whole.queries, strict=True):
        assert one.relevant.tolist() == other.relevant.tolist()


def test_queries_with_the_same_classes_share_one_array_of_answers() -> None:
    labels = [Label(["a", "b"] if number % 2 else ["b", "a"]) for number in range(50)]
    task = Labelling([str(number) for number in range(50)], labels).task(Roles())
    assert len({id(query.relevant) for query in task.queries}) == 1
    assert len({id(query.relevant) for query in task.without({3}, 50).queries}) == 1


def test_a_repeated_label_counts_once() -> None:
    by_attribute = attribute_labels(["1", "2"], [{"x": ["a", "a"]}, {"x": "a"}], "x")
    task = by_attribute.task(Roles())
    assert [(query.classes, right_answers(query)) for query in task.queries] == [(("a",), 1), (("a",), 1)]


def test_an_unknown_attribute_raises_an_error_with_the_known_ones() -> None:
    attributes = [{"category": "a", "role": "x"}, {"category": "b"}]
    with pytest.raises(TaskError, match="no image has the attribute 'catgory'; the attributes are category, role"):
        attribute_labels(["1", "2"], attributes, "catgory")
    with pytest.raises(TaskError, match="no image has the attribute 'rolle'; the attributes are category, role"):
        attribute_labels(["1", "2"], attributes, "category", "rolle")
    with pytest.raises(TaskError, match="no image has the attribute 'x'; the attributes are none"):
        attribute_labels(["1"], [{}], "x")


def test_ids_and_uris_without_folders_raise_an_error() -> None:
    with pytest.raises(TaskError, match=r"no id or uri contains a folder, .*; an id is, for example, 'sku-1'"):
        folder_labels(["sku-1", "sku-2"], ["", ""])


def test_names_that_are_too_long_for_a_file_belong_to_no_image(tmp_path: Path) -> None:
    long = "x" * 300
    labels = LabelsFile(written(tmp_path, f"id,kind\n{long},a\na.jpg,a\nb.jpg,a\n"), LabelColumns())
    assert labels.labelling(known(tmp_path)).task(Roles()).without_image == [long]
    pairs = LabelsFile(written(tmp_path, f"query,relevant\n{long},a.jpg\na.jpg,b.jpg\n"), LabelColumns())
    assert pairs.pairs(known(tmp_path)).without_image == [long]


def test_failed_images_are_removed_from_queries_targets_and_answers(tmp_path: Path) -> None:
    task = LabelsFile(written(tmp_path, CSV), LabelColumns("product", "")).labelling(known(tmp_path)).task(Roles())
    less = task.without({0, 5}, len(IDS))
    assert answers(less) == {"b.jpg": ["p1.jpg"], "p1.jpg": ["b.jpg"]}
    assert less.targets is not None
    assert less.targets.tolist() == [1, 2, 3, 4]
    assert less.without_answer == ["c.jpg"]
    with pytest.raises(TaskError, match="without the 4 images that failed"):
        task.without({0, 1, 4, 5}, len(IDS))
