"""Draws pictures with titles as tiles of a matplotlib figure."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from imagesearch_analysis.pictures import read_picture
from imagesearch_client.types import Region

TILE_INCHES, TITLE_INCHES = 1.9, 0.45
TILE_PIXELS = 320
MAX_LABEL = 26


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture and its title."""

    uri: str
    """A path or URL; the tile is a grey box if the picture cannot be read."""
    title: str
    region: Region | None = None
    """The part of the picture to draw; None is the whole picture."""
    bold: bool = False
    box: Region | None = None
    """A box to draw a frame round; None draws none."""


def draw_tiles(rows: list[list[Tile]], columns: int) -> Figure:
    """Return a figure with a row of tiles for each list; `columns` is the length of the longest row."""
    count = max(1, len(rows))
    figure = Figure(figsize=(columns * TILE_INCHES, count * (TILE_INCHES + TITLE_INCHES)), layout="constrained")
    grid = figure.subplots(count, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, tiles in zip(grid, rows, strict=False):
        for axes, tile in zip(row, tiles, strict=False):
            _draw_tile(axes, tile)
    return figure


def _draw_tile(axes: Axes, tile: Tile) -> None:
    axes.set_title(tile.title, fontsize=8, fontweight="bold" if tile.bold else "normal", parse_math=False)
    picture = read_picture(tile.uri, TILE_PIXELS, tile.region)
    if picture is not None:
        axes.imshow(picture)
        # The titles of a row are at one height.
        axes.set_anchor("N")
        if tile.box is not None:
            draw_box(axes, tile.box, picture.size)
        return
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.fill([0, 1, 1, 0], [0, 0, 1, 1], color="lightgrey")
    axes.text(0.5, 0.5, "no picture\nat its uri", ha="center", va="center", fontsize=8, color="dimgrey")


def draw_box(
    axes: Axes, box: Region, size: tuple[int, int], line: str = "solid", width: float = 1.8, color: str = "gold"
) -> None:
    """Draw a frame round a box of a picture of this size, with a black edge so that every background shows it."""
    left, top = box.x0 * size[0] - 0.5, box.y0 * size[1] - 0.5
    across, down = (box.x1 - box.x0) * size[0], (box.y1 - box.y0) * size[1]
    # The black line is solid: below a dashed line it would be dashed at other places. Frames at the edge of the picture
    # are as wide as the others.
    for shade, thickness, style in (("black", width + 1.6, "solid"), (color, width, line)):
        axes.add_patch(
            Rectangle(
                (left, top), across, down, fill=False, color=shade, linewidth=thickness, linestyle=style, clip_on=False
            )
        )


def shorten(text: str, length: int = MAX_LABEL) -> str:
    """Return the last characters of a long text: the ends of paths differ more than their beginnings."""
    return text if len(text) <= length else f"...{text[-length + 3 :]}"
