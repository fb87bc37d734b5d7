"""Folders of unfinished work: a command changes and removes only its own files."""

from pathlib import Path

import pytest

from imagesearch_analysis.neighbors import NeighborParts, NeighborPartsError
from imagesearch_analysis.snapshot import Origin, SnapshotError
from imagesearch_analysis.snapshot_writer import SnapshotWriter
from imagesearch_ingest.atomic_file import atomic_write
from imagesearch_ingest.vector_files.export_parts import ExportError, ExportParts
from imagesearch_ingest.work_folder import LOCK, WorkFolder
from tests.unit.analysis.snapshots import normal, snapshot_of

ORIGIN = Origin("shoes", "f", "cosine", 4)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["notes.txt", "part-000000.parquet", "part-000000000000.npz", "state.json", LOCK])
def test_folder_of_the_user_is_refused_and_unchanged(tmp_path: Path, name: str) -> None:
    target = tmp_path / "x.parquet"
    folder = tmp_path / "x.parquet.parts"
    folder.mkdir()
    (folder / name).write_text("mine")
    before = contents(tmp_path)
    with (
        pytest.raises(NeighborPartsError, match=rf"x\.parquet\.parts holds '{name}'.*move the file"),
        NeighborParts(target).locked(),
    ):
        pass
    parts = ExportParts(target, {"dimension": 4})
    with pytest.raises(ExportError, match=rf"holds '{name}'.*move the file"), parts.opened(restart=True):
        pass
    with pytest.raises(SnapshotError, match=rf"holds '{name}'"):
        SnapshotWriter(folder, ORIGIN, replace=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["vectors.f32", "images.sqlite"])
def test_files_named_like_a_snapshot_stay(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"" if name == "images.sqlite" else b"mine")
    before = contents(tmp_path)
    with pytest.raises(SnapshotError, match=f"holds '{name}'"):
        SnapshotWriter(tmp_path, ORIGIN)
    assert contents(tmp_path) == before


def test_work_of_another_command_is_refused_and_named(tmp_path: Path) -> None:
    target = tmp_path / "x.parquet"
    parts = ExportParts(target, {"dimension": 4})
    with parts.opened(restart=False):
        (parts.folder / "part-000000.parquet").write_text("rows")
    before = contents(tmp_path)
    with (
        pytest.raises(NeighborPartsError, match=r"unfinished work of `imagesearch export` for x\.parquet"),
        NeighborParts(target).locked(),
    ):
        pass
    assert contents(tmp_path) == before


def test_foreign_files_in_a_work_folder_stay(tmp_path: Path) -> None:
    target = tmp_path / "x.jsonl"
    parts = NeighborParts(target)
    with snapshot_of(tmp_path / "snapshot", normal(10, 4)) as snapshot, parts.locked():
        (parts.folder / "part-mine.txt").write_text("mine")
        (parts.snapshot_folder).mkdir()
        (parts.snapshot_folder / "letter.txt").write_text("mine")
        parts.compute(snapshot, 3)
        parts.remove()
    assert sorted(contents(parts.folder)) == ["part-mine.txt", "snapshot/letter.txt"]


def test_empty_folder_of_the_user_stays_after_a_failed_snapshot(tmp_path: Path) -> None:
    with WorkFolder(tmp_path, "snapshot", "x", SnapshotError):
        pass
    assert tmp_path.is_dir()


def test_dropped_parts_are_counted(tmp_path: Path) -> None:
    parts = NeighborParts(tmp_path / "x.jsonl")
    with snapshot_of(tmp_path / "snapshot", normal(10, 4)) as snapshot, parts.locked():
        parts.compute(snapshot, 3)
        assert parts.dropped == 0
        parts.compute(snapshot, 4)
    assert parts.dropped == 1


def test_atomic_write_follows_links(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "real.csv"
    target.write_text("old")
    link = tmp_path / "out.csv"
    link.symlink_to(target)
    with atomic_write(link) as partial:
        partial.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"

    def fail() -> None:
        with atomic_write(link) as partial:
            partial.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["real.csv"]
