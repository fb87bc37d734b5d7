"""Remote files and folders on local servers: listing, reading and errors."""

import io
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from imagesearch_ingest.sources import remote_folder_source
from imagesearch_ingest.sources.file_errors import as_os_errors
from imagesearch_ingest.sources.http_client import join
from imagesearch_ingest.sources.items import Fault, Item, SkippedFile, SourceError
from imagesearch_ingest.sources.open_source import open_source
from imagesearch_ingest.sources.remote_files import connect, open_stream, read_url
from imagesearch_ingest.sources.source_options import SourceOptions
from tests.unit.ingest.sources.conftest import CONTENT, KEYS, archive


def opened(url: str, **options: Any) -> list[Item | Fault]:
    found = open_source(url, SourceOptions(**options))
    return [one for one in found if not isinstance(one, SkippedFile)]


def items(url: str, **options: Any) -> list[Item]:
    found = opened(url, **options)
    assert not [one for one in found if isinstance(one, Fault)], found
    return [one for one in found if isinstance(one, Item)]


def content_of(item: Item, limit: int = 1_000_000) -> bytes:
    assert callable(item.content)
    return item.content(limit)


def check_folder(url: str) -> list[Item]:
    """Check that the images below the URL are those of CONTENT."""
    found = items(url)
    assert sorted(item.id for item in found) == KEYS
    for item in found:
        assert content_of(item) == CONTENT[item.id]
        assert content_of(item, 4) == CONTENT[item.id][:4]
        assert read_url(item.uri, 100) == CONTENT[item.id]
    assert {item.id for item in items(url, by_content=True)} == {""}
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(content_of, found * 10)) == [CONTENT[item.id] for item in found] * 10
    return found


def test_s3_folder_is_listed(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_folder_source, "PAGE", 2)
    for key, content in CONTENT.items():
        bucket.put_object(Bucket="bucket", Key=f"photos/{key}", Body=content)
    for key in ("photos/notes.txt", "photos/folder/", "photos-old/x.jpg", "y.jpg"):
        bucket.put_object(Bucket="bucket", Key=key, Body=b"x")
    found = check_folder("s3://bucket/photos")
    assert [item.id for item in found] == KEYS
    assert [item.size for item in found] == [len(CONTENT[key]) for key in KEYS]
    assert all(len(item.stamp) == 32 for item in found)
    assert found[0].uri == "s3://bucket/photos/a/b/c.webp"
    assert len(items("s3://bucket")) == len(KEYS) + 2


def test_object_is_read_with_one_request(bucket: Any) -> None:
    bucket.put_object(Bucket="bucket", Key="a.jpg", Body=b"abc")
    bucket.put_object(Bucket="bucket", Key="b.jpg", Body=b"")
    system, _ = connect("s3://bucket/")
    calls: list[str] = []
    call = system._call_s3

    async def counted(method: str, *args: Any, **kwargs: Any) -> Any:
        calls.append(method)
        return await call(method, *args, **kwargs)

    system._call_s3 = counted
    first, second = items("s3://bucket/")
    del calls[:]
    assert content_of(first, 10) == b"abc"
    assert content_of(first, 2) == b"ab"
    assert content_of(second, 10) == b""
    assert calls == ["get_object"] * 3


def test_s3_errors_are_os_errors(bucket: Any) -> None:
    bucket.put_object(Bucket="bucket", Key="a.jpg", Body=b"abc")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_url("s3://bucket/gone.jpg", 10)
    with pytest.raises(FileNotFoundError):
        read_url("s3://nobucket/gone.jpg", 10)
    for url in ("s3://bucket/gone/", "s3://nobucket/x/"):
        (fault,) = opened(url)
        assert isinstance(fault, Fault)
        assert (fault.reason, fault.may_hide_items) == ("FOLDER_UNREADABLE", True)
    (item,) = items("s3://bucket/a.jpg")
    assert (item.id, item.size, content_of(item)) == ("a.jpg", 3, b"abc")


def test_broken_listing_is_reported(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_folder_source, "PAGE", 2)
    for key in ("a.jpg", "b.jpg", "c.jpg"):
        bucket.put_object(Bucket="bucket", Key=key, Body=b"x")
    found = iter(open_source("s3://bucket/", SourceOptions()))
    next(found)
    bucket.delete_objects(Bucket="bucket", Delete={"Objects": [{"Key": key} for key in ("a.jpg", "b.jpg", "c.jpg")]})
    bucket.delete_bucket(Bucket="bucket")
    assert [type(one) for one in found] == [Item, Fault]


def test_manifests_and_archives_on_s3(bucket: Any) -> None:
    bucket.put_object(Bucket="bucket", Key="in/a.jpg", Body=b"abc")
    bucket.put_object(Bucket="bucket", Key="in/list.csv", Body=b"path,price\na.jpg,1\ns3://bucket/in/a.jpg,2\n")
    first, second = items("s3://bucket/in/list.csv")
    assert (first.id, first.uri, first.attributes, first.size) == ("a.jpg", "s3://bucket/in/a.jpg", {"price": 1}, None)
    assert second.id == "s3://bucket/in/a.jpg"
    assert content_of(first) == content_of(second) == b"abc"
    table = io.BytesIO()
    pq.write_table(pa.table({"url": ["a.jpg"], "n": [1]}), table)
    bucket.put_object(Bucket="bucket", Key="in/list.parquet", Body=table.getvalue())
    assert [item.attributes for item in items("s3://bucket/in/list.parquet")] == [{"n": 1}]
    bucket.put_object(Bucket="bucket", Key="in/s.tar", Body=archive({"a.jpg": b"abc", "a.cls": b"3"}))
    (item,) = items("s3://bucket/in/s.tar")
    assert (item.id, item.uri, item.held) == ("s.tar/a.jpg", "tar://a.jpg::s3://bucket/in/s.tar", 3)
    assert item.attributes == {"cls": 3}


def test_google_folder_is_listed(google: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_folder_source, "PAGE", 2)
    for key, content in CONTENT.items():
        google(f"photos/{key}", content)
    google("photos/notes.txt", b"x")
    google("photos-old/x.jpg", b"x")
    found = check_folder("gs://bucket/photos/")
    assert [item.id for item in found] == KEYS
    assert [item.size for item in found] == [len(CONTENT[key]) for key in KEYS]
    assert all(item.stamp for item in found)
    with pytest.raises(FileNotFoundError):
        read_url("gs://bucket/gone.jpg", 10)
    assert [type(one) for one in opened("gs://nobucket/x/")] == [Fault]


def test_web_folder_is_listed(web: str) -> None:
    found = check_folder(f"{web}/photos")
    assert {item.size for item in found} == {None}
    assert f"{web}/photos/{quote('猫 ü+&.jpg')}" in {item.uri for item in found}


def test_web_file_is_read_with_one_request(web: str, seen: list[str], tmp_path: Path) -> None:
    (tmp_path / "web/large.jpg").write_bytes(b"x" * 5_000_000)
    assert read_url(f"{web}/large.jpg", 1000) == b"x" * 1000
    assert [line.split()[0] for line in seen] == ["GET"]
    (item,) = items(f"{web}/large.jpg?size=2")
    assert (item.id, item.size, content_of(item, 10)) == ("large.jpg", 5_000_000, b"x" * 10)


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("/gone.jpg", FileNotFoundError, "no such file"),
        ("/fail/a.jpg", OSError, "the server answers 500"),
        ("/secret/a.jpg", PermissionError, "the server answers 403"),
        ("/short/a.jpg", OSError, "payload"),
    ],
)
def test_web_errors_are_os_errors(web: str, path: str, error: type[OSError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        read_url(web + path, 5000)
    assert caught.value.strerror
    assert "\n" not in caught.value.strerror


def test_missing_server_is_an_os_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/a.jpg"
    with pytest.raises(OSError, match="onnect"):
        read_url(url, 10)
    (item,) = items(url)
    with pytest.raises(OSError, match="onnect"):
        content_of(item)
    with pytest.raises(SourceError, match="cannot be read"):
        open_source(url.replace("jpg", "csv"), SourceOptions())


def test_unreadable_web_folders_are_reported(web: str, tmp_path: Path) -> None:
    for path in ("/fail/", "/gone/", "/secret/", "/photos/b.jpg/"):
        assert [type(one) for one in opened(web + path)] == [Fault], path
    page = tmp_path / "web/page/index.html"
    page.parent.mkdir()
    page.write_text('<a href="../fail/">up</a> <a href="./">here</a> <a href="x/">x</a> <a href="b.jpg?s=1">b</a>')
    found = opened(f"{web}/page/")
    assert [type(one) for one in found] == [Item, Fault], found


def test_web_list_of_web_files(web: str, tmp_path: Path) -> None:
    lines = [{"path": "photos/b.jpg", "price": 1}, {"url": f"{web}/photos/{quote('猫 ü+&.jpg')}"}]
    (tmp_path / "web/list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = items(f"{web}/list.jsonl")
    assert [content_of(item) for item in found] == [CONTENT["b.jpg"], CONTENT["猫 ü+&.jpg"]]
    assert open_source(f"{web}/list.jsonl", SourceOptions()).count() is None


def test_truncated_web_archive_is_reported(web: str, tmp_path: Path) -> None:
    content = archive({f"{number}.jpg": bytes(50_000) for number in range(50)}, "w:gz")
    (tmp_path / "web/a.tgz").write_bytes(content)
    assert len(items(f"{web}/a.tgz")) == 50
    (tmp_path / "web/a.tgz").write_bytes(content[: len(content) // 2])
    assert isinstance(opened(f"{web}/a.tgz")[-1], Fault)


def test_folder_of_another_file_system(memory: Any) -> None:
    for key, content in CONTENT.items():
        memory.pipe(f"/photos/{key}", content)
    check_folder("memory://photos")
    (fault,) = opened("memory://gone/")
    assert isinstance(fault, Fault)


def test_unreadable_subfolder_is_reported(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/a.jpg", "b/b.jpg", "c.jpg"):
        memory.pipe(f"/x/{name}", b"x")
    listed = MemoryFileSystem.ls

    def refuse(system: Any, path: str, **kwargs: Any) -> Any:
        if path.endswith("/a"):
            raise RuntimeError("a library's own error")
        return listed(system, path, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "ls", refuse)
    found = opened("memory://x/")
    assert [one.id for one in found if isinstance(one, Item)] == ["c.jpg", "b/b.jpg"]
    (fault,) = (one for one in found if isinstance(one, Fault))
    assert "a library's own error" in fault.message


def test_remote_file_is_a_python_file(memory: Any) -> None:
    memory.pipe("/a.bin", bytes(range(100)))
    with io.BufferedReader(open_stream("memory://a.bin")) as file:
        assert file.read(3) == bytes(range(3))
        file.seek(50)
        assert (file.tell(), file.read()) == (50, bytes(range(50, 100)))
    with pytest.raises(FileNotFoundError):
        open_stream("memory://gone.bin")


@pytest.mark.parametrize(("url", "package"), [("s3://b/", "s3fs"), ("gs://b/", "gcsfs"), ("https://h/", "aiohttp")])
def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, url: str, package: str) -> None:
    def missing(*_args: object, **_kwargs: object) -> None:
        raise ImportError(package)

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(SourceError, match=rf"://: {package} is not installed; run pip install '\.\[[a-z0-9,]+\]'"):
        open_source(url, SourceOptions())
    with pytest.raises(OSError, match="pip install"):
        read_url(url, 10)


def test_bugs_of_this_package_are_not_file_errors() -> None:
    with pytest.raises(TypeError), as_os_errors("http://h/a.jpg"):
        join(None, "b.jpg")  # type: ignore[arg-type]
    with pytest.raises(OSError, match="a library's"), as_os_errors("http://h/a.jpg"):
        raise TypeError("a library's")
