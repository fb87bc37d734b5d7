"""Which stored uris may be opened: those of given places, or safe ones by default."""

import os
from pathlib import Path

import pytest

from imagesearch_analysis import pictures
from imagesearch_ingest.sources.allowed_uris import AllowedUris
from imagesearch_ingest.sources.uri_reader import UriReader


def refusal(allowed: AllowedUris, uri: str) -> str:
    with pytest.raises(PermissionError) as raised:
        allowed.check(uri)
    return str(raised.value.strerror)


@pytest.mark.parametrize(
    "uri",
    [
        "/photos/a.jpg",
        "a.jpg",
        "file:///photos/a%20b.jpg",
        "http://127.0.0.1:8000/a.jpg",
        "https://10.0.0.1/a.jpg",
        "s3://bucket/a.jpg",
        "s3a://bucket/a::b.jpg",
        "GS://bucket/a.jpg",
        "tar://a.jpg::/photos/a.tar",
        "zip://a.jpg::s3://bucket/a.zip",
        "tar://a::b.jpg::file:///photos/a.tar",
    ],
)
def test_uris_of_loads_are_allowed(uri: str) -> None:
    AllowedUris().check(uri)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("sftp://host/a.jpg", "--open sftp allows sftp://"),
        ("ssh://host/a.jpg", "--open ssh"),
        ("github://owner:repo@main/a.jpg", "--open github"),
        ("memory://a.jpg", "--open memory"),
        ("simplecache::http://host/a.jpg", "leads to another address"),
        ("filecache::file:///etc/passwd", "leads to another address"),
        ("simplecache://a::file:///etc/passwd", "leads to another address"),
        ("tar://a.jpg::simplecache::http://host/a.tar", "leads to another address"),
        ("tar://a.jpg::sftp://host/a.tar", "--open sftp"),
        ("zip://a.jpg::ssh://host/a.zip::/photos/a.zip", "--open ssh"),
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254 is a cloud metadata service"),
        ("http://2852039166/latest/meta-data/", "169.254.169.254"),
        ("http://0xA9FEA9FE/", "169.254.169.254"),
        ("http://[::ffff:169.254.169.254]/", "169.254.169.254"),
        ("http://[fe80::1]/a.jpg", "fe80::1"),
        ("http://[fe80::1%25lo]/a.jpg", "fe80::1"),
        ("http://[fd00:ec2::254]/", "fd00:ec2::254"),
        ("http://100.100.100.200/", "100.100.100.200"),
        ("/dev/zero", "not a regular file"),
        ("file:///dev/zero", "not a regular file"),
    ],
)
def test_refusal_names_the_option_that_allows_the_uri(uri: str, said: str) -> None:
    allowed = AllowedUris()
    assert said in refusal(allowed, uri)
    assert (allowed.refused, allowed.first_refusal.startswith(f"{uri}: ")) == (1, True)


def test_only_given_places_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"a")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "photos" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    allowed = AllowedUris(["sftp", "s3://bucket/in", str(tmp_path / "photos")], root=str(tmp_path / "photos"))
    for uri in ("sftp://host/a", "s3://bucket/in/a", str(tmp_path / "photos" / "a.jpg"), "a.jpg"):
        allowed.check(uri)
    for uri in (
        "s3://bucket/inner/a",
        "s3://bucket/in/../a",
        "s3://bucket/in/%2e%2e/a",
        "s3://other/a",
        "http://host/a.jpg",
        str(tmp_path / "secret.jpg"),
        str(tmp_path / "photos" / ".." / "secret.jpg"),
        f"file://{tmp_path}/photos/%2e%2e/secret.jpg",
        "../secret.jpg",
        "link.jpg",
        f"tar://a::{tmp_path}/secret.jpg",
    ):
        assert "--open" in refusal(allowed, uri)
    AllowedUris(["http://169.254.0.1:80/"]).check("http://169.254.0.1:80/a.jpg")
    AllowedUris(["file"]).check("/anywhere/a.jpg")


def test_uris_below_the_root_are_allowed() -> None:
    allowed = AllowedUris(root="sftp://host/photos")
    allowed.check("a.jpg")
    allowed.check("sftp://host/photos/a.jpg")
    assert "--root" in refusal(allowed, "../a.jpg")
    assert "--open sftp" in refusal(allowed, "sftp://host/photographs/a.jpg")


def test_folder_without_slash_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    allowed = AllowedUris(["photos"], root="photos")
    allowed.check(str(tmp_path / "photos" / "a.jpg"))
    assert "--open" in refusal(allowed, "/a.jpg")


def test_fifo_does_not_block_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with UriReader() as reader, pytest.raises(PermissionError, match="not a regular file"):
        reader.read(str(tmp_path / "a.jpg"), 10)


def test_refused_pictures_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    with pictures.allowing(["s3"]) as allowed:
        assert pictures.read_picture(str(tmp_path / "a.jpg"), 10) is None
        assert pictures.read_size("memory://a.jpg") is None
    assert (allowed.refused, f"--open {tmp_path}" in allowed.first_refusal) == (2, True)
    assert pictures.read_content(str(tmp_path / "a.jpg")) == b"a"
