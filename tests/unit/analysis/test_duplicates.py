import csv
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import f1_score, precision_score

from imagesearch_analysis import similarity_forest
from imagesearch_analysis import vectors as vectors_module
from imagesearch_analysis.choices import Action, Keep
from imagesearch_analysis.duplicate_files import plot_curve, write_list, write_report
from imagesearch_analysis.duplicates import groups_above, members, threshold_curve
from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.exact_search import scores_of_pairs
from imagesearch_analysis.judged_pairs import JudgedPairs, choose_threshold, read_pairs
from imagesearch_analysis.similarity_forest import compare_all
from imagesearch_analysis.snapshot import Snapshot
from imagesearch_client import Metric
from tests.unit.analysis.snapshots import normal, snapshot_of

ROUNDING = 1e-6


def at_angles(*degrees: float) -> NDArray[np.float32]:
    """Return unit vectors of a plane at angles."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def judged(*pairs: tuple[int, int, bool]) -> JudgedPairs:
    left, right, duplicate = (np.array(column) for column in zip(*pairs, strict=True))
    return JudgedPairs(left, right, duplicate)


def cosine(degrees: float) -> float:
    return float(np.cos(np.radians(degrees)))


@pytest.mark.parametrize("collected", [0, 1_000_000])
def test_groups_are_connected_components_at_any_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collected: int
) -> None:
    monkeypatch.setattr(similarity_forest, "MAX_COLLECTED_PAIRS", collected)
    monkeypatch.setattr(vectors_module, "BLOCK_ROWS", 50)
    vectors = normal(300, 6)
    vectors[10:20] = vectors[0]
    with snapshot_of(tmp_path, vectors) as snapshot:
        forest = compare_all(snapshot, 0.7)
    points = vectors.astype(np.float64)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    cosines = points @ points.T
    for threshold in (0.7, 0.85, 0.95, 1.0):
        # Spread labels until nothing changes.
        near = cosines >= threshold - 1e-9
        labels = np.arange(300)
        while True:
            spread = np.where(near, labels[np.newaxis], 300).min(axis=1)
            if (spread == labels).all():
                break
            labels = spread
        expected = sorted(
            (np.flatnonzero(labels == label).tolist() for label in np.unique(labels) if (labels == label).sum() > 1),
            key=lambda group: (-len(group), group),
        )
        assert groups_above(forest, threshold) == expected
    drawn = threshold_curve(forest)
    assert len(drawn.thresholds) == 201
    for step in (0, 77, 150):
        threshold = float(drawn.thresholds[step])
        found = groups_above(forest, threshold)
        assert drawn.groups[step] == len(found)
        assert drawn.repeated[step] == sum(map(len, found)) - len(found)
        assert drawn.pairs[step] == (cosines[np.triu_indices(300, 1)] >= threshold).sum()


def test_copies_of_a_file_are_one_group_at_any_score(tmp_path: Path) -> None:
    vectors = at_angles(0, 90, 45, 135)
    with snapshot_of(tmp_path, vectors, contents=["a", "b", "a", ""]) as snapshot:
        forest = compare_all(snapshot, 0.99)
        found = groups_above(forest, 0.99)
        assert found == [[0, 2]]
        ((kept, other),) = members(snapshot, found, Keep.FIRST, 0.99)
    assert (kept.action, other.action, other.same_file) == (Action.KEEP, Action.REMOVE, True)
    assert other.score == pytest.approx(cosine(45))


def groups_with(snapshot: Snapshot, threshold: float, *pairs: tuple[int, int, bool]) -> list[list[int]]:
    return groups_above(compare_all(snapshot, threshold, judged(*pairs)), threshold)


def test_decisions_separate_and_join_images(tmp_path: Path) -> None:
    limit = cosine(7)
    # Neighbours are 5, 6, 4 and 5 degrees apart; the last image is isolated.
    with snapshot_of(tmp_path, at_angles(0, 5, 11, 15, 20, 90)) as snapshot:
        assert groups_above(compare_all(snapshot, limit), limit) == [[0, 1, 2, 3, 4]]
        assert groups_with(snapshot, limit, (0, 4, False)) == [[2, 3, 4], [0, 1]]
        assert groups_with(snapshot, limit, (0, 1, False)) == [[1, 2, 3, 4]]
        assert groups_with(snapshot, limit, (2, 5, True), (0, 5, False)) == [[2, 3, 4, 5], [0, 1]]
        assert threshold_curve(compare_all(snapshot, limit, judged((0, 4, False)))).groups[0] == 2


def test_images_separated_from_the_image_between_them_stay_together(tmp_path: Path) -> None:
    with snapshot_of(tmp_path, at_angles(0, 5, 10)) as snapshot:
        assert groups_with(snapshot, cosine(11), (0, 1, False), (1, 2, False)) == [[0, 2]]


def test_images_separated_from_the_group_between_them_stay_together(tmp_path: Path) -> None:
    # Images 0 and 3 are separated from 1. Image 2 is nearer to 0 and 3 than these are to each other, and joins 1.
    with snapshot_of(tmp_path, at_angles(0, 5.5, 5, 10)) as snapshot:
        assert groups_with(snapshot, cosine(11), (0, 1, False), (1, 3, False)) == [[0, 3], [1, 2]]


@pytest.mark.parametrize("separated", [[(0, 1), (1, 2)], [(0, 1), (1, 2), (1, 3)], [(1, 2), (2, 3)]])
def test_copies_of_a_file_stay_together_except_the_separated_one(
    tmp_path: Path, separated: list[tuple[int, int]]
) -> None:
    with snapshot_of(tmp_path, at_angles(0, 40, 80, 120), contents=["a"] * 4) as snapshot:
        (found,) = groups_with(snapshot, 0.99, *((left, right, False) for left, right in separated))
    assert len(found) == 3


@pytest.mark.parametrize("collected", [0, 1_000_000])
@pytest.mark.parametrize("seed", range(8))
def test_groups_with_decisions_equal_merging_all_pairs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, collected: int
) -> None:
    monkeypatch.setattr(similarity_forest, "MAX_COLLECTED_PAIRS", collected)
    monkeypatch.setattr(vectors_module, "BLOCK_ROWS", 20)
    random = np.random.default_rng(seed)
    every = list(combinations(range(60), 2))
    decided = {every[number]: random.random() < 0.2 for number in random.choice(len(every), 60, replace=False)}
    pairs = judged(*((*pair, duplicate) for pair, duplicate in decided.items()))
    least = 0.7
    with snapshot_of(tmp_path, normal(60, 4, seed)) as snapshot:
        forest = compare_all(snapshot, least, pairs)
        scores = scores_of_pairs(snapshot, *np.array(every).T)
    strengths = {pair: np.inf if decided.get(pair) else float(score) for pair, score in zip(every, scores, strict=True)}
    for threshold in (least, 0.8, 0.9):
        own = [{number} for number in range(60)]
        for left, right in sorted(every, key=lambda pair: (-strengths[pair], pair)):
            separated = any(decided.get((min(a, b), max(a, b))) is False for a in own[left] for b in own[right])
            if strengths[left, right] >= threshold and own[left] is not own[right] and not separated:
                own[left] |= own[right]
                for number in own[right]:
                    own[number] = own[left]
        expected = {tuple(sorted(group)) for group in own if len(group) > 1}
        assert set(map(tuple, groups_above(forest, threshold))) == expected


def test_judged_duplicates_get_the_action_remove_at_any_score(tmp_path: Path) -> None:
    limit, decided = cosine(6), judged((0, 2, True), (1, 3, True))
    with snapshot_of(tmp_path, at_angles(0, 5, 60, 10)) as snapshot:
        found = groups_above(compare_all(snapshot, limit, decided), limit)
        (first,) = members(snapshot, found, Keep.FIRST, limit, decided, trusted=True)
        (last,) = members(snapshot, found, Keep.LAST, limit, decided, trusted=True)
    assert [member.action.value for member in first] == ["keep", "remove", "remove", "review"]
    assert [member.action.value for member in last] == ["keep", "review", "remove", "review"]


def test_an_unchecked_threshold_removes_only_copies_and_judged_duplicates(tmp_path: Path) -> None:
    # Two flavours of one product, a copy of the file of the first, and a judged duplicate.
    with snapshot_of(tmp_path, at_angles(0, 12, 0, 14), contents=["a", "b", "a", "c"]) as snapshot:
        decided = judged((0, 3, True))
        found = groups_above(compare_all(snapshot, 0.95, decided), 0.95)
        (group,) = members(snapshot, found, Keep.FIRST, 0.95, decided)
    assert [(member.image.id, member.action.value) for member in group] == [
        ("i00000", "keep"),
        ("i00001", "review"),
        ("i00002", "remove"),
        ("i00003", "remove"),
    ]


def test_the_largest_image_is_kept_and_indirect_members_get_the_action_review(tmp_path: Path) -> None:
    uris = []
    for number, side in enumerate((20, 40, 40)):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (side, side), (number, 0, 0)).save(path)
        uris.append(path.as_uri() if number == 2 else str(path))
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes() + b"more bytes")
    with snapshot_of(tmp_path / "s", at_angles(0, 5, 10, 12), uris=[*uris, "/nowhere.png"]) as snapshot:
        found = groups_above(compare_all(snapshot, cosine(6)), cosine(6))
        (largest,) = members(snapshot, found, Keep.LARGEST, cosine(6), trusted=True)
        (first,) = members(snapshot, found, Keep.FIRST, cosine(6), trusted=True)
        (last,) = members(snapshot, found, Keep.LAST, cosine(6), trusted=True)
    assert [(member.image.id, member.action.value) for member in largest] == [
        ("i00001", "keep"),
        ("i00000", "remove"),
        ("i00002", "remove"),
        ("i00003", "review"),
    ]
    assert [member.size and member.size.pixels for member in largest] == [1600, 400, 1600, None]
    assert [(member.image.id, member.action.value) for member in first] == [
        ("i00000", "keep"),
        ("i00001", "remove"),
        ("i00002", "review"),
        ("i00003", "review"),
    ]
    assert last[0].image.id == "i00003"


@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP])
def test_thresholds_are_scores_of_the_metric(tmp_path: Path, metric: Metric) -> None:
    vectors = np.array([[3, 0], [3, 1], [9, 9]], np.float32)
    least = {Metric.L2: 0.5, Metric.IP: 30.0}[metric]
    with snapshot_of(tmp_path, vectors, metric) as snapshot:
        forest = compare_all(snapshot, least)
    assert groups_above(forest, least) == ([[0, 1]] if metric is Metric.L2 else [[1, 2]])
    assert forest.thresholds[-1] == pytest.approx(1 if metric is Metric.L2 else 162)


def write_pairs(path: Path, text: str) -> Path:
    path.write_text("id_a,id_b,duplicate\n" + text)
    return path


def test_the_chosen_threshold_has_the_best_f1_or_the_wanted_precision(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    with snapshot_of(tmp_path / "s", normal(60, 5)) as snapshot:
        vectors = snapshot.block(0, 60).astype(np.float64)
        pairs = random.permutation(list(combinations(range(60), 2)))[:80]
        scores = (vectors[pairs[:, 0]] * vectors[pairs[:, 1]]).sum(axis=1)
        truth = scores + random.normal(0, 0.3, 80) > 0.3
        rows = [f"i{b:05d},i{a:05d},{int(y)}" for (a, b), y in zip(pairs.tolist(), truth, strict=True)]
        found = read_pairs(write_pairs(tmp_path / "l.csv", "\n".join([*rows, "i00000,gone,1"])), snapshot)
        assert (len(found.left), found.unknown) == (80, 1)
        best = choose_threshold(snapshot, found)
        precise = choose_threshold(snapshot, found, 0.9)
    all_f1 = [f1_score(truth, scores >= score - ROUNDING) for score in scores]
    assert best.f1 == pytest.approx(max(all_f1))
    assert best.f1 == pytest.approx(f1_score(truth, scores >= best.threshold - ROUNDING))
    assert precise.precision >= 0.9
    assert precise.precision == pytest.approx(precision_score(truth, scores >= precise.threshold - ROUNDING))
    lower = scores[scores < precise.threshold - ROUNDING]
    assert all(precision_score(truth, scores >= score) < 0.9 for score in lower)
    assert (best.pairs, best.duplicates) == (80, int(truth.sum()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id_a,id_b\ni0,i1\n", "has no column duplicate; it needs id_a, id_b, duplicate"),
        ("id_a,id_b,duplicate\ni00000,i00001,maybe\n", "line 2: duplicate is 'maybe'; it must be 0 or 1"),
        ("id_a,id_b,duplicate\ni00000,i00000,1\n", "line 2: 'i00000' is paired with itself"),
        ("id_a,id_b,duplicate\ni00000,i00001,1\ni00001,i00000,0\n", "line 3: .* judged 0 and 1"),
        ("id_a,id_b,duplicate\ni00000\n", "line 2: duplicate is None"),
        ("", "has no column id_a"),
    ],
)
def test_invalid_files_of_pairs_raise_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "l.csv").write_text(text)
    with snapshot_of(tmp_path / "s", normal(3, 4)) as snapshot, pytest.raises(AnalysisError, match=message):
        read_pairs(tmp_path / "l.csv", snapshot)


def test_pairs_that_allow_no_threshold_raise_an_error(tmp_path: Path) -> None:
    with snapshot_of(tmp_path / "s", at_angles(0, 10, 20)) as snapshot:
        one_kind = read_pairs(write_pairs(tmp_path / "l.csv", "i00000,i00001,1\n"), snapshot)
        with pytest.raises(AnalysisError, match=r"contains 1 judged pairs, 1 of them duplicates; a threshold needs"):
            choose_threshold(snapshot, one_kind)
        unlike = judged((0, 1, False), (0, 2, True))
        with pytest.raises(AnalysisError, match=r"no threshold has the precision 0\.9; the highest is 0\.500"):
            choose_threshold(snapshot, unlike, 0.9)


def test_list_page_and_curve_contain_all_groups(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    uris = [str(tmp_path / "a.png"), "<script>alert(1)</script>", ""]
    with snapshot_of(tmp_path / "s", at_angles(0, 5, 90), uris=uris) as snapshot:
        forest = compare_all(snapshot, 0.5)
        found = list(members(snapshot, groups_above(forest, 0.9), Keep.LARGEST, 0.9))
    for suffix in (".csv", ".json", ".jsonl"):
        write_list(tmp_path / f"list{suffix}", found)
    rows = json.loads((tmp_path / "list.json").read_text())
    assert rows[0] == {
        "group": 1,
        "action": "keep",
        "id": "i00000",
        "score": 1.0,
        "same_file": False,
        "width": 30,
        "height": 20,
        "bytes": (tmp_path / "a.png").stat().st_size,
        "uri": uris[0],
    }
    assert [json.loads(line) for line in (tmp_path / "list.jsonl").read_text().splitlines()] == rows
    with (tmp_path / "list.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [(row["id"], row["action"], row["uri"]) for row in read] == [
        (row["id"], row["action"], row["uri"]) for row in rows
    ]
    write_report(tmp_path / "page.html", found, "Duplicates in <shoes>", {"threshold": "0.9 & more"})
    page = (tmp_path / "page.html").read_text()
    assert "Duplicates in &lt;shoes&gt;" in page
    assert "0.9 &amp; more" in page
    assert page.count("data:image/jpeg;base64,") == 1
    assert page.count('class="none"') == 1
    assert "<b>keep</b> 30 x 20\n" in page
    assert "http" not in page
    plot_curve(tmp_path / "curve.png", threshold_curve(forest), 0.9, "cosine similarity")
    with Image.open(tmp_path / "curve.png") as drawn:
        assert drawn.size == (880, 550)
