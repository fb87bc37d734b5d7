"""Tables in notebooks: texts are escaped, and only small local image files have thumbnails."""

import base64
import os
import sys
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image as PillowImage

from imagesearch_client import Collection, Hit, Hits, Image, Images, Index, Metric, notebook

TIME = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a ü.png"
    PillowImage.new("RGBA", (300, 200), (255, 0, 0, 255)).save(path)
    return path


def image(uri: str = "", image_id: str = "a") -> Image:
    return Image(image_id, uri, {"kind": "<b>", "tags": ["x", "y"]}, "", TIME, TIME)


def test_everything_in_a_table_is_escaped() -> None:
    script = "<script>alert('&')</script>"
    hits = Hits([Hit(image(f"https://x/{script}", script), 0.51234, 0.5)])
    collection = Collection("c", script, 2, script, Metric.COSINE, Index.HNSW, script, {script: script}, TIME)
    for shown in (hits, hits[0], hits[0].image, Images([hits[0].image]), collection):
        html = shown._repr_html_()
        assert "<script" not in html
        assert "&lt;script&gt;" in html
    assert "0.5123" in hits._repr_html_()
    assert "kind=&lt;b&gt;" in hits._repr_html_()


def test_a_long_table_shows_the_number_of_omitted_rows() -> None:
    html = Images([image(image_id=f"i{number}") for number in range(1234)])._repr_html_()
    assert html.count("<tr>") == notebook.MAX_ROWS + 1
    assert "1,184 more" in html


def test_local_image_files_have_small_thumbnails(picture: Path) -> None:
    for uri in (str(picture), picture.as_uri(), picture.as_uri().replace("file:///", "file://localhost/")):
        source = notebook.thumbnail(uri)
        assert source is not None
        content = base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))
        with PillowImage.open(BytesIO(content)) as small:
            assert (small.format, small.size) == ("JPEG", (96, 64))
            assert small.getpixel((10, 10)) == pytest.approx((254, 0, 0), abs=3)
        assert source in Images([image(uri)])._repr_html_()


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://example.org/a.png",
        "s3://bucket/a.png",
        "//host/share/a.png",
        r"\\host\share\a.png",
        "file://host/share/a.png",
        "file:////host/share/a.png",
        "a\0b",
    ],
)
def test_uris_of_other_hosts_are_not_opened(uri: str) -> None:
    assert notebook.local_path(uri) is None


def test_only_regular_image_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "drawing.svg").write_text("<svg/>")
    for name in ("pipe", "text.png", "drawing.svg", "missing.png", "."):
        assert notebook.thumbnail(str(tmp_path / name)) is None
    assert notebook.thumbnail("/dev/zero") is None
    monkeypatch.setattr(notebook, "MAX_FILE_BYTES", picture.stat().st_size - 1)
    assert notebook.thumbnail(str(picture)) is None


def test_images_with_too_many_pixels_are_not_decoded(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "MAX_PIXELS", 300 * 200 - 1)
    assert notebook.thumbnail(str(picture)) is None


def test_tables_need_no_pillow(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    html = Images([image(str(picture))])._repr_html_()
    assert "<img" not in html
    assert "<td" in html
