from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Picture

from imagesearch_analysis.query_plot import QueryHits, plot_queries, similarity_text
from imagesearch_client import Hit, Image, Metric, Region
from tests.unit.analysis.snapshots import pixels_of, red_pixels

LIGHT_GREY = 211
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def hit(score: float, distance: float, uri: str = "", region: Region | None = None) -> Hit:
    return Hit(Image("a", uri, {}, "", NOW, NOW), score, distance, region)


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (Metric.COSINE, "cosine similarity 0.250"),
        (Metric.IP, "inner product 0.25"),
        (Metric.L2, "Euclidean distance 3"),
    ],
)
def test_the_number_of_a_hit_has_the_name_of_its_metric(metric: Metric, text: str) -> None:
    assert similarity_text(hit(0.25, 3.0), metric) == text


def test_rows_show_queries_hits_and_grey_boxes(tmp_path: Path) -> None:
    Picture.new("RGB", (60, 60), (200, 10, 10)).save(tmp_path / "red.png")
    red = (tmp_path / "red.png").as_uri()
    rows = [QueryHits("q $1", red, [hit(1, 0, red), hit(0.5, 0.5)]), QueryHits("_none", "", [])]
    plot_queries(rows, tmp_path / "out.png", Metric.COSINE)
    assert red_pixels(tmp_path / "out.png") > 2 * 60 * 60
    assert pixels_of(tmp_path / "out.png", LIGHT_GREY) > 2 * 60 * 60


BOX = Region(0.25, 0.5, 0.75, 0.9)


def extent(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the first and last column, and the first and last row, of the pixels of a mask."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), columns.max(), rows.min(), rows.max()])


@pytest.fixture
def blue(tmp_path: Path) -> str:
    Picture.new("RGB", (90, 60), (20, 40, 200)).save(tmp_path / "blue.png")
    return str(tmp_path / "blue.png")


@pytest.mark.parametrize("framed", ["hit", "query"])
def test_a_frame_is_at_its_box(tmp_path: Path, blue: str, framed: str) -> None:
    row = (
        QueryHits("q", "", [hit(1, 0, blue, BOX)], draws_boxes=True)
        if framed == "hit"
        else QueryHits("q", blue, [hit(1, 0)], box=BOX)
    )
    plot_queries([row], tmp_path / "out.png", Metric.COSINE)
    with Picture.open(tmp_path / "out.png") as drawn:
        red, green, blues = np.moveaxis(np.asarray(drawn.convert("RGB")).astype(int), -1, 0)
    gold = (red > 230) & (green > 190) & (blues < 60)
    tile, frame = extent((blues > 150) & (red < 60)), extent(gold)
    left, top = tile[0], tile[2]
    size = np.array([tile[1] - left, tile[3] - top])
    found = [*(frame[:2] - left) / size[0], *(frame[2:] - top) / size[1]]
    assert found == pytest.approx([BOX.x0, BOX.x1, BOX.y0, BOX.y1], abs=0.03)
    # The frame is a line, and the picture is visible inside it.
    assert gold.sum() < 0.1 * size[0] * size[1]
    centre = (left + int(0.5 * size[0]), top + int(0.7 * size[1]))
    assert blues[centre[1], centre[0]] > 150


@pytest.mark.parametrize("draws_boxes", [False, True])
def test_frames_are_drawn_only_if_regions_were_compared(tmp_path: Path, blue: str, *, draws_boxes: bool) -> None:
    hits = [hit(1, 0, blue, BOX), hit(0.9, 0.1, blue, BOX), hit(0.8, 0.2, blue), hit(0.7, 0.3, "", BOX)]
    plot_queries([QueryHits("q", blue, hits, draws_boxes=draws_boxes)], tmp_path / "out.svg", Metric.COSINE)
    # A hit without a region, one without a picture, and the query have none.
    assert (tmp_path / "out.svg").read_text().count("stroke: #ffd700") == (2 if draws_boxes else 0)


def test_a_failed_plot_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    target.write_text("old")
    rows = [QueryHits("q.jpg", "q.jpg", [hit(1, 0)])]
    with pytest.raises(ValueError, match="nix"):
        plot_queries(rows, tmp_path / "out.nix", Metric.COSINE)
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    plot_queries(rows, target, Metric.COSINE)
    assert target.read_bytes().startswith(b"\x89PNG")
