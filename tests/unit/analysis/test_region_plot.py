"""Drawings of regions: where the frames, labels and tiles are, and what they show."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image as Picture

from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.region_layout import TITLE_INCHES, Place, arrange, place_labels
from imagesearch_analysis.region_plot import COLORS, DPI, draw_regions, plot_regions
from imagesearch_client import Embedding, ImageRegions, Region, RegionEmbedding

VECTOR = Embedding([1.0], "f")
WIDTH, HEIGHT = 200, 100
QUADRANTS = {
    Region(0, 0, 0.5, 0.5): (200, 0, 0),
    Region(0.5, 0, 1, 0.5): (0, 150, 0),
    Region(0, 0.5, 0.5, 1): (0, 0, 200),
    Region(0.5, 0.5, 1, 1): (90, 90, 90),
}


@pytest.fixture
def picture() -> Picture.Image:
    """A picture whose quadrants have different colours."""
    picture = Picture.new("RGB", (WIDTH, HEIGHT))
    for box, color in QUADRANTS.items():
        left, top = int(box.x0 * WIDTH), int(box.y0 * HEIGHT)
        picture.paste(color, (left, top, left + WIDTH // 2, top + HEIGHT // 2))
    return picture


def regions_of(
    proposals: Sequence[Region], boxes: Sequence[Region] = (), salient: Region | None = None
) -> ImageRegions:
    return ImageRegions(
        VECTOR,
        tuple(RegionEmbedding(box, VECTOR, 1 - number / 100) for number, box in enumerate(proposals)),
        tuple(RegionEmbedding(box, VECTOR) for box in boxes),
        salient or Region(0.25, 0.25, 0.75, 0.75),
    )


def frames_of(axes: Axes) -> list[tuple[str, str, Region]]:
    """Return the colour, the line and the box of each coloured frame, the one on top first."""
    frames = []
    for patch in reversed(axes.patches):
        assert isinstance(patch, Rectangle)
        color = to_hex(patch.get_edgecolor())
        if color == "#000000":
            continue
        left, top = (patch.get_x() + 0.5) / WIDTH, (patch.get_y() + 0.5) / HEIGHT
        box = Region(left, top, left + patch.get_width() / WIDTH, top + patch.get_height() / HEIGHT)
        frames.append((color, str(patch.get_linestyle()), box))
    return frames


def contents_of(tile: Axes) -> set[Any]:
    """Return the colours of the picture of a tile."""
    return {tuple(color) for color in np.asarray(tile.images[0].get_array())[..., :3].reshape(-1, 3).tolist()}


def titles_of(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes[1:]]


def test_each_region_has_a_tile_with_its_content_and_the_colour_of_its_frame(picture: Picture.Image) -> None:
    first, second, third, fourth = QUADRANTS
    figure = draw_regions(picture, regions_of([first, second], boxes=[third], salient=fourth))
    axes, *tiles = figure.axes
    assert titles_of(figure) == ["S: salient box", "A: given", "1: 1.00", "2: 0.99"]
    for tile, box in zip(tiles, (fourth, third, first, second), strict=True):
        assert contents_of(tile) == {QUADRANTS[box]}
    frames = frames_of(axes)
    assert [(line, box) for _, line, box in frames] == [
        ("dashed", fourth),
        ("dotted", third),
        ("solid", first),
        ("solid", second),
    ]
    colors = [to_hex(tile.spines["left"].get_edgecolor()) for tile in tiles]
    assert colors == [color for color, _, _ in frames]
    assert len(set(colors)) == len(colors)
    assert [text.get_text() for text in axes.texts] == ["S", "A", "1", "2"]


def test_only_the_most_salient_regions_have_frames(picture: Picture.Image) -> None:
    proposals = [Region(0, 0, (number + 1) / 64, 1) for number in range(64)]
    figure = draw_regions(picture, regions_of(proposals, boxes=[Region(0, 0, 1, 1)]))
    # The salient box, the box of the caller, and then proposals.
    assert [text.get_text() for text in figure.axes[0].texts] == ["S", "A", *map(str, range(1, len(COLORS)))]
    assert len(frames_of(figure.axes[0])) == 1 + len(COLORS)
    assert len(titles_of(figure)) == 66
    borders = [to_hex(tile.spines["left"].get_edgecolor()) for tile in figure.axes[1:]]
    assert len(set(borders[: 1 + len(COLORS)])) == 1 + len(COLORS)
    assert set(borders[1 + len(COLORS) :]) == {"#d3d3d3"}


def test_boxes_of_the_caller_have_letters_without_the_s_of_the_salient_box(picture: Picture.Image) -> None:
    figure = draw_regions(picture, regions_of([], boxes=[Region(0, 0, 1, 1)] * 27))
    letters = [title.partition(":")[0] for title in titles_of(figure)]
    assert letters == ["S", *"ABCDEFGHIJKLMNOPQRTUVWXYZ", "A2", "B2"]


def test_frames_are_at_their_boxes_in_the_file(tmp_path: Path) -> None:
    Picture.new("RGB", (WIDTH, HEIGHT), (60, 60, 60)).save(tmp_path / "grey.png")
    box = Region(0.2, 0.3, 0.6, 0.8)
    plot_regions(tmp_path / "grey.png", regions_of([box], salient=Region(0.7, 0.1, 0.9, 0.9)), tmp_path / "out.png")
    with Picture.open(tmp_path / "out.png") as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    layout = arrange(WIDTH / HEIGHT, 2)

    def at(x: float, y: float) -> list[int]:
        place = layout.picture
        row = (layout.height - place.bottom - place.height * (1 - y)) * DPI
        return [int(value) for value in pixels[int(row), int((place.left + place.width * x) * DPI)]]

    gold = [255, 215, 0]
    for x, y in ((box.x0, 0.55), (box.x1, 0.55), (0.45, box.y0), (0.45, box.y1)):
        assert at(x, y) == pytest.approx(gold, abs=40)
    for x, y in ((0.4, 0.6), (0.1, 0.5), (0.4, 0.1), (0.65, 0.95)):
        assert at(x, y) == pytest.approx([60, 60, 60], abs=3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "pdf", "svg"])
def test_an_unreadable_picture_or_an_unknown_suffix_leaves_no_file(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(AnalysisError, match=r"text\.png cannot be read"):
        plot_regions(tmp_path / "text.png", regions_of([]), tmp_path / f"out.{suffix}")
    Picture.new("RGB", (10, 10)).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match="nix"):
        plot_regions(tmp_path / "black.png", regions_of([]), tmp_path / "out.nix")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["black.png", "text.png"]
    plot_regions(tmp_path / "black.png", regions_of([]), tmp_path / f"out.{suffix}")
    assert (tmp_path / f"out.{suffix}").stat().st_size > 0


@pytest.mark.parametrize("tiles", [1, 2, 9, 13, 33, 65, 129])
@pytest.mark.parametrize("aspect", [0.05, 0.25, 0.7, 1, 1.5, 4, 20])
def test_pictures_of_every_shape_and_number_of_regions_fit_on_a_page(aspect: float, tiles: int) -> None:
    layout = arrange(aspect, tiles)
    with_titles = [Place(place.left, place.bottom, place.width, place.height + TITLE_INCHES) for place in layout.tiles]
    places = [layout.picture, *with_titles]
    assert len(places) == tiles + 1
    for place in places:
        assert place.left >= 0
        assert place.bottom >= 0
        assert place.left + place.width <= layout.width + 1e-9
        assert place.bottom + place.height <= layout.height + 1e-9
    assert all(one.overlap(other) == 0 for one, other in combinations(places, 2))
    assert layout.picture.width / layout.picture.height == pytest.approx(aspect)
    assert max(layout.picture.width, layout.picture.height) > 4.5
    if tiles > 9:
        # Little of the page is empty, and it is neither a strip nor a column.
        used = sum(place.width * place.height for place in places)
        assert used / (layout.width * layout.height) > 0.5
        assert 0.3 < layout.width / layout.height < 4


def test_labels_are_inside_their_boxes_and_apart() -> None:
    corner = [(str(number), Region(0, 0, 0.4 + number / 20, 0.4 + number / 20)) for number in range(9)]
    places = place_labels(corner, 6, 4)
    for (_, box), place in zip(corner, places, strict=True):
        assert place.left >= 0
        assert place.left + place.width <= box.x1 * 6 + 1e-9
        assert place.bottom >= (1 - box.y1) * 4 - 1e-9
        assert place.bottom + place.height <= 4 + 1e-9
    assert all(one.overlap(other) == 0 for one, other in combinations(places, 2))
    # The first label is in the top left corner.
    assert (places[0].left, places[0].bottom + places[0].height) == (0, 4)
    # A label that is larger than its box stays on the picture.
    (small,) = place_labels([("12", Region(0.99, 0.99, 1, 1))], 6, 4)
    assert small.left + small.width <= 6
    assert small.bottom >= 0
