"""The work of finding all neighbours: killed, resumed, and written."""

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
from imagesearch_analysis.neighbor_files import Record, Style, records, write_neighbors
from imagesearch_analysis.neighbors import Work, WorkError
from imagesearch_analysis.snapshot import Snapshot
from imagesearch_client import Metric
from tests.unit.analysis.filling import normal, snapshot_of

COUNT, ROWS = 1000, 100


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors_module, "QUERY_ROWS", ROWS)


def find(snapshot: Snapshot, target: Path, k: int = 5, style: Style | None = None) -> Work:
    work = Work(target)
    with work.held():
        work.run(snapshot, k)
        batches = records(snapshot.ids, work.parts(snapshot), style or Style(snapshot.metric))
        write_neighbors(target, batches, snapshot.metric)
        work.remove()
    return work


def find_and_wait(folder: Path, target: Path, at: int, reached: Event) -> None:
    """Works until it is so far, and then waits to be killed."""
    neighbors_module.QUERY_ROWS = ROWS

    def tell(images: int) -> None:
        if images >= at:
            reached.set()
            multiprocessing.Event().wait()

    with Snapshot(folder) as snapshot, Work(target).held():
        Work(target).run(snapshot, 5, tell=tell)


def test_work_that_was_killed_goes_on_to_the_same_file(tmp_path: Path) -> None:
    with snapshot_of(tmp_path / "snapshot", normal(COUNT, 16)) as snapshot:
        straight = tmp_path / "straight.jsonl"
        assert find(snapshot, straight).resumed == 0
        target = tmp_path / "target.jsonl"
        context = multiprocessing.get_context("spawn")
        for at in (300, 700):
            reached = context.Event()
            process = context.Process(target=find_and_wait, args=(snapshot.folder, target, at, reached))
            process.start()
            assert reached.wait(60)
            # Another one that would write the same file is told so.
            with pytest.raises(WorkError, match="in use by another command"), Work(target).held():
                pass
            process.kill()
            process.join()
            assert not target.exists()
        part = Work(target).folder / "part-000000000200.npz"
        os.truncate(part, part.stat().st_size - 10)
        work = find(snapshot, target)
        assert work.resumed == 600
        assert target.read_bytes() == straight.read_bytes()
        assert not work.folder.exists()


def test_parts_of_something_else_are_not_taken(tmp_path: Path) -> None:
    target = tmp_path / "target.jsonl"
    with snapshot_of(tmp_path / "a", normal(COUNT, 8)) as snapshot, Work(target).held():
        Work(target).run(snapshot, 5)
        again = Work(target)
        again.run(snapshot, 5)
        assert again.resumed == COUNT
        other = Work(target)
        other.run(snapshot, 4)
        assert other.resumed == 0
        with_self = Work(target)
        with_self.run(snapshot, 4, with_self=True)
        assert with_self.resumed == 0


def test_a_folder_of_work_that_was_never_begun_goes(tmp_path: Path) -> None:
    work = Work(tmp_path / "target.json")
    with pytest.raises(ZeroDivisionError), work.held():
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("metric", Metric)
def test_the_three_formats_say_the_same(tmp_path: Path, metric: Metric) -> None:
    with snapshot_of(tmp_path / "snapshot", normal(250, 8), metric) as snapshot:
        for suffix in (".json", ".jsonl", ".parquet"):
            find(snapshot, tmp_path / f"out{suffix}", 3, Style(metric, digits=3))
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == rows
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == rows
    assert [row["id"] for row in rows] == [f"i{n:05d}" for n in range(250)]
    first = rows[0]["neighbors"]
    assert len(first) == 3
    assert "i00000" not in {neighbor["id"] for neighbor in first}
    assert [list(neighbor) for neighbor in first] == [
        ["id", "score", "distance"] if metric is Metric.L2 else ["id", "score"]
    ] * 3
    scores = [neighbor["score"] for neighbor in first]
    assert scores == sorted(scores, reverse=True) == [round(score, 3) for score in scores]


def test_other_names_and_a_least_score(tmp_path: Path) -> None:
    attributes = [{"sku": f"p-{n}"} for n in range(50)]
    with snapshot_of(tmp_path / "s", normal(50, 8), attributes=attributes) as snapshot, Work(tmp_path / "t").held():
        work = Work(tmp_path / "t")
        work.run(snapshot, 9, with_self=True)
        names = [str(name) for name in snapshot.values("sku")]
        (rows,) = records(names, work.parts(snapshot), Style(Metric.COSINE, min_score=0.5))
    for number, row in enumerate(rows):
        assert row["id"] == row["neighbors"][0]["id"] == f"p-{number}"
        assert row["neighbors"][0]["score"] == pytest.approx(1)
        assert all(neighbor["score"] >= 0.5 for neighbor in row["neighbors"])
    assert {len(row["neighbors"]) for row in rows} - {9}


@pytest.mark.parametrize("count", [0, 1])
def test_few_images_have_few_neighbours(tmp_path: Path, count: int) -> None:
    with snapshot_of(tmp_path / "snapshot", np.ones((count, 4), np.float32)) as snapshot:
        find(snapshot, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == [{"id": "i00000", "neighbors": []}] * count


def test_a_file_that_cannot_be_finished_is_not_there(tmp_path: Path) -> None:
    def batches() -> Iterator[list[Record]]:
        yield [{"id": "a", "neighbors": []}]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_neighbors(tmp_path / "out.json", batches(), Metric.IP)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_score_that_is_no_number_is_null(tmp_path: Path, suffix: str) -> None:
    batch: list[Record] = [{"id": "a", "neighbors": [{"id": "b", "score": float("nan")}]}]
    target = tmp_path / f"n{suffix}"
    write_neighbors(target, [batch], Metric.IP)
    found = strict_json(target.read_text())
    told = {"id": "a", "neighbors": [{"id": "b", "score": None}]}
    assert found == (told if suffix == ".jsonl" else [told])


def strict_json(text: str) -> Any:
    """What a parser makes of it that knows JSON alone."""
    return json.loads(text, parse_constant=pytest.fail)
