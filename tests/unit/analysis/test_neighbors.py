"""Find all neighbors: killed runs, resumed runs and output files."""

import csv
import json
import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from imagesearch_analysis import neighbors as neighbors_module
from imagesearch_analysis.neighbor_files import Record, RecordOptions, records, write_neighbors
from imagesearch_analysis.neighbors import NeighborParts, NeighborPartsError
from imagesearch_analysis.snapshot import Snapshot
from imagesearch_client import Metric
from tests.unit.analysis.snapshots import normal, snapshot_of

COUNT, ROWS = 1000, 100


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors_module, "PART_ROWS", ROWS)


def find(snapshot: Snapshot, target: Path, k: int = 5, options: RecordOptions | None = None) -> NeighborParts:
    parts = NeighborParts(target)
    with parts.locked():
        parts.compute(snapshot, k)
        batches = records(snapshot.ids, parts.read(snapshot), options or RecordOptions(snapshot.metric))
        write_neighbors(target, batches, snapshot.metric)
        parts.remove()
    return parts


def find_and_wait(folder: Path, target: Path, at: int, reached: Event) -> None:
    """Compute the neighbors of `at` images, and wait until the process is killed."""
    neighbors_module.PART_ROWS = ROWS

    def wait(images: int) -> None:
        if images >= at:
            reached.set()
            multiprocessing.Event().wait()

    with Snapshot(folder) as snapshot, NeighborParts(target).locked():
        NeighborParts(target).compute(snapshot, 5, on_progress=wait)


def test_a_killed_run_resumes_and_writes_the_same_file(tmp_path: Path) -> None:
    with snapshot_of(tmp_path / "snapshot", normal(COUNT, 16)) as snapshot:
        uninterrupted = tmp_path / "uninterrupted.jsonl"
        assert find(snapshot, uninterrupted).resumed == 0
        target = tmp_path / "target.jsonl"
        context = multiprocessing.get_context("spawn")
        for at in (300, 700):
            reached = context.Event()
            process = context.Process(target=find_and_wait, args=(snapshot.folder, target, at, reached))
            process.start()
            assert reached.wait(60)
            # A second command for the same file is rejected.
            with pytest.raises(NeighborPartsError, match="in use by another command"), NeighborParts(target).locked():
                pass
            process.kill()
            process.join()
            assert not target.exists()
        part = NeighborParts(target).folder / "part-000000000200.npz"
        os.truncate(part, part.stat().st_size - 10)
        parts = find(snapshot, target)
        assert parts.resumed == 600
        assert target.read_bytes() == uninterrupted.read_bytes()
        assert not parts.folder.exists()


def test_parts_with_other_options_are_not_reused(tmp_path: Path) -> None:
    target = tmp_path / "target.jsonl"
    with snapshot_of(tmp_path / "a", normal(COUNT, 8)) as snapshot, NeighborParts(target).locked():
        NeighborParts(target).compute(snapshot, 5)
        again = NeighborParts(target)
        again.compute(snapshot, 5)
        assert again.resumed == COUNT
        other = NeighborParts(target)
        other.compute(snapshot, 4)
        assert other.resumed == 0
        with_self = NeighborParts(target)
        with_self.compute(snapshot, 4, with_self=True)
        assert with_self.resumed == 0


def test_an_empty_folder_of_parts_is_removed(tmp_path: Path) -> None:
    parts = NeighborParts(tmp_path / "target.json")
    with pytest.raises(ZeroDivisionError), parts.locked():
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("metric", Metric)
def test_all_formats_contain_the_same_neighbors(tmp_path: Path, metric: Metric) -> None:
    with snapshot_of(tmp_path / "snapshot", normal(250, 8), metric) as snapshot:
        for suffix in (".json", ".jsonl", ".parquet", ".csv"):
            find(snapshot, tmp_path / f"out{suffix}", 3, RecordOptions(metric, digits=3))
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == rows
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == rows
    with (tmp_path / "out.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert table == [
        {"id": row["id"], "rank": str(rank), "neighbor": neighbor["id"]}
        | {name: str(value) for name, value in neighbor.items() if name != "id"}
        for row in rows
        for rank, neighbor in enumerate(row["neighbors"], start=1)
    ]
    assert [row["id"] for row in rows] == [f"i{n:05d}" for n in range(250)]
    first = rows[0]["neighbors"]
    assert len(first) == 3
    assert "i00000" not in {neighbor["id"] for neighbor in first}
    assert [list(neighbor) for neighbor in first] == [
        ["id", "score", "distance"] if metric is Metric.L2 else ["id", "score"]
    ] * 3
    scores = [neighbor["score"] for neighbor in first]
    assert scores == sorted(scores, reverse=True) == [round(score, 3) for score in scores]


def test_output_has_the_given_names_and_respects_min_score(tmp_path: Path) -> None:
    attributes = [{"sku": f"p-{n}"} for n in range(50)]
    with (
        snapshot_of(tmp_path / "s", normal(50, 8), attributes=attributes) as snapshot,
        NeighborParts(tmp_path / "t").locked(),
    ):
        parts = NeighborParts(tmp_path / "t")
        parts.compute(snapshot, 9, with_self=True)
        names = [str(name) for name in snapshot.attribute_values("sku")]
        (rows,) = records(names, parts.read(snapshot), RecordOptions(Metric.COSINE, min_score=0.5))
    for number, row in enumerate(rows):
        assert row["id"] == row["neighbors"][0]["id"] == f"p-{number}"
        assert row["neighbors"][0]["score"] == pytest.approx(1)
        assert all(neighbor["score"] >= 0.5 for neighbor in row["neighbors"])
    assert {len(row["neighbors"]) for row in rows} - {9}


def test_a_single_image_has_no_neighbors(tmp_path: Path) -> None:
    with snapshot_of(tmp_path / "snapshot", np.ones((1, 4), np.float32)) as snapshot:
        find(snapshot, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == [{"id": "i00000", "neighbors": []}]


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    def batches() -> Iterator[list[Record]]:
        yield [{"id": "a", "neighbors": []}]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_neighbors(tmp_path / "out.json", batches(), Metric.IP)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_nan_score_is_written_as_null(tmp_path: Path, suffix: str) -> None:
    batch: list[Record] = [{"id": "a", "neighbors": [{"id": "b", "score": float("nan")}]}]
    target = tmp_path / f"n{suffix}"
    write_neighbors(target, [batch], Metric.IP)
    found = strict_json(target.read_text())
    expected = {"id": "a", "neighbors": [{"id": "b", "score": None}]}
    assert found == (expected if suffix == ".jsonl" else [expected])


def strict_json(text: str) -> Any:
    """Parse standard JSON, without NaN and Infinity."""
    return json.loads(text, parse_constant=pytest.fail)
