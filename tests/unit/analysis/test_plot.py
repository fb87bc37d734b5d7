from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image as Picture

from imagesearch_analysis.plot import Tile, measured, plot_hits, plot_rows
from imagesearch_client import Hit, Image, Metric
from tests.unit.analysis.filling import pixels_of, red_pixels

LIGHT_GREY = 211
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def hit(score: float, distance: float, uri: str = "") -> Hit:
    return Hit(Image("a", uri, {}, "", NOW, NOW), score, distance)


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (Metric.COSINE, "cosine similarity 0.250"),
        (Metric.IP, "inner product 0.25"),
        (Metric.L2, "Euclidean distance 3"),
    ],
)
def test_a_number_says_what_it_is(metric: Metric, said: str) -> None:
    assert measured(hit(0.25, 3.0), metric) == said


def test_rows_have_queries_hits_and_grey_boxes(tmp_path: Path) -> None:
    Picture.new("RGB", (60, 60), (200, 10, 10)).save(tmp_path / "red.png")
    red = (tmp_path / "red.png").as_uri()
    rows = [(Tile("q $1", red), [hit(1, 0, red), hit(0.5, 0.5)]), (Tile("_none", ""), [])]
    plot_rows(rows, tmp_path / "out.png", Metric.COSINE)
    assert red_pixels(tmp_path / "out.png") > 2 * 60 * 60
    assert pixels_of(tmp_path / "out.png", LIGHT_GREY) > 2 * 60 * 60


def test_a_picture_of_hits_replaces_the_old_one_only_when_it_is_done(tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    target.write_text("old")
    with pytest.raises(ValueError, match="nix"):
        plot_hits([(Path("q.jpg"), [hit(1, 0)])], tmp_path / "out.nix", Metric.COSINE)
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    plot_hits([(Path("q.jpg"), [hit(1, 0)])], target, Metric.COSINE)
    assert target.read_bytes().startswith(b"\x89PNG")
