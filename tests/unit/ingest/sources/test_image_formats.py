"""Which files of a source are images, and how the other files are counted."""

import io
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from imagesearch_ingest.sources.image_formats import (
    FORMATS,
    SUFFIXES,
    UNSUPPORTED_SUFFIXES,
    describe_unsupported,
    is_image_content,
    is_system_file,
)
from imagesearch_ingest.sources.items import Fault, Item, SkippedFile, SkipReason, SourceEntry, SourceError
from imagesearch_ingest.sources.open_source import open_source
from imagesearch_ingest.sources.source_options import SourceOptions


def encoded(file_format: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, file_format)
    return file.getvalue()


JPEG, TIFF = encoded("JPEG"), encoded("TIFF")
SUPPORTED = ("a.jpg", "b.JFIF", "c.jpe", "d.heic", "e.avif", "below/f.dib", "below/g.apng")
UNSUPPORTED = ("h.psd", "i.SVG", "below/j.cr2", "below/k.svg")
SYSTEM = (
    "._a.jpg", ".DS_Store", "Thumbs.db", "__MACOSX/._a.jpg", "__MACOSX/x.jpg", "below/@eaDir/a.jpg/THUMB_M.jpg",
    ".thumbnails/1.png", ".Trash-1000/files/b.jpg", ".Trashes/c.jpg", "#recycle/d.jpg", ".AppleDouble/a.jpg",
    ".git/objects/ab", "below/.GIT/logo.png",
)  # fmt: skip
OTHER = ("notes.txt", "below/a.json", "clip.mp4", "README", "below/many.dots.yaml")
NO_SUFFIX, ODD_SUFFIX, CAMERA_RAW = "IMG_0001", "below/photo.bak", "below/raw.nef"
CONTENT = (
    dict.fromkeys((*SUPPORTED, *UNSUPPORTED, *SYSTEM), JPEG)
    | dict.fromkeys(OTHER, b"{}")
    | {NO_SUFFIX: JPEG, ODD_SUFFIX: JPEG, CAMERA_RAW: TIFF}
)


def folder(tmp_path: Path) -> str:
    for name, content in CONTENT.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(tmp_path / "photos")


def packed(path: Path, mode: str) -> str:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in CONTENT.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)


def bucket(tmp_path: Path) -> str:
    system = MemoryFileSystem()
    for name, content in CONTENT.items():
        system.pipe_file(f"/{tmp_path.name}/{name}", content)
    return f"memory://{tmp_path.name}/"


SOURCES: dict[str, Callable[[Path], str]] = {
    "folder": folder,
    "tar": lambda tmp_path: packed(tmp_path / "a.tar", "w"),
    "tar.gz": lambda tmp_path: packed(tmp_path / "a.tar.gz", "w:gz"),
    "bucket": bucket,
}


def listed(source: str, **options: bool) -> list[SourceEntry]:
    return list(open_source(source, SourceOptions(**options)))  # type: ignore[arg-type]


def counted(found: list[SourceEntry]) -> tuple[list[str], Counter[str], int, int]:
    """Return the names of the items, the suffixes of unsupported files, and the numbers of skipped files."""
    assert not [each for each in found if isinstance(each, Fault)], found
    items = sorted(each.id.removeprefix("a.tar/").removeprefix("a.tar.gz/") for each in found if isinstance(each, Item))
    passed = [each for each in found if isinstance(each, SkippedFile)]
    suffixes = Counter(each.suffix for each in passed if each.reason is SkipReason.UNSUPPORTED)
    whys = Counter(each.reason for each in passed)
    return items, suffixes, whys[SkipReason.SYSTEM_FILE], whys[SkipReason.NOT_AN_IMAGE]


@pytest.mark.parametrize("kind", SOURCES)
def test_every_file_is_an_item_or_counted_as_skipped(tmp_path: Path, kind: str) -> None:
    source = SOURCES[kind](tmp_path)
    items, suffixes, system_files, others = counted(listed(source))
    # Reading a file of a bucket costs a request.
    unread = 1 if kind == "bucket" else 0
    without_suffix = {} if unread else {"": 1}
    assert items == sorted(SUPPORTED)
    assert suffixes == {".psd": 1, ".svg": 2, ".cr2": 1, ".nef": 1} | without_suffix
    assert (system_files, others) == (len(SYSTEM), len(OTHER) + 1 + unread)
    assert len(items) + suffixes.total() + system_files + others == len(CONTENT)


@pytest.mark.parametrize("kind", SOURCES)
def test_any_name_accepts_images_by_their_content(tmp_path: Path, kind: str) -> None:
    found = listed(SOURCES[kind](tmp_path), any_name=True)
    items, suffixes, system_files, others = counted(found)
    assert items == sorted((*SUPPORTED, *UNSUPPORTED, NO_SUFFIX, ODD_SUFFIX))
    assert (suffixes, system_files, others) == ({".nef": 1}, len(SYSTEM), len(OTHER))
    for item in found:
        if isinstance(item, Item):
            assert callable(item.content)
            assert item.content(10**6) == JPEG


@pytest.mark.parametrize("by_content", [False, True])
@pytest.mark.parametrize("kind", SOURCES)
def test_skipped_file_has_the_key_of_its_item(tmp_path: Path, kind: str, by_content: bool) -> None:
    source = SOURCES[kind](tmp_path)
    taken = {each.key for each in listed(source, any_name=True, by_content=by_content) if isinstance(each, Item)}
    found = listed(source, by_content=by_content)
    items, passed = ([each.key for each in found if isinstance(each, what)] for what in (Item, SkippedFile))
    assert taken - set(items) == taken & set(passed)
    assert len({*items, *passed}) == len(CONTENT)


def test_unsupported_file_says_where_it_is_and_what_to_do(tmp_path: Path) -> None:
    source = folder(tmp_path)
    output = {each.where: each.message for each in listed(source) if isinstance(each, SkippedFile) and each.message}
    assert set(output) == {f"{source}/{name}" for name in (*UNSUPPORTED, NO_SUFFIX, CAMERA_RAW)}
    assert "convert it" in output[f"{source}/h.psd"]
    assert "--any-name accepts it" in output[f"{source}/{NO_SUFFIX}"]


def test_unreadable_system_folder_hides_no_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder(tmp_path)
    from imagesearch_ingest.sources import folder_source  # noqa: PLC0415

    entries = folder_source._entries

    def refusing(path: str) -> object:
        if path.endswith(".Trashes"):
            raise PermissionError(13, "Permission denied", path)
        return entries(path)

    monkeypatch.setattr(folder_source, "_entries", refusing)
    assert counted(listed(source))[2] == len(SYSTEM) - 1


def test_any_name_accepts_a_single_file(tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(JPEG)
    (tmp_path / "words").write_bytes(b"words")
    (item,) = listed(str(tmp_path / "photo"), any_name=True)
    assert isinstance(item, Item)
    assert item.id == "photo"
    for name, options in (("photo", {}), ("words", {"any_name": True})):
        with pytest.raises(SourceError, match="--any-name"):
            listed(str(tmp_path / name), **options)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"])
def test_content_is_recognised_by_its_header(file_format: str) -> None:
    content = encoded(file_format)
    assert is_image_content(content[:32])
    assert not is_image_content(content[:1])
    assert not is_image_content(b"x" + content[:31])


@pytest.mark.parametrize(
    "content", [b"", b"BM says hello to the world, and more", b"II", b"RIFF1234WAVE", b"\0\0\0\x18ftypmp42"]
)
def test_other_content_is_not_an_image(content: bytes) -> None:
    assert not is_image_content(content)


def test_suffixes_agree_with_pillow() -> None:
    Image.init()
    for name in ("JPEG", "PNG", "WebP", "GIF", "TIFF", "AVIF"):
        known = {suffix for suffix, of in Image.registered_extensions().items() if of == name.upper()}
        assert known <= {*FORMATS[name]}, name
    assert not SUFFIXES & UNSUPPORTED_SUFFIXES


@pytest.mark.parametrize(
    "path", ["a.jpg", "git/a.jpg", "trash/a.jpg", "thumbs/a.png", "eaDir/a.jpg", "a._b.jpg", "cat.git"]
)
def test_similar_names_are_not_system_files(path: str) -> None:
    assert not is_system_file(path)


def test_summary_names_each_unsupported_suffix() -> None:
    assert describe_unsupported({".svg": 1, ".psd": 2}) == "3 unsupported files: 2 .psd, 1 .svg"
    assert describe_unsupported({"": 1}) == "1 unsupported file: 1 without a suffix"


def test_documentation_lists_the_same_suffixes() -> None:
    text = (Path(__file__).parents[4] / "docs" / "guides" / "ingest.md").read_text()
    for name, suffixes in FORMATS.items():
        assert f"| {name} | {' '.join(f'`{suffix}`' for suffix in suffixes)} |" in text
