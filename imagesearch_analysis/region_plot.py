"""Draws the regions of a picture: frames on the picture, and a tile for each region."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.pictures import Picture, read_picture
from imagesearch_analysis.region_layout import LABEL_HEIGHT, Layout, Place, arrange, label_of_box, place_labels
from imagesearch_analysis.tiles import draw_box
from imagesearch_client.types import ImageRegions, Region
from imagesearch_ingest.atomic_file import atomic_write

SIDE_PIXELS, DPI = 1024, 110
LABEL_SIZE = 8
# More frames on one picture hide each other.
COLORS = ("gold", "deepskyblue", "orangered", "limegreen", "violet", "royalblue", "peru", "aquamarine")
SALIENT_COLOR, PLAIN_COLOR = "deeppink", "lightgrey"


@dataclass(frozen=True, slots=True)
class _Tile:
    """A region with its label, the title of its tile, and the line and the colour of its frame."""

    label: str
    title: str
    box: Region
    line: str
    color: str = ""
    """Empty for a region without a frame on the picture."""


def plot_regions(image: Path, regions: ImageRegions, path: Path) -> None:
    """Write the drawing of `draw_regions`.

    Args:
        image: the picture.
        regions: its regions.
        path: the file; its suffix is the format. It is written completely or not at all.

    Raises AnalysisError if the picture cannot be read, OSError, and ValueError for an unknown suffix.
    """
    picture = read_picture(str(image), SIDE_PIXELS)
    if picture is None:
        raise AnalysisError(f"{image} cannot be read as a picture")
    figure = draw_regions(picture, regions)
    with atomic_write(path) as partial:
        figure.savefig(partial, format=path.suffix[1:].lower(), dpi=DPI)


def draw_regions(picture: Picture, regions: ImageRegions) -> Figure:
    """Return a picture with frames round its regions, and a tile with the content of each region.

    The proposals have numbers and solid frames, the boxes of the caller have letters and dotted frames, and the salient
    box has the letter S and a dashed frame. Only the boxes of the caller and the most salient proposals have frames on
    the picture, as many as there are colours, and the salient box. Each tile has the colour of its frame.
    """
    tiles = _tiles(regions)
    layout = arrange(picture.width / picture.height, len(tiles))
    figure = Figure(figsize=(layout.width, layout.height))
    _draw_picture(_axes_at(figure, layout, layout.picture), picture, layout.picture, tiles)
    for tile, place in zip(tiles, layout.tiles, strict=True):
        axes = _axes_at(figure, layout, place)
        axes.imshow(_part(picture, tile.box))
        # The titles of a row are at one height.
        axes.set_anchor("N")
        axes.set_title(tile.title, fontsize=LABEL_SIZE, pad=4)
        for spine in axes.spines.values():
            spine.set(color=tile.color or PLAIN_COLOR, linewidth=3 if tile.color else 1)
    return figure


def _tiles(regions: ImageRegions) -> Sequence[_Tile]:
    """Return the salient box, the boxes of the caller and the proposals, each with the colour of its frame."""
    boxes = [(label_of_box(number), "given", region.box, "dotted") for number, region in enumerate(regions.boxes)]
    proposals = [
        (str(number), f"{region.saliency:.2f}", region.box, "solid")
        for number, region in enumerate(regions.proposals, start=1)
    ]
    tiles = [_Tile("S", "S: salient box", regions.salient_box, "dashed", SALIENT_COLOR)]
    for number, (label, text, box, line) in enumerate([*boxes, *proposals]):
        color = COLORS[number] if number < len(COLORS) else ""
        tiles.append(_Tile(label, f"{label}: {text}", box, line, color))
    return tiles


def _axes_at(figure: Figure, layout: Layout, place: Place) -> Axes:
    shares = (
        place.left / layout.width,
        place.bottom / layout.height,
        place.width / layout.width,
        place.height / layout.height,
    )
    axes = figure.add_axes(shares)
    axes.set_xticks([])
    axes.set_yticks([])
    return axes


def _draw_picture(axes: Axes, picture: Picture, place: Place, tiles: Sequence[_Tile]) -> None:
    axes.set_axis_off()
    axes.imshow(picture)
    framed = [tile for tile in tiles if tile.color]
    # The last frame is on top: draw the most salient ones last.
    for tile in reversed(framed):
        draw_box(axes, tile.box, picture.size, tile.line, width=1.6, color=tile.color)
    labels = place_labels([(tile.label, tile.box) for tile in framed], place.width, place.height)
    for tile, label in zip(framed, labels, strict=True):
        axes.text(
            (label.left + label.width / 2) / place.width,
            (label.bottom + LABEL_HEIGHT / 2) / place.height,
            tile.label,
            transform=axes.transAxes,
            fontsize=LABEL_SIZE,
            fontweight="bold",
            ha="center",
            va="center_baseline",
            bbox={"facecolor": tile.color, "edgecolor": "black", "pad": 1.5, "linewidth": 0.8},
        )


def _part(picture: Picture, box: Region) -> Picture:
    """Return the content of a box, at least one pixel."""
    left, top = int(box.x0 * picture.width), int(box.y0 * picture.height)
    right, bottom = math.ceil(box.x1 * picture.width), math.ceil(box.y1 * picture.height)
    return picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
