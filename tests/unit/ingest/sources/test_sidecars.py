"""Sidecars in archives, in any order and with any name: they are read, or reported."""

import gzip
import io
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from imagesearch_ingest.sources import tar_source
from imagesearch_ingest.sources.items import Fault, Item
from imagesearch_ingest.sources.open_source import open_source
from imagesearch_ingest.sources.source_options import SourceOptions
from imagesearch_ingest.sources.tar_source import TarSource
from imagesearch_ingest.sources.uri_reader import UriReader

Members = Sequence[tuple[str, bytes]]
KINDS = ("a.tar", "a.tar.gz")


def tar_of(members: Members) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def archive(folder: Path, kind: str, content: bytes | Members) -> TarSource:
    path = folder / kind
    plain = content if isinstance(content, bytes) else tar_of(content)
    path.write_bytes(gzip.compress(plain) if kind.endswith(".gz") else plain)
    source = open_source(str(path), SourceOptions())
    assert isinstance(source, TarSource)
    return source


def attributes(found: Iterable[object]) -> dict[str, Any]:
    return {one.id.partition("/")[2]: one.attributes for one in found if isinstance(one, Item)}


def faults(found: Iterable[object]) -> list[tuple[str, str]]:
    return [(one.where, one.reason) for one in found if isinstance(one, Fault)]


ORDERS: Sequence[Sequence[str]] = (
    ("a.jpg", "b.jpg", "a.json", "b.json"),
    ("a.json", "b.json", "a.jpg", "b.jpg"),
    ("a.json", "b.jpg", "a.jpg", "b.json"),
    ("b.json", "a.jpg", "b.jpg", "a.json"),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ORDERS)
def test_order_of_members_does_not_matter(tmp_path: Path, kind: str, order: Sequence[str]) -> None:
    contents = {"a.json": b'{"price": 1}', "b.json": b'{"price": 2}'}
    source = archive(tmp_path, kind, [(name, contents.get(name, b"x")) for name in order])
    found = list(source)
    assert attributes(found) == {"a.jpg": {"price": 1}, "b.jpg": {"price": 2}}
    assert (faults(found), source.remarks) == ([], [])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("image", "facts"),
    [
        ("a.jpg", "a.json"),
        ("a.jpg", "a.jpg.json"),
        ("a.b.jpg", "a.b.json"),
        ("a.b.jpg", "a.json"),
        ("a.b.jpg", "a.b.jpg.json"),
        ("photo.2024.05.01.jpg", "photo.2024.05.01.json"),
        ("A.JPG", "A.JSON"),
        ("./in/a.jpg", "in/a.json"),
        ("in/a.jpg", "./in//a.json"),
        ("/in/a.jpg", "in/a.json"),
        ("in.v1/a.jpg", "in.v1/a.json"),
        ("猫.jpg", "猫.json"),
        (".hidden.jpg", ".hidden.json"),
    ],
)
def test_sidecars_are_found_by_name(tmp_path: Path, kind: str, image: str, facts: str) -> None:
    source = archive(tmp_path, kind, [(image, b"x"), (facts, b'{"price": 1}'), ("other.jpg", b"y")])
    found = list(source)
    assert list(attributes(found).values()) == [{"price": 1}, None]
    assert (faults(found), source.remarks) == ([], [])


@pytest.mark.parametrize("kind", KINDS)
def test_images_share_sidecars_and_have_their_own(tmp_path: Path, kind: str) -> None:
    members = [
        ("s.left.jpg", b"x"),
        ("s.json", b'{"price": 1, "side": "both"}'),
        ("s.right.jpg", b"y"),
        ("s.left.json", b'{"side": "left"}'),
        ("s.right.jpg.txt", b"from the right"),
    ]
    assert attributes(list(archive(tmp_path, kind, members))) == {
        "s.left.jpg": {"price": 1, "side": "left"},
        "s.right.jpg": {"price": 1, "side": "both", "txt": "from the right"},
    }


@pytest.mark.parametrize("kind", KINDS)
def test_sidecars_without_image_are_reported(tmp_path: Path, kind: str) -> None:
    members = [("a.jpg", b"x"), ("a.meta.json", b"{}"), ("README.txt", b"r"), *((f"{n}.json", b"{}") for n in range(7))]
    source = archive(tmp_path, kind, members)
    assert attributes(list(source)) == {"a.jpg": None}
    names = "'0.json', '1.json', '2.json', '3.json', '4.json', ..."
    assert source.remarks == [f"{kind}: 9 members with attributes belong to no image: {names}"]


def test_late_sidecar_of_a_stream_is_reported_and_the_suggestion_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_source, "MAX_WAITING_BYTES", 1000)
    members = [
        *((f"{number}.jpg", b"x" * 100) for number in range(20)),
        *((f"{number}.json", b'{"n": 1}') for number in range(20)),
    ]
    found = list(archive(tmp_path, "a.tar.gz", members))
    output = attributes(found)
    assert len(output) == 20
    late = [name for name, facts in output.items() if facts is None]
    assert 0 < len(late) < 20
    assert [where for where, _ in faults(found)] == [f"a.tar.gz/{name.replace('jpg', 'json')}" for name in late]
    assert {reason for _, reason in faults(found)} == {"ATTRIBUTES_LATE"}
    # The message suggests an uncompressed file.
    subprocess.run(["gunzip", "a.tar.gz"], cwd=tmp_path, check=True)  # noqa: S607 - of the system
    source = open_source(str(tmp_path / "a.tar"), SourceOptions())
    again = list(source)
    assert (faults(again), set(map(str, attributes(again).values()))) == ([], {"{'n': 1}"})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blocks", [0, 1, 20])
def test_concatenated_archives_are_read(tmp_path: Path, kind: str, blocks: int) -> None:
    one, other = tar_of([("a.jpg", b"x"), ("b.json", b'{"n": 2}')]), tar_of([("b.jpg", b"y"), ("a.json", b'{"n": 1}')])
    source = archive(tmp_path, kind, one + bytes(512 * blocks) + other)
    found = list(source)
    assert attributes(found) == {"a.jpg": {"n": 1}, "b.jpg": {"n": 2}}
    assert (faults(found), source.remarks) == ([], [])
    uris = [one.uri for one in found if isinstance(one, Item)]
    with UriReader() as reader:
        assert [reader.read(uri, 10) for uri in uris] == [b"x", b"y"]


def test_appended_archive_is_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jpg").write_bytes(name.encode())
        subprocess.run(["tar", "-cf", f"{name}.tar", f"{name}.jpg"], cwd=tmp_path, check=True)  # noqa: S607
    subprocess.run(["tar", "-A", "-f", "a.tar", "b.tar"], cwd=tmp_path, check=True)  # noqa: S607 - of the system
    found = list(open_source(str(tmp_path / "a.tar"), SourceOptions()))
    assert attributes(found) == {"a.jpg": None, "b.jpg": None}


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_after_the_end_are_reported(tmp_path: Path, kind: str) -> None:
    source = archive(tmp_path, kind, tar_of([("a.jpg", b"x")]) + b"junk" * 300)
    found = list(source)
    assert (attributes(found), faults(found)) == ({"a.jpg": None}, [])
    assert source.remarks == [f"{kind}: 1024 bytes after its end are not an archive, and are ignored"]


@pytest.mark.parametrize("kind", KINDS)
def test_members_with_one_name_and_different_content_are_rejected(tmp_path: Path, kind: str) -> None:
    members = [
        ("a.jpg", b"x"),
        ("b.jpg", b"y"),
        ("a.jpg", b"X"),
        ("./b.jpg", b"y"),
        ("b.json", b'{"n": 1}'),
        ("b.json", b'{"n": 1}'),
        ("c.jpg", b"z"),
        ("c.json", b'{"n": 1}'),
        ("c.json", b'{"n": 2}'),
    ]
    found = list(archive(tmp_path, kind, members))
    assert attributes(found) == {"a.jpg": None, "b.jpg": {"n": 1}}
    where = str(tmp_path / kind)
    assert sorted(faults(found)) == [(f"{kind}/a.jpg", "ID_TWICE"), (f"tar://c.jpg::{where}", "ROW_INVALID")]


@pytest.mark.parametrize("kind", KINDS)
def test_links_to_sidecars_are_rejected(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    with tarfile.open(path, "w:gz" if kind.endswith(".gz") else "w") as tar:
        for name, link in (("a.jpg", ""), ("b.jpg", ""), ("a.json", ""), ("b.json", "a.json")):
            info = tarfile.TarInfo(name)
            info.size = 0 if link else 2
            info.type, info.linkname = (tarfile.LNKTYPE, link) if link else (tarfile.REGTYPE, "")
            tar.addfile(info, io.BytesIO(b"{}"))
    found = list(open_source(str(path), SourceOptions()))
    assert attributes(found) == {"a.jpg": {}}
    (fault,) = [one for one in found if isinstance(one, Fault)]
    assert fault.reason == "ROW_INVALID"
    assert "--hard-dereference" in fault.message


def test_suggestion_for_links_works(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "b.jpg").hardlink_to(tmp_path / "a.jpg")

    def pack(*options: str) -> list[object]:
        command = ["tar", "-cf", "a.tar", *options, "a.jpg", "b.jpg"]
        subprocess.run(command, cwd=tmp_path, check=True)
        return list(open_source(str(tmp_path / "a.tar"), SourceOptions()))

    (link,) = [one for one in pack() if isinstance(one, Fault)]
    assert link.reason == "ARCHIVE_LINK"
    assert "--hard-dereference" in link.message
    assert attributes(pack("--hard-dereference")) == {"a.jpg": None, "b.jpg": None}


@pytest.mark.parametrize("layout", ["gnu", "posix"])
@pytest.mark.parametrize("kind", KINDS)
def test_sparse_images_and_sidecars_are_read(tmp_path: Path, kind: str, layout: str) -> None:
    content = bytes(2**20) + b"end" + bytes(2**19)
    for name, text in (("a.jpg", content), ("a.txt", bytes(100_000).replace(b"\0", b" ") + b"red"), ("b.jpg", b"b")):
        (tmp_path / name).write_bytes(text)
    with (tmp_path / "a.json").open("wb") as file:
        file.write(b'{"n": 1}')
        file.truncate(8)
    command = ["tar", "-S", f"--format={layout}", "-caf", kind, "a.jpg", "a.txt", "a.json", "b.jpg"]
    with (tmp_path / "a.jpg").open("r+b") as file:
        file.truncate(0)
        file.seek(2**20)
        file.write(b"end")
        file.truncate(len(content))
    subprocess.run(command, cwd=tmp_path, check=True)
    found = list(open_source(str(tmp_path / kind), SourceOptions()))
    assert attributes(found) == {"a.jpg": {"n": 1, "txt": "red"}, "b.jpg": None}
    (image,) = [one for one in found if isinstance(one, Item) and one.size == len(content)]
    assert callable(image.content)
    assert image.content(2 * len(content)) == content


@pytest.mark.parametrize("kind", KINDS)
def test_images_before_damage_keep_their_sidecars(tmp_path: Path, kind: str) -> None:
    whole = tar_of([("a.jpg", b"x"), ("b.jpg", b"y"), ("a.json", b'{"n": 1}'), ("b.json", b'{"n": 2}')])
    found = list(archive(tmp_path, kind, whole[: 7 * 512 - 100]))
    assert attributes(found) == {"a.jpg": {"n": 1}, "b.jpg": None}
    assert [reason for _, reason in faults(found)] == ["ARCHIVE_DAMAGED"]
