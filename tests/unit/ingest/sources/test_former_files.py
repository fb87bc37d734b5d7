"""Whether a file that was loaded before is there still."""

from pathlib import Path
from typing import Any

import pytest

from imagesearch_ingest.sources.former_files import FormerFiles
from tests.unit.ingest.sources.conftest import archive


@pytest.fixture
def files() -> FormerFiles:
    return FormerFiles()


def test_a_local_file(files: FormerFiles, tmp_path: Path) -> None:
    old, new = tmp_path / "old.jpg", tmp_path / "new.jpg"
    assert not files.former_exists(str(new), str(old))
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    assert files.former_exists(str(new), str(old))
    assert files.former_exists(str(new), old.as_uri())
    link = tmp_path / "link.jpg"
    link.symlink_to(old)
    assert not files.former_exists(str(link), str(old))
    assert not files.former_exists(str(new), str(old / "below.jpg"))
    # A name that cannot be looked at says nothing.
    assert files.former_exists(str(new), "/" + "x" * 300)


def test_a_member_is_there_with_its_archive(files: FormerFiles, tmp_path: Path) -> None:
    old, new = tmp_path / "old.tar", tmp_path / "new.tar"
    uris = [f"tar://a.jpg::{path}" for path in (new, old)]
    assert not files.former_exists(*uris)
    old.write_bytes(archive({"a.jpg": b"x"}))
    assert files.former_exists(*uris)
    new.symlink_to(old)
    assert not files.former_exists(*uris)
    assert files.former_exists(f"tar://b.jpg::{new}", uris[1])


def test_a_file_of_a_web_server(files: FormerFiles, web: str, seen: list[str]) -> None:
    assert files.former_exists("/new.jpg", f"{web}/photos/b.jpg")
    assert files.former_exists("/new.jpg", f"{web}/photos/empty.jpg")
    assert not files.former_exists("/new.jpg", f"{web}/photos/gone.jpg")
    assert files.former_exists("/new.jpg", f"{web}/secret/b.jpg")
    assert not files.former_exists("/new.jpg", f"{web}/photos/gone too.jpg")
    # A server that does not say is not asked for every image.
    asked = len(seen)
    for number in range(10):
        assert files.former_exists("/new.jpg", f"{web}/fail/{number}.jpg")
    assert len(seen) == asked + 1


def test_a_file_of_a_bucket(files: FormerFiles, bucket: Any) -> None:
    bucket.put_object(Bucket="bucket", Key="a.jpg", Body=b"x")
    assert files.former_exists("/new.jpg", "s3://bucket/a.jpg")
    assert not files.former_exists("/new.jpg", "s3://bucket/gone.jpg")
    assert not files.former_exists("/new.jpg", "s3://nobucket/gone.jpg")
    assert files.former_exists("/new.jpg", "odd://bucket/a.jpg")
