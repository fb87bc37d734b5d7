import importlib.util
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagesearch_analysis.choices import MapMethod
from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.map_files import Map, draw_map, palette_of, thumbnails_with_room, write_map_page
from imagesearch_analysis.pictures import read_picture
from imagesearch_analysis.projection import project
from imagesearch_analysis.vectors import sample_positions
from imagesearch_client import AttributeValue, Region
from imagesearch_pixels.declared_colours import P3_PRIMARIES, profile_of
from tests.unit.analysis.snapshots import normal, pixels_of, red_pixels, snapshot_of
from tests.unit.embedder.crafted_samples import png, tiff, transparent


def test_similar_images_are_near_on_the_map() -> None:
    centres = 5 * normal(3, 64, seed=1)
    vectors = np.repeat(centres, 20, axis=0) + normal(60, 64)
    points = project(vectors, MapMethod.TSNE, 0)
    assert points.shape == (60, 2)
    assert points.min() >= -1e-9
    assert points.max() <= 1 + 1e-9
    assert np.ptp(points, axis=0).max() == pytest.approx(1)
    distances = np.linalg.norm(points[:, np.newaxis] - points, axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (distances.argmin(axis=1) // 20 == np.arange(60) // 20).all()
    assert (project(vectors, MapMethod.TSNE, 0) == points).all()


@pytest.mark.parametrize(("count", "dimension"), [(3, 512), (4, 1), (7, 2)])
def test_few_images_and_low_dimensions_have_a_map(count: int, dimension: int) -> None:
    points = project(normal(count, dimension), MapMethod.TSNE, 0)
    assert np.isfinite(points).all()
    assert len(np.unique(points.round(6), axis=0)) == count


@pytest.mark.parametrize("length", [4e-16, 6e18])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_very_short_and_very_long_vectors_have_a_map(length: float) -> None:
    vectors = normal(40, 8)
    vectors /= np.linalg.norm(vectors, axis=1).max()
    points = project(vectors * np.float32(length), MapMethod.TSNE, 0)
    assert np.isfinite(points).all()
    assert np.ptp(points, axis=0).max() == pytest.approx(1)


def test_equal_images_have_the_same_point() -> None:
    assert (project(np.ones((5, 8), np.float32), MapMethod.TSNE, 0) == 0.5).all()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_images_raise_an_error(count: int) -> None:
    with pytest.raises(AnalysisError, match=f"needs at least 3 images; there are {count}"):
        project(normal(count, 8), MapMethod.TSNE, 0)


def test_umap_names_the_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(AnalysisError, match="pip install umap-learn"):
        project(normal(5, 8), MapMethod.UMAP, 0)


def test_methods_have_names_for_people() -> None:
    assert [method.label for method in MapMethod] == ["t-SNE", "UMAP"]


# UMAP compiles for most of a minute in its first run.
@pytest.mark.soak
@pytest.mark.parametrize("count", [3, 17, 60])
def test_umap_returns_scaled_points(count: int) -> None:
    points = project(
        np.repeat(5 * normal(3, 64, seed=1), count // 3 + 1, axis=0)[:count] + normal(count, 64), MapMethod.UMAP, 0
    )
    assert points.shape == (count, 2)
    assert np.ptp(points, axis=0).max() == pytest.approx(1)


def test_a_sample_with_the_same_seed_is_the_same() -> None:
    assert sample_positions(5, 10, 0).tolist() == [0, 1, 2, 3, 4]
    some = sample_positions(1000, 10, 3)
    assert len(set(some.tolist())) == 10
    assert (np.diff(some) > 0).all()
    assert (some == sample_positions(1000, 10, 3)).all()
    assert (some != sample_positions(1000, 10, 4)).any()


def test_thumbnails_do_not_overlap_and_fill_the_map() -> None:
    points = np.random.default_rng(0).uniform(size=(500, 2))
    kept = thumbnails_with_room(points, 0.1)
    distances = np.abs(points[kept][:, np.newaxis] - points[kept]).max(axis=2)
    np.fill_diagonal(distances, np.inf)
    assert distances.min() >= 0.065
    # Every point without a thumbnail is near one with a thumbnail.
    assert all(np.abs(points[kept] - point).max(axis=1).min() < 0.065 for point in points)
    assert kept[0] == 0


def test_frequent_values_have_their_own_colors() -> None:
    few = palette_of(["b", "a", None, "b"])
    assert few.labels == ["b", "a", "(none)"]
    assert few.of_images == [0, 1, 2, 0]
    assert len(set(few.colors)) == 3
    # A value may have the text of the label for missing values.
    many = palette_of(["(none)", "(none)", *(f"v{n:02d}" for n in range(30)), None])
    assert many.labels == ["(none)", *(f"v{n:02d}" for n in range(17)), "(others)", "(none)"]
    assert many.of_images == [0, 0, *range(1, 18), *[18] * 13, 19]
    assert palette_of([None, None]).labels == ["(none)"]


@pytest.fixture
def drawn(tmp_path: Path) -> Map:
    Image.new("RGB", (90, 60), (200, 10, 10)).save(tmp_path / "red.png")
    uris = [str(tmp_path / "red.png"), "", "/nowhere.jpg", (tmp_path / "red.png").as_uri()]
    kinds: list[dict[str, AttributeValue]] = [{"kind": "</script><b>$x$"}, {"kind": "_a"}, {}, {}]
    with snapshot_of(tmp_path / "s", normal(4, 4), attributes=kinds, uris=uris) as snapshot:
        images = [snapshot.image(position) for position in range(4)]
        palette = palette_of(list(snapshot.attribute_values("kind")))
    points = np.array([[0, 0], [1, 1], [0.5, 0.2], [0.2, 0.9]])
    return Map("a <map> of $1", images, points, palette, "kind")


def test_the_page_is_self_contained_and_escapes_all_texts(tmp_path: Path, drawn: Map) -> None:
    progress: list[int] = []
    write_map_page(tmp_path / "map.html", drawn, progress.append)
    page = (tmp_path / "map.html").read_text()
    assert progress == [1, 2, 3, 4]
    assert "http" not in page
    assert "<b>$x$" not in page
    assert page.count("</script>") == 2
    assert "<title>a &lt;map&gt; of $1</title>" in page
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    assert data["ids"] == [f"i{n:05d}" for n in range(4)]
    assert data["labels"] == ["</script><b>$x$", "_a", "(none)"]
    assert [bool(picture) for picture in data["pictures"]] == [True, False, False, True]
    # On the screen, y points down.
    assert (data["x"], data["y"]) == ([0, 1, 0.5, 0.2], [1, 0, 0.8, 0.1])


@pytest.mark.parametrize("palette", [True, False])
def test_the_picture_has_thumbnails_and_grey_boxes(tmp_path: Path, drawn: Map, *, palette: bool) -> None:
    if not palette:
        drawn = Map(drawn.title, drawn.images, drawn.points, None, "")
    draw_map(tmp_path / "map.png", drawn)
    assert red_pixels(tmp_path / "map.png") > 2 * 40 * 60
    assert pixels_of(tmp_path / "map.png", 160) > 2 * 25 * 25


def test_pictures_are_upright_scaled_and_cropped_to_the_region(tmp_path: Path) -> None:
    whole = Image.new("RGB", (400, 200), (0, 0, 255))
    whole.paste((255, 0, 0), (0, 0, 200, 200))
    exif = Image.Exif()
    exif[0x0112] = 6
    whole.save(tmp_path / "a.png", exif=exif)
    upright = read_picture(str(tmp_path / "a.png"), 100)
    assert upright is not None
    assert upright.size == (50, 100)
    assert upright.getpixel((25, 20)) == (255, 0, 0)
    below = read_picture((tmp_path / "a.png").as_uri(), 100, Region(0, 0.5, 1, 1))
    assert below is not None
    assert below.size == (100, 100)
    assert below.getcolors() == [(10_000, (0, 0, 255))]
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:100])
    for unreadable in ("", str(tmp_path), "/nowhere.png", str(tmp_path / "b.png"), "nix://a/b.png", "a\0b"):
        assert read_picture(unreadable, 100) is None


P3 = profile_of(P3_PRIMARIES, None)


def in_bytes(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        pytest.param(png(np.full((8, 8), 5), 4, 0, transparent(5)), (255, 255, 255), id="transparent"),
        pytest.param(in_bytes(Image.new("LA", (8, 8), (9, 0)), "PNG"), (255, 255, 255), id="alpha"),
        pytest.param(tiff(np.full((8, 8), 0x3FFF), 16, 1), (63, 63, 63), id="16 bits"),
        pytest.param(tiff(np.full((8, 8), 0xC000), 16, 0), (63, 63, 63), id="white is zero"),
        pytest.param(in_bytes(Image.new("F", (8, 8), 0.25), "TIFF"), (63, 63, 63), id="floats"),
        pytest.param(in_bytes(Image.new("RGB", (8, 8), (255, 0, 0)), "PNG"), (255, 0, 0), id="sRGB"),
        pytest.param(in_bytes(Image.new("RGB", (8, 8), (234, 51, 35)), "PNG", icc_profile=P3), (255, 0, 0), id="P3"),
    ],
)
def test_pictures_have_the_samples_that_the_embedder_sees(
    content: bytes, shown: tuple[int, int, int], tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(content)
    found = read_picture(str(tmp_path / "a"), 4)
    assert found is not None
    assert np.abs(np.asarray(found, int) - shown).max() <= 1


def test_a_picture_that_the_embedder_rejects_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(np.full((8, 8), 9), 14, 1))
    assert read_picture(str(tmp_path / "a.tif"), 4) is None


def test_pictures_in_archives_are_read(tmp_path: Path) -> None:
    Image.new("RGB", (4, 2), (255, 0, 0)).save(tmp_path / "a.png")
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as tar:
        tar.add(tmp_path / "a.png", "x::a.png")
    found = read_picture(f"tar://x::a.png::{tmp_path}/a.tgz", 100)
    assert found is not None
    assert found.size == (4, 2)
