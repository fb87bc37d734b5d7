"""Local folders: every image is listed once, and unreadable parts are reported."""

import inspect
import os
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagesearch_ingest.sources import folder_source
from imagesearch_ingest.sources.folder_source import FileSource, FolderSource
from imagesearch_ingest.sources.items import Fault, Item, SourceEntry
from imagesearch_ingest.sources.open_source import open_source
from imagesearch_ingest.sources.source_options import SourceOptions


def put(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def items(folder: FolderSource | FileSource) -> list[Item]:
    found = list(folder)
    assert not [one for one in found if isinstance(one, Fault)]
    return [one for one in found if isinstance(one, Item)]


def faults(folder: FolderSource) -> list[Fault]:
    return [one for one in folder if isinstance(one, Fault)]


def ids(folder: FolderSource) -> list[str]:
    return [item.id for item in items(folder)]


def content_of(item: Item, limit: int = 100) -> bytes:
    assert callable(item.content)
    return item.content(limit)


def test_images_are_listed_in_order_with_size_and_stamp(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/z.png", "a/b/c.webp", "notes.txt", "c.tiff", ".jpg"):
        put(tmp_path / name, name.encode())
    found = items(FolderSource(tmp_path))
    assert [item.id for item in found] == ["a/b/c.webp", "a/z.png", "b.JPG", "c.tiff"]
    first = found[0]
    assert first.uri == str(tmp_path / "a/b/c.webp")
    assert (first.size, first.stamp) == (10, str((tmp_path / "a/b/c.webp").stat().st_mtime_ns))
    assert content_of(first) == b"a/b/c.webp"
    assert content_of(first, 3) == b"a/b"
    assert first.attributes is None
    assert FolderSource(tmp_path).count() == 4


def test_by_content_leaves_ids_empty(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg")
    (item,) = items(FolderSource(tmp_path, by_content=True))
    assert (item.id, item.key) == ("", str(tmp_path / "a.jpg"))


def test_relative_root_yields_absolute_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "in/a.jpg")
    monkeypatch.chdir(tmp_path)
    folder = FolderSource(Path("in/"))
    assert folder.name == str(tmp_path / "in")
    assert items(folder)[0].uri == str(tmp_path / "in/a.jpg")


@pytest.mark.parametrize(
    "name", ["猫.jpg", "кот.jpg", "قط.png", "a\nb.jpg", " a .jpg", "🐈.webp", "a#b?c%20.jpg", "e\u0301.jpg"]
)
def test_any_utf8_name_is_an_id(tmp_path: Path, name: str) -> None:
    put(tmp_path / name)
    assert ids(FolderSource(tmp_path)) == [name]


def test_name_that_is_not_utf8_is_rejected(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg")
    put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")))
    put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xfe/b.jpg")))
    put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xfd.txt")))
    found = list(FolderSource(tmp_path))
    output = sorted(one.where for one in found if isinstance(one, Fault))
    assert output == [f"{tmp_path}/\\udcfe/b.jpg", f"{tmp_path}/\\udcff.jpg"]
    assert all((one.reason, one.may_hide_items) == ("NAME_NOT_UTF8", False) for one in found if isinstance(one, Fault))
    assert [one.id for one in found if isinstance(one, Item)] == ["a.jpg"]


def test_links_are_followed_but_loops_are_not(tmp_path: Path) -> None:
    put(tmp_path / "in/a/b/c.jpg")
    put(tmp_path / "out/d.jpg")
    (tmp_path / "in/a/b/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/a/here").symlink_to(".")
    (tmp_path / "in/out").symlink_to(tmp_path / "out")
    (tmp_path / "in/e.jpg").symlink_to(tmp_path / "out/d.jpg")
    (tmp_path / "in/self").symlink_to("self")
    assert ids(FolderSource(tmp_path / "in")) == ["a/b/c.jpg", "e.jpg", "out/d.jpg"]
    assert FolderSource(tmp_path / "in").count() == 3


def test_dangling_link_is_reported_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("gone.jpg")
    (tmp_path / "b.jpg").symlink_to("b.jpg")
    (tmp_path / "notes.txt").symlink_to("gone.txt")
    found = items(FolderSource(tmp_path))
    assert [(item.id, item.size) for item in found] == [("a.jpg", None), ("b.jpg", None)]
    with pytest.raises(FileNotFoundError):
        content_of(found[0])


def test_link_to_a_missing_folder_may_hide_items(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg")
    (tmp_path / "disk").symlink_to("/mnt/not/there")
    (fault,) = [one for one in FolderSource(tmp_path, by_content=False) if isinstance(one, Fault)]
    assert (fault.where, fault.reason, fault.may_hide_items) == (str(tmp_path / "disk"), "FOLDER_UNREADABLE", True)


def test_pipe_is_not_listed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    (tmp_path / "y.jpg").mkdir()
    put(tmp_path / "y.jpg/z.jpg")
    assert ids(FolderSource(tmp_path)) == ["y.jpg/z.jpg"]


def test_file_that_became_a_pipe_does_not_block(tmp_path: Path) -> None:
    path = put(tmp_path / "x.jpg")
    (item,) = items(FolderSource(tmp_path))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"):
        content_of(item)
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        content_of(item)


def test_removed_file_is_not_listed(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        put(tmp_path / name)
    found: Iterator[SourceEntry] = iter(FolderSource(tmp_path))
    next(found)
    (tmp_path / "b.jpg").unlink()
    assert [one.id for one in found if isinstance(one, Item)] == ["c.jpg"]


def test_removed_folder_is_reported_and_the_rest_is_listed(tmp_path: Path) -> None:
    for name in ("a.jpg", "b/c.jpg", "d.jpg"):
        put(tmp_path / name)
    found: Iterator[SourceEntry] = iter(FolderSource(tmp_path))
    next(found)
    (tmp_path / "b/c.jpg").unlink()
    (tmp_path / "b").rmdir()
    fault, last = found
    assert isinstance(fault, Fault)
    assert (fault.where, fault.reason, fault.may_hide_items) == (str(tmp_path / "b"), "FOLDER_UNREADABLE", True)
    assert isinstance(last, Item)


def test_forbidden_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a/a.jpg")
    put(tmp_path / "b/b.jpg")
    scan = os.scandir

    def refuse(path: str) -> "os._ScandirIterator[str]":
        if path.endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list(FolderSource(tmp_path))
    assert [type(one) for one in found] == [Fault, Item]
    assert "Permission denied" in faults(FolderSource(tmp_path))[0].message


def test_missing_root_is_reported(tmp_path: Path) -> None:
    assert [fault.reason for fault in faults(FolderSource(tmp_path / "gone"))] == ["FOLDER_UNREADABLE"]


def deep(path: Path, name: str, depth: int) -> None:
    """Make a directory that is deeper than the longest path."""
    here = os.open(path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("a.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def test_folders_deeper_than_the_path_limit_are_reported(tmp_path: Path) -> None:
    deep(tmp_path, "d" * 200, 30)
    put(tmp_path / "z.jpg")
    fault, item = FolderSource(tmp_path)
    assert isinstance(fault, Fault)
    assert "File name too long" in fault.message
    assert isinstance(item, Item)


def test_deep_folders_do_not_exhaust_the_call_stack(tmp_path: Path) -> None:
    deep(tmp_path, "d", 200)
    limit = sys.getrecursionlimit()
    depth = len(inspect.stack(0))
    try:
        sys.setrecursionlimit(depth + 60)
        found = ids(FolderSource(tmp_path))
    finally:
        sys.setrecursionlimit(limit)
    assert found == ["d/" * 200 + "a.jpg"]


def test_large_folder_is_sorted_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_source, "CHUNK", 10)
    names = [f"{number:03}.jpg" for number in range(35)]
    for name in names:
        put(tmp_path / name)
    found = ids(FolderSource(tmp_path))
    assert sorted(found) == names
    for begin in range(0, 35, 10):
        chunk = found[begin : begin + 10]
        assert chunk == sorted(chunk)


def test_memory_does_not_grow_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_source, "CHUNK", 100)
    for number in range(5000):
        (tmp_path / f"{number}.jpg").touch()
    tracemalloc.start()
    try:
        assert sum(1 for _ in FolderSource(tmp_path)) == 5000
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


def test_single_file_is_a_source(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jpg", b"abc")
    source = open_source(str(path), SourceOptions())
    (item,) = source
    assert isinstance(item, Item)
    assert (item.id, item.uri, item.size, source.name, source.count()) == ("a.jpg", str(path), 3, str(path), 1)
    assert content_of(item) == b"abc"


def test_link_to_a_device_hides_no_items(tmp_path: Path) -> None:
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "nothing").symlink_to(tmp_path / "missing")
    found = [each for each in FolderSource(tmp_path) if isinstance(each, Fault)]
    assert [(fault.where, fault.reason) for fault in found] == [(str(tmp_path / "nothing"), "FOLDER_UNREADABLE")]
