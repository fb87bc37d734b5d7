from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image as Picture

from imagesearch_analysis.query_plot import QueryHits, plot_queries, similarity_text
from imagesearch_client import Hit, Image, Metric
from tests.unit.analysis.snapshots import pixels_of, red_pixels

LIGHT_GREY = 211
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def hit(score: float, distance: float, uri: str = "") -> Hit:
    return Hit(Image("a", uri, {}, "", NOW, NOW), score, distance)


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


def test_a_failed_plot_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    target.write_text("old")
    rows = [QueryHits("q.jpg", "q.jpg", [hit(1, 0)])]
    with pytest.raises(ValueError, match="nix"):
        plot_queries(rows, tmp_path / "out.nix", Metric.COSINE)
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    plot_queries(rows, target, Metric.COSINE)
    assert target.read_bytes().startswith(b"\x89PNG")
