"""Whether a file that was loaded earlier still exists."""

from pathlib import Path
from typing import Any

import pytest

from imagesearch_ingest.sources.former_files import FormerFiles
from tests.unit.ingest.sources.conftest import archive


@pytest.fixture
def files() -> FormerFiles:
    return FormerFiles()


def test_former_local_file_exists(files: FormerFiles, tmp_path: Path) -> None:
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
    # A name that cannot be looked up counts as existing.
    assert files.former_exists(str(new), "/" + "x" * 300)


def test_former_member_exists_with_its_archive(files: FormerFiles, tmp_path: Path) -> None:
    old, new = tmp_path / "old.tar", tmp_path / "new.tar"
    uris = [f"tar://a.jpg::{path}" for path in (new, old)]
    assert not files.former_exists(*uris)
    old.write_bytes(archive({"a.jpg": b"x"}))
    assert files.former_exists(*uris)
    new.symlink_to(old)
    assert not files.former_exists(*uris)
    assert files.former_exists(f"tar://b.jpg::{new}", uris[1])


def test_former_web_file_exists(files: FormerFiles, web: str, seen: list[str]) -> None:
    assert files.former_exists("/new.jpg", f"{web}/photos/b.jpg")
    assert files.former_exists("/new.jpg", f"{web}/photos/empty.jpg")
    assert not files.former_exists("/new.jpg", f"{web}/photos/gone.jpg")
    assert files.former_exists("/new.jpg", f"{web}/secret/b.jpg")
    assert not files.former_exists("/new.jpg", f"{web}/photos/gone too.jpg")
    # A failing server gets only one request.
    asked = len(seen)
    for number in range(10):
        assert files.former_exists("/new.jpg", f"{web}/fail/{number}.jpg")
    assert len(seen) == asked + 1


def test_former_object_exists(files: FormerFiles, bucket: Any) -> None:
    bucket.put_object(Bucket="bucket", Key="a.jpg", Body=b"x")
    assert files.former_exists("/new.jpg", "s3://bucket/a.jpg")
    assert not files.former_exists("/new.jpg", "s3://bucket/gone.jpg")
    assert not files.former_exists("/new.jpg", "s3://nobucket/gone.jpg")
    assert files.former_exists("/new.jpg", "odd://bucket/a.jpg")
