"""Tar files: images with their sidecars, bounded memory, and damage is reported."""

import gzip
import io
import json
import os
import tarfile
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from imagesearch_ingest.sources.items import Fault, Item, SkippedFile, SourceError
from imagesearch_ingest.sources.open_source import open_source
from imagesearch_ingest.sources.source_options import SourceOptions


def packed(path: Path, members: dict[str, bytes], mode: str = "w", layout: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, mode, format=layout) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1_700_000_000
            tar.addfile(info, io.BytesIO(content))
    return path


def opened(path: Path, **options: Any) -> list[Item | Fault]:
    found = open_source(str(path), SourceOptions(**options))
    return [one for one in found if not isinstance(one, SkippedFile)]


def items(path: Path, **options: Any) -> list[Item]:
    found = opened(path, **options)
    assert not [one for one in found if isinstance(one, Fault)], found
    return [one for one in found if isinstance(one, Item)]


def faults(found: list[Item | Fault]) -> list[Fault]:
    return [one for one in found if isinstance(one, Fault)]


def content_of(item: Item, limit: int = 1_000_000) -> bytes:
    assert callable(item.content)
    return item.content(limit)


MEMBERS = {"./cats/1.jpg": b"one", "cats/notes.md": b"x", "猫/2.PNG": b"two" * 1000, "n" * 150 + "/3.webp": b""}
FORMATS = {"a.tar": "w", "a.tar.gz": "w:gz", "a.tgz": "w:gz", "a.tar.bz2": "w:bz2", "a.tar.xz": "w:xz"}


@pytest.mark.parametrize("layout", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("name", FORMATS)
def test_archive_images_are_listed(tmp_path: Path, name: str, layout: int) -> None:
    path = packed(tmp_path / name, MEMBERS, FORMATS[name], layout)
    found = items(path)
    assert [item.id for item in found] == [f"{name}/cats/1.jpg", f"{name}/猫/2.PNG", f"{name}/{'n' * 150}/3.webp"]
    assert [content_of(item) for item in found] == [b"one", b"two" * 1000, b""]
    assert content_of(found[0], 2) == b"on"
    assert [(item.size, item.stamp, item.attributes) for item in found[:2]] == [
        (3, "1700000000", None),
        (3000, "1700000000", None),
    ]
    assert [item.held for item in found] == ([0, 0, 0] if name == "a.tar" else [3, 3000, 0])
    assert {item.id for item in items(path, by_content=True)} == {""}
    source = open_source(str(path), SourceOptions())
    assert (source.name, source.count(), len(list(source)), len(list(source))) == (str(path), None, 4, 4)
    # fsspec does not recognise a .tgz by its name.
    if name != "a.tgz":
        with fsspec.open(found[1].uri) as file:
            assert file.read() == b"two" * 1000


def test_members_that_are_not_files_are_ignored(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar", {"a.jpg": b"x"})
    with tarfile.open(path, "a") as tar:
        for kind in (tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo("other.jpg")
            info.type = kind
            tar.addfile(info)
    assert [item.id for item in items(path)] == ["a.tar/a.jpg"]


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_links_to_images_are_rejected(tmp_path: Path, kind: bytes) -> None:
    path = packed(tmp_path / "a.tar", {"a.jpg": b"x"})
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("other.jpg")
        info.type, info.linkname = kind, "a.jpg"
        tar.addfile(info)
    found = list(open_source(str(path), SourceOptions()))
    assert [one.id for one in found if isinstance(one, Item)] == ["a.tar/a.jpg"]
    (fault,) = [one for one in found if isinstance(one, Fault)]
    assert (fault.where, fault.reason) == ("a.tar/other.jpg", "ARCHIVE_LINK")


def test_threads_read_one_archive_concurrently(tmp_path: Path) -> None:
    members = {f"{number}.jpg": bytes([number]) * 5000 for number in range(100)}
    found = items(packed(tmp_path / "a.tar", members))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(content_of, found)) == list(members.values())


def test_member_too_large_to_keep_is_reported_when_it_is_read(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar.gz", {"a.jpg": b"x" * 100, "b.jpg": b"y"}, "w:gz")
    first, second = items(path, max_bytes=99)
    assert (first.size, first.held, second.held) == (100, 0, 1)
    with pytest.raises(OSError, match="too large to be kept"):
        content_of(first)
    plain = items(packed(tmp_path / "a.tar", {"a.jpg": b"x" * 100}), max_bytes=99)
    assert len(content_of(plain[0])) == 100


def test_samples_have_attributes(tmp_path: Path) -> None:
    members = {
        "s/01.jpg": b"x",
        "s/01.json": b'{"price": 2.5, "caption": "old", "none": null, "width": 3, "_x": 1}',
        "s/01.cls": b"7\n",
        "s/01.txt": "eine Schön\n".encode(),
        "s/01.caption": b"new",
        "s/02.cls": b"007",
        "s/02.jpg": b"x",
        "s/02.seg.png": b"x",
        "s/03.jpg": b"x",
        "t/03.json": b'{"a": 1}',
        "04.json": b'{"a": 1}',
        "05.txt": b" ",
        "05.jpg": b"",
    }
    found = items(packed(tmp_path / "a.tar", members), columns={"width": ""})
    assert [(item.id, item.attributes) for item in found] == [
        ("a.tar/s/01.jpg", {"price": 2.5, "caption": "new", "cls": 7, "txt": "eine Schön"}),
        ("a.tar/s/02.jpg", {"cls": "007"}),
        ("a.tar/s/02.seg.png", {"cls": "007"}),
        ("a.tar/s/03.jpg", None),
        ("a.tar/05.jpg", {}),
    ]


@pytest.mark.parametrize(
    ("extension", "content", "message"),
    [
        ("json", b"{", "not JSON"),
        ("json", b"[]", "not a JSON object"),
        ("json", b'{"a": {}}', "a: a JSON object cannot be an attribute"),
        ("json", b'{"a b": 1}', "--map 'a b=a_b'"),
        ("json", b" " * (2**20 + 1), "more than 1048576 bytes"),
        ("txt", b"\xff", "not UTF-8"),
    ],
)
def test_invalid_sample_is_rejected(tmp_path: Path, extension: str, content: bytes, message: str) -> None:
    found = opened(packed(tmp_path / "a.tar", {"1.jpg": b"x", f"1.{extension}": content, "2.jpg": b"x"}))
    fault, item = found
    assert isinstance(fault, Fault)
    assert isinstance(item, Item)
    assert (fault.reason, fault.where) == ("ROW_INVALID", f"tar://1.jpg::{tmp_path}/a.tar")
    assert message in fault.message
    assert item.id == "a.tar/2.jpg"


def test_name_that_is_not_utf8_is_rejected(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar", {os.fsdecode(b"\xff.jpg"): b"x", "a.jpg": b"x"}, layout=tarfile.GNU_FORMAT)
    fault, item = opened(path)
    assert isinstance(fault, Fault)
    assert (fault.where, fault.reason) == ("a.tar/\\udcff.jpg", "NAME_NOT_UTF8")
    assert isinstance(item, Item)


@pytest.mark.parametrize("name", FORMATS)
def test_truncated_archive_is_reported(tmp_path: Path, name: str) -> None:
    whole = packed(tmp_path / name, {f"{number}.jpg": os.urandom(3000) for number in range(20)}, FORMATS[name])
    content = whole.read_bytes()
    # The blocks of zeros at the end may be truncated.
    end = len(content) - (2 * 512 if name != "a.tar" else 20 * 512)
    for length in {1, 300, 512, 1536, 4608, 5000, 10_000, 9 * 3584, end // 2}:
        whole.write_bytes(content[:length])
        found = opened(whole)
        assert isinstance(found[-1], Fault), length
        assert (found[-1].reason, found[-1].may_hide_items) == ("ARCHIVE_DAMAGED", True)
        assert all(isinstance(one, Item) for one in found[:-1])
        assert all(len(content_of(one)) == 3000 for one in found if isinstance(one, Item))


def test_archive_damaged_in_the_middle_is_reported(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar", {f"{number}.jpg": b"x" * 100 for number in range(20)})
    content = bytearray(path.read_bytes())
    content[10 * 1024 : 11 * 1024] = b"\xab" * 1024
    path.write_bytes(content)
    found = opened(path)
    assert [type(one) for one in found] == [Item] * 10 + [Fault]
    path.write_bytes(b"no archive at all" * 100)
    assert [fault.reason for fault in faults(opened(path))] == ["ARCHIVE_DAMAGED"]
    path.write_bytes(b"")
    assert [fault.reason for fault in faults(opened(path))] == ["ARCHIVE_DAMAGED"]


def test_missing_or_shortened_archive_is_reported(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar", {"a.jpg": b"x" * 5000})
    source = open_source(str(path), SourceOptions())
    (item,) = source
    os.truncate(path, 2000)
    assert isinstance(item, Item)
    with pytest.raises(OSError, match="truncated"):
        content_of(item)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        content_of(item)
    assert [fault.reason for fault in source if isinstance(fault, Fault)] == ["ARCHIVE_UNREADABLE"]
    with pytest.raises(SourceError, match="does not exist"):
        opened(path)


def test_archive_compressed_in_parts_is_read_to_its_end(tmp_path: Path) -> None:
    plain = packed(tmp_path / "a.tar", {f"{number}.jpg": os.urandom(100) for number in range(50)}).read_bytes()
    path = tmp_path / "a.tar.gz"
    path.write_bytes(b"".join(gzip.compress(plain[begin : begin + 5000]) for begin in range(0, len(plain), 5000)))
    assert len(items(path)) == 50


def test_archive_without_images_is_not_a_fault(tmp_path: Path) -> None:
    assert items(packed(tmp_path / "a.tar", {})) == []
    assert items(packed(tmp_path / "a.tar.gz", {"a.txt": b"x"}, "w:gz")) == []


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_memory_does_not_grow_with_the_entries(tmp_path: Path, name: str) -> None:
    path = packed(tmp_path / name, {f"{number:05}.jpg": b"x" for number in range(12_000)}, FORMATS[name])
    tracemalloc.start()
    try:
        assert sum(isinstance(one, Item) for one in open_source(str(path), SourceOptions())) == 12_000
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.alone
def test_large_member_is_skipped(tmp_path: Path) -> None:
    path, size = tmp_path / "a.tar", 10 * 2**30
    with path.open("wb") as file:
        for name, length in (("film.mp4", size), ("a.jpg", 512)):
            info = tarfile.TarInfo(name)
            info.size = length
            file.write(info.tobuf(tarfile.GNU_FORMAT))
            file.seek(length, os.SEEK_CUR)
        file.truncate(file.tell() + 1024)
    begin = time.perf_counter()
    (item,) = items(path)
    assert content_of(item) == bytes(512)
    assert time.perf_counter() - begin < 1


def test_sparse_members_are_read(tmp_path: Path) -> None:
    # GNU tar's old sparse format: 1 MiB that stores only its last four bytes.
    info = tarfile.TarInfo("a.jpg")
    info.size, info.type = 512, tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398], header[398:410] = b"%011o\0" % (2**20 - 512), b"%011o\0" % 512
    header[483:495] = b"%011o\0" % 2**20
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(header) + b"end!" * 128 + bytes(1024))
    (item,) = items(path)
    assert (item.size, item.held) == (2**20, 2**20)
    assert content_of(item, 2**21) == bytes(2**20 - 512) + b"end!" * 128


def test_shard_json_is_read_like_manifest_json(tmp_path: Path) -> None:
    fields = {"s": "x", "l": ["a"], "b": True, "i": 2**63 - 1}
    (item,) = items(packed(tmp_path / "a.tar", {"1.jpg": b"x", "1.json": json.dumps(fields).encode()}))
    assert item.attributes == fields
