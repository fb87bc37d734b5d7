"""Tables in notebooks: texts are escaped, and only small local image files have thumbnails."""

import base64
import os
import re
import sys
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image as PillowImage

from imagesearch_client import Collection, Hit, Hits, Image, Images, Index, Metric, Region, notebook

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


def frames_of(html: str) -> list[dict[str, float]]:
    """Return the edges of the frames on thumbnails, as shares of the thumbnail."""
    frames = re.findall(r'<img [^>]*>(?:<div style="position:absolute;([^"]*)"></div>)?', html)
    edges = [re.findall(r"(left|top|width|height):([\d.]+)%", style) for style in frames]
    return [{edge: float(value) / 100 for edge, value in found} for found in edges]


def test_a_hit_with_a_region_has_a_frame_round_it(picture: Path) -> None:
    region = Region(0.25, 0.5, 0.75, 0.875)
    hits = Hits([Hit(image(str(picture)), 0.9, 0.1, region), Hit(image(str(picture)), 0.8, 0.2)])
    frame = {"left": 0.25, "top": 0.5, "width": 0.5, "height": 0.375}
    assert frames_of(hits._repr_html_()) == [frame, {}]
    assert frames_of(hits[0]._repr_html_()) == [frame]
    # The thumbnail and its frame have one parent of the size of the thumbnail, and the frame is inside its box.
    html = hits._repr_html_()
    assert f'<div style="position:relative;display:inline-block"><img src="{notebook.thumbnail(str(picture))}"' in html
    assert "box-sizing:border-box" in html


def test_a_hit_without_a_thumbnail_has_no_frame() -> None:
    html = Hits([Hit(image("https://example.org/a.png"), 0.9, 0.1, Region(0, 0, 0.5, 1))])._repr_html_()
    assert "position" not in html
    assert "<td" in html
