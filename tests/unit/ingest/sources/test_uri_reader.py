"""The uri of every item can be read again, and has the content of the item."""

import csv
import errno
import io
import json
import os
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grpc_kit.errors import InvalidArgumentError, NotFoundError, UnavailableError
from imagesearch_ingest.load.image_reader import read_image
from imagesearch_ingest.sources import archive_reader, source_file, tar_files
from imagesearch_ingest.sources.allowed_uris import DEFAULT, AllowedUris
from imagesearch_ingest.sources.archive_reader import ArchiveReader
from imagesearch_ingest.sources.items import Fault, Item, SkippedFile
from imagesearch_ingest.sources.member_uris import member_uri, split_member_uri
from imagesearch_ingest.sources.open_source import open_source
from imagesearch_ingest.sources.source_file import SourceFile
from imagesearch_ingest.sources.source_options import SourceOptions
from imagesearch_ingest.sources.source_retries import SourceRetries, thread_retries
from imagesearch_ingest.sources.uri_reader import UriReader
from tests.unit.ingest.sources.conftest import archive

NAMES = [
    "plain.jpg",
    "two words.jpg",
    "100%.jpg",
    "a%20b.jpg",
    "a::b.jpg",
    "::.jpg",
    "#1.jpg",
    "what?.jpg",
    "a;b=c&d+e.jpg",
    'it\'s "so".jpg',
    "[1]{2}*.jpg",
    "back\\slash.jpg",
    "a:b@c.jpg",
    "猫/ü.jpg",
    "below/two words/e\u0301.jpg",
]
CONTENT = {name: f"the content of {name}".encode() * (1 + number) for number, name in enumerate(NAMES)}
TARS = {
    "a.tar": "w",
    "b::c d#?%.tar": "w",
    "a.tar.gz": "w:gz",
    "a.tgz": "w:gz",
    "a.tar.bz2": "w:bz2",
    "a.tar.xz": "w:xz",
}
LIMIT = 1_000_000
# The default places, and those of these tests.
MEMORY = AllowedUris([*DEFAULT, "memory", "simplecache::memory://in/"])


@pytest.fixture
def reader() -> Iterator[UriReader]:
    with UriReader(allowed=MEMORY) as reader:
        yield reader


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path / "photos")


def filled(folder: Path) -> Path:
    for name, content in CONTENT.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def check(source: str, contents: dict[str, bytes] = CONTENT, reader: UriReader | None = None, **options: Any) -> None:
    """Check that every item and its uri have the same content. `contents` are by the ends of ids."""
    own = reader or UriReader(allowed=MEMORY)
    listed = open_source(source, SourceOptions(**options))
    found = [each for each in listed if not isinstance(each, SkippedFile)]
    assert len(found) == len(contents), found
    seen = []
    for item in found:
        assert isinstance(item, Item), item
        assert callable(item.content)
        expected = item.content(LIMIT)
        assert own.read(item.uri, LIMIT) == expected
        assert own.read(item.uri, 5) == expected[:5]
        seen.append(expected)
    assert sorted(seen) == sorted(contents.values())
    if reader is None:
        own.close()


def test_reads_uris_of_a_folder(folder: Path) -> None:
    check(str(folder))


def test_reads_uris_of_a_single_file(folder: Path) -> None:
    check(str(folder / "a::b.jpg"), {"a::b.jpg": CONTENT["a::b.jpg"]})
    check(f"file://{folder}/100%25.jpg", {"100%.jpg": CONTENT["100%.jpg"]})


def test_reads_uris_of_a_relative_list_from_any_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "list.txt"
    path.write_text("\n".join(f"./{name}" for name in NAMES))
    monkeypatch.chdir(folder.parent)
    check("photos/list.txt")


def test_reads_uris_of_manifests_with_relative_paths(folder: Path) -> None:
    with (folder / "m.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "id"], *([name, f"sku-{number}"] for number, name in enumerate(NAMES))])
    check(str(folder / "m.csv"))
    (folder / "m.jsonl").write_text("\n".join(json.dumps({"file": name}) for name in NAMES))
    check(str(folder / "m.jsonl"))
    pq.write_table(pa.table({"image": NAMES}), folder / "m.parquet")
    check(str(folder / "m.parquet"))


def test_reads_uris_of_a_manifest_with_a_root(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(json.dumps({"path": name}) for name in NAMES))
    check(str(path), root=str(folder))
    check(str(path), root=f"file://{folder}")


@pytest.mark.parametrize("name", TARS)
def test_reads_uris_of_archives(tmp_path: Path, name: str, reader: UriReader) -> None:
    path = tmp_path / name
    path.write_bytes(archive(CONTENT | {"notes.txt": b"x", "./.hidden.json": b"{}"}, TARS[name]))
    check(str(path), reader=reader)


def test_archive_in_a_folder_with_an_image_name(tmp_path: Path, reader: UriReader) -> None:
    path = tmp_path / "x::" / "a.tar"
    path.parent.mkdir()
    path.write_bytes(archive(CONTENT))
    check(str(path), reader=reader)


def test_reads_a_list_of_archive_members(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a::b.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in CONTENT.items():
            file.writestr(name, content)
    (tmp_path / "a.tgz").write_bytes(archive(CONTENT, "w:gz"))
    (tmp_path / "zips.txt").write_text("\n".join(f"zip://{name}::{tmp_path}/a::b.zip" for name in NAMES))
    (tmp_path / "tars.txt").write_text("\n".join(f"tar://{name}::{tmp_path}/a.tgz" for name in NAMES))
    check(str(tmp_path / "zips.txt"))
    check(str(tmp_path / "tars.txt"))


def test_rejects_of_an_archive_are_read_as_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "a.tgz"
    path.write_bytes(archive(CONTENT, "w:gz"))
    uris = [item.uri for item in open_source(str(path), SourceOptions()) if isinstance(item, Item)]
    (tmp_path / "rejects.jsonl").write_text("\n".join(json.dumps({"uri": uri, "_reason": "X"}) for uri in uris))
    check(str(tmp_path / "rejects.jsonl"))


def test_reads_uris_of_a_bucket_and_its_archives(bucket: Any, tmp_path: Path) -> None:
    for name, content in CONTENT.items():
        bucket.put_object(Bucket="bucket", Key=f"in/{name}", Body=content)
    check("s3://bucket/in/")
    bucket.put_object(Bucket="bucket", Key="s::t.tar", Body=archive(CONTENT))
    bucket.put_object(Bucket="bucket", Key="s.tgz", Body=archive(CONTENT, "w:gz"))
    check("s3://bucket/s::t.tar")
    check("s3://bucket/s.tgz")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name, content in CONTENT.items():
            packed.writestr(name, content)
    bucket.put_object(Bucket="bucket", Key="s.zip", Body=file.getvalue())
    (tmp_path / "list.txt").write_text("\n".join(f"zip://{name}::s3://bucket/s.zip" for name in NAMES))
    check(str(tmp_path / "list.txt"))
    with pytest.raises(NotFoundError):
        read_image(partial(UriReader().read, "s3://bucket/in/gone.jpg"), LIMIT)


def test_reads_uris_of_a_google_bucket(google: Any) -> None:
    # The emulator cannot handle other names.
    names = [name for name in NAMES if not set(name) & set("%;")]
    for name in names:
        google(f"in/{name}", CONTENT[name])
    check("gs://bucket/in/", {name: CONTENT[name] for name in names})


def test_reads_uris_of_another_file_system(memory: Any) -> None:
    # In this file system "::" is not part of a name.
    contents = {name: content for name, content in CONTENT.items() if "::" not in name}
    for name, content in contents.items():
        memory.pipe(f"/in/{name}", content)
    check("memory://in/", contents)
    memory.pipe("/s.tar.gz", archive(CONTENT, "w:gz"))
    check("memory://s.tar.gz")


def test_reads_uris_of_a_web_server(web: str, tmp_path: Path) -> None:
    filled(tmp_path / "web" / "odd")
    check(f"{web}/odd/")
    for name, mode in {"s.tar": "w", "s.tgz": "w:gz"}.items():
        (tmp_path / "web" / name).write_bytes(archive(CONTENT, mode))
        check(f"{web}/{name}")


def test_reads_uris_written_by_other_programs(folder: Path, web: str) -> None:
    with UriReader(str(folder)) as reader:
        for name, content in CONTENT.items():
            assert reader.read(name, LIMIT) == content
            assert reader.read(f"./{name}", LIMIT) == content
            assert reader.read(f"{folder}/{name}", LIMIT) == content
            # Neither encoded nor decoded.
            assert reader.read(f"file://{folder}/{name}", LIMIT) == content
    with UriReader(web) as reader:
        assert reader.read("photos/b.jpg", LIMIT) == b"b.jpg" * 3


def test_archive_is_read_once_in_any_order_of_requests(
    web: str, tmp_path: Path, seen: list[str], reader: UriReader
) -> None:
    members = {f"{number}.jpg": os.urandom(20_000) for number in range(200)}
    (tmp_path / "web" / "s.tgz").write_bytes(archive(members, "w:gz"))
    uris = {member_uri(name, f"{web}/s.tgz"): content for name, content in reversed(members.items())}
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda uri: reader.read(uri, LIMIT), uris)) == list(uris.values())
    assert sum("s.tgz" in line and line.startswith("GET") for line in seen) == 1


def test_zip_file_is_opened_once(tmp_path: Path, reader: UriReader, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        for number in range(50):
            file.writestr(f"{number}.jpg", str(number))
    opened: list[str] = []
    open_it = SourceFile.open

    def noted(location: SourceFile) -> io.BufferedReader:
        opened.append(location.name)
        return open_it(location)

    monkeypatch.setattr(SourceFile, "open", noted)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: reader.read(f"zip://{number}.jpg::{path}", 9), range(50)))
    assert found == [str(number).encode() for number in range(50)]
    assert opened == [str(path)]


def test_archive_copies_respect_their_limit(tmp_path: Path) -> None:
    contents: dict[str, bytes] = {}
    for number in range(6):
        path = tmp_path / f"{number}.tgz"
        members = {f"{each}.jpg": os.urandom(10_000) for each in range(10)}
        path.write_bytes(archive(members, "w:gz"))
        contents |= {member_uri(name, str(path)): content for name, content in members.items()}
    members_of = ArchiveReader(copied_bytes=250_000)

    def read(uri: str) -> bool:
        content = members_of.read(uri, LIMIT)
        return content == contents[uri]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, sorted(contents, key=hash)))
        assert all(pool.map(read, contents))
    held = sum(indexed.copied for indexed in members_of._copies.values())
    assert 0 < held <= 250_000
    members_of.close()


def test_memory_does_not_grow_with_the_members(tmp_path: Path, reader: UriReader) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(archive({f"{number:06}.jpg": b"x" * 500 for number in range(20_000)}, "w:gz"))
    tracemalloc.start()
    assert reader.read(member_uri("019999.jpg", str(path)), 10) == b"x" * 10
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000


def test_changed_archive_is_read_again(tmp_path: Path, reader: UriReader) -> None:
    for name, mode in {"a.tar": "w", "a.tgz": "w:gz"}.items():
        path = tmp_path / name
        path.write_bytes(archive({"a.jpg": b"one"}, mode))
        uri = member_uri("a.jpg", str(path))
        assert reader.read(uri, 9) == b"one"
        path.write_bytes(archive({"b.jpg": b"xyz", "a.jpg": b"other"}, mode))
        os.utime(path, ns=(1, 1))
        assert reader.read(uri, 9) == b"other"


def test_first_of_two_members_with_one_name_is_read(tmp_path: Path, reader: UriReader) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for content in (b"first", b"second"):
            info = tarfile.TarInfo("a.jpg")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (first,) = [one for one in open_source(str(path), SourceOptions()) if isinstance(one, Item)]
    assert callable(first.content)
    assert reader.read(first.uri, 9) == first.content(9) == b"first"


def test_members_before_damage_are_read(tmp_path: Path, reader: UriReader) -> None:
    members = {f"{number}.jpg": os.urandom(20_000) for number in range(20)}
    for name, mode in {"a.tar": "w", "a.tgz": "w:gz"}.items():
        path = tmp_path / name
        content = archive(members, mode)
        path.write_bytes(content[: len(content) // 2])
        assert reader.read(member_uri("0.jpg", str(path)), LIMIT) == members["0.jpg"]
        with pytest.raises(NotFoundError, match="no such member before its damage"):
            read_image(partial(reader.read, member_uri("19.jpg", str(path))), LIMIT)


def test_member_too_large_for_a_load_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tgz"
    path.write_bytes(archive({"a.jpg": b"x" * 100, "b.jpg": b"y"}, "w:gz"))
    with UriReader(max_bytes=99) as reader:
        assert reader.read(member_uri("b.jpg", str(path)), 9) == b"y"
        with pytest.raises(NotFoundError, match="too large"):
            read_image(partial(reader.read, member_uri("a.jpg", str(path))), LIMIT)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "gone.jpg",
        "/gone.jpg",
        "file:///gone.jpg",
        "nul\0.jpg",
        "/",
        "tar://a.jpg",
        "tar://a.jpg::/gone.tar",
        "zip://a.jpg::/gone.zip",
        "memory://gone.jpg",
        "nobody://knows/a.jpg",
        "x" * 5000,
    ],
)
@pytest.mark.usefixtures("memory")
def test_missing_files_are_permanent_errors(reader: UriReader, uri: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        read_image(partial(reader.read, uri), LIMIT)
    assert caught.value.reason == "UNREADABLE"


def test_web_status_decides_between_transient_and_permanent(web: str, reader: UriReader) -> None:
    for path in ("/gone.jpg", "/secret/a.jpg"):
        with pytest.raises(NotFoundError):
            read_image(partial(reader.read, web + path), LIMIT)
    for path in ("/fail/a.jpg", "/short/a.jpg", "/busy/a.jpg"):
        with pytest.raises(UnavailableError) as caught:
            read_image(partial(reader.read, web + path), LIMIT)
        assert caught.value.reason == "UNREADABLE_NOW"
        assert caught.value.retry_after == (7 if "busy" in path else None)
    with pytest.raises(UnavailableError):
        read_image(partial(reader.read, "http://127.0.0.1:1/a.jpg"), LIMIT)


def test_broken_archive_read_is_retried(tmp_path: Path, reader: UriReader, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tgz"
    path.write_bytes(archive({"a.jpg": b"one", "b.jpg": b"two"}, "w:gz"))
    uri = member_uri("b.jpg", str(path))
    broken = threading.Event()
    open_it = tar_files.open_tar

    def breaks(location: SourceFile) -> Any:
        if not broken.is_set():
            broken.set()
            raise OSError(errno.EIO, "the connection is gone", location.name)
        return open_it(location)

    monkeypatch.setattr(archive_reader, "open_tar", breaks)
    with pytest.raises(UnavailableError, match="the connection is gone"):
        read_image(partial(reader.read, uri), LIMIT)
    assert read_image(partial(reader.read, uri), LIMIT)[0] == b"two"


def test_empty_and_large_files_are_rejected_like_in_a_load(tmp_path: Path, reader: UriReader) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "large.jpg").write_bytes(b"x" * 11)
    for name, reason in {"empty.jpg": "FILE_EMPTY", "large.jpg": "IMAGE_TOO_LARGE"}.items():
        with pytest.raises(InvalidArgumentError) as caught:
            read_image(partial(reader.read, str(tmp_path / name)), 10)
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("uri", "split"),
    [
        ("tar://a.jpg::/x.tar", [("a.jpg", "/x.tar")]),
        ("tar://a::b.jpg::/x::y.tar", [("a::b.jpg", "/x::y.tar")]),
        ("tar://a:::/x.tar", [("a:", "/x.tar")]),
        ("tar:///a.jpg::/x.tar", [("/a.jpg", "/x.tar")]),
        ("tar://a::/b.jpg::/x.tar", [("a", "/b.jpg::/x.tar"), ("a::/b.jpg", "/x.tar")]),
        ("tar://a.jpg::s3://b/x::y.tar", [("a.jpg", "s3://b/x::y.tar")]),
        (
            "tar://a.jpg::simplecache::s3://b/x.tar",
            [("a.jpg", "simplecache::s3://b/x.tar"), ("a.jpg::simplecache", "s3://b/x.tar")],
        ),
        ("tar://a.jpg::x.tar", [("a.jpg", "x.tar")]),
    ],
)
def test_member_uri_is_split(uri: str, split: list[tuple[str, str]]) -> None:
    assert split_member_uri(uri) == split


def test_two_colons_chain_urls_only_for_chaining_protocols(memory: Any, bucket: Any, reader: UriReader) -> None:
    bucket.put_object(Bucket="bucket", Key="a::b.jpg", Body=b"abc")
    memory.pipe("/in/c.jpg", b"xyz")
    assert reader.read("s3://bucket/a::b.jpg", 9) == b"abc"
    assert reader.read("simplecache::memory://in/c.jpg", 9) == b"xyz"


@pytest.mark.parametrize("name", ["list.txt", "rows.jsonl", "s.tgz", "in"])
def test_network_file_system_reads_are_retried(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {f"{number}.jpg": os.urandom(30_000) for number in range(20)}
    (tmp_path / "s.tgz").write_bytes(archive(members, "w:gz"))
    (tmp_path / "list.txt").write_text("\n".join(members))
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"path": name}) for name in members))
    for member, content in members.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / member).write_bytes(content)
    failures = iter([errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EAGAIN])

    class Failing:
        """Fail every other read, like a disk that is unavailable for a moment."""

        reads = 0

        @staticmethod
        def readinto(file: io.FileIO, buffer: Any) -> int | None:
            Failing.reads += 1
            if Failing.reads % 2 == 0 and (number := next(failures, None)):
                raise OSError(number, os.strerror(number))
            return io.FileIO.readinto(file, buffer)

    list_it = os.scandir

    def failing(path: str) -> Any:
        if number := next(failures, None):
            raise OSError(number, os.strerror(number))
        return list_it(path)

    monkeypatch.setattr(source_file, "FileIO", Failing)
    monkeypatch.setattr(os, "scandir", failing)
    token = thread_retries.set(SourceRetries(20))
    try:
        found = list(open_source(str(tmp_path / name), SourceOptions()))
    finally:
        thread_retries.reset(token)
    assert [item.id.rpartition("/")[2] for item in found if isinstance(item, Item)] == sorted(
        members, key=None if name == "in" else list(members).index
    )
    assert len(found) == len(members)
    assert Failing.reads or name == "in"


def test_file_replaced_during_a_retry_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "list.txt"
    path.write_text("a.jpg\n" * 50_000)
    reads = 0

    class Failing:
        @staticmethod
        def readinto(file: io.FileIO, buffer: Any) -> int | None:
            nonlocal reads
            reads += 1
            if reads == 2:
                path.write_text("b.jpg\n" * 60_000)
                raise OSError(errno.ESTALE, "stale file handle")
            return io.FileIO.readinto(file, buffer)

    monkeypatch.setattr(source_file, "FileIO", Failing)
    token = thread_retries.set(SourceRetries(20))
    try:
        *_, last = open_source(str(path), SourceOptions())
    finally:
        thread_retries.reset(token)
    assert isinstance(last, Fault)
    assert "changed while it was read" in last.message


def test_a_malformed_address_is_an_error_of_its_image() -> None:
    with UriReader() as reader, pytest.raises(OSError, match="Invalid IPv6 URL"):
        reader.read("http://[::1/x.jpg", 100)
