"""What `imagesearch ingest --dry-run` reports about unsupported files. It needs no service."""

import io
import json
import random
import sys
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner, Result

from imagesearch_cli.app import app
from imagesearch_ingest.pillow_formats import pillow_formats


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def jpeg(colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(file, "JPEG")
    return file.getvalue()


def ingest(*arguments: Path | str) -> Result:
    environment = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    return CliRunner(env=environment).invoke(app, ["ingest", "--dry-run", *map(str, arguments)], catch_exceptions=False)


def words(text: str) -> str:
    return " ".join(text.split())


def test_ingest_loads_supported_suffixes_and_names_the_others(photos: Path, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jfif", "c.jpe", "no_suffix"):
        (photos / name).write_bytes(jpeg())
    for name in ("d.psd", "e.svg", "f.svg", "._a.jpg", "notes.txt"):
        (photos / name).write_bytes(b"x")
    rejects = tmp_path / "bad.jsonl"
    done = ingest(photos, "--rejects", rejects)
    assert done.exit_code == 0
    reported = words(done.output)
    assert "3 of 3 images could be stored" in reported
    assert "4 unsupported files: 1 without a suffix, 1 .psd, 2 .svg; --rejects FILE names them" in reported
    assert "1 left out" in reported
    assert len(rejects.read_text().splitlines()) == 4
    account = json.loads(ingest(photos, "--json").stdout)
    assert account["unsupported"] == 4
    assert account["unsupported_suffixes"] == {"": 1, ".psd": 1, ".svg": 2}
    assert (account["system_files"], account["other_files"], account["listed"]) == (1, 1, 3)
    account = json.loads(ingest(photos, "--json", "--any-name").stdout)
    assert (account["stored"], account["unsupported"]) == (4, 3)


def test_a_folder_without_supported_files_names_their_suffixes(photos: Path) -> None:
    for name in ("d.psd", "e.svg", "notes.txt"):
        (photos / name).write_bytes(b"x")
    done = ingest(photos)
    assert done.exit_code == 1
    assert "2 unsupported files: 1 .psd, 1 .svg; files of images end in .jpg" in words(done.output)
    account = json.loads(ingest(photos, "--json").stdout)
    assert (account["listed"], account["unsupported"], account["other_files"]) == (0, 2, 1)


def test_a_dry_run_accepts_the_formats_of_the_embedder(photos: Path) -> None:
    image = Image.new("RGB", (16, 16), "red")
    for name, file_format in (("a.avif", "AVIF"), ("b.heic", "HEIF")):
        pillow_formats()
        image.save(photos / name, file_format)
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "node " * 500_000, zip=True)
    image.save(photos / "c.png", pnginfo=text, icc_profile=random.Random(0).randbytes(1_500_000))
    assert json.loads(ingest(photos, "--json").stdout)["stored"] == 3


def test_a_dry_run_suggests_the_extra_for_heic(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "b.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    pillow_formats.cache_clear()
    done = ingest(photos)
    pillow_formats.cache_clear()
    assert "pip install '.[cli,heic]'" in words(done.output)
