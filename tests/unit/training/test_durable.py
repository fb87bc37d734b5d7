"""A file is on the disk before its name, and so is the name."""

import os
from pathlib import Path

import pytest

from imagesearch_training import durable


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is synced and renamed, by its name, in order."""
    events: list[tuple[str, str]] = []
    replace = Path.replace

    def note_rename(path: Path, target: Path) -> Path:
        events.append(("rename", path.name))
        return replace(path, target)

    def note_sync(descriptor: int) -> None:
        events.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))

    monkeypatch.setattr(Path, "replace", note_rename)
    monkeypatch.setattr(os, "fsync", note_sync)
    return events


def test_a_file_is_on_the_disk_before_it_replaces_another(tmp_path: Path, events: list[tuple[str, str]]) -> None:
    (tmp_path / "partial").write_text("new")
    (tmp_path / "file").write_text("old")
    durable.rename(tmp_path / "partial", tmp_path / "file")
    assert events == [("sync", "partial"), ("rename", "partial"), ("sync", tmp_path.name)]
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "new")]


def test_all_of_a_folder_is_on_the_disk_before_it_is_moved(tmp_path: Path, events: list[tuple[str, str]]) -> None:
    inner = tmp_path / "work" / "model" / "inner"
    inner.mkdir(parents=True)
    (inner / "deep").write_text("")
    (inner.parent / "flat").write_text("")
    durable.rename(tmp_path / "work" / "model", tmp_path / "done")
    assert set(events[:4]) == {("sync", name) for name in ("model", "inner", "deep", "flat")}
    assert events[4] == ("rename", "model")
    assert set(events[5:]) == {("sync", "work"), ("sync", tmp_path.name)}
    assert (tmp_path / "done" / "inner" / "deep").is_file()
