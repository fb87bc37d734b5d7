"""Draws the regions of a picture: frames on the picture, and a tile for each region."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.pictures import Picture, read_picture
from imagesearch_analysis.tiles import draw_box
from imagesearch_client.types import ImageRegions, Region
from imagesearch_ingest.atomic_file import atomic_write

SIDE_PIXELS, SIDE_INCHES = 1024, 5.5
TILE_INCHES, COLUMNS = 1.35, 3
LABEL_SIZE = 8


@dataclass(frozen=True, slots=True)
class _Frame:
    """A box with its label, the title of its tile, and the style of its line."""

    label: str
    title: str
    box: Region
    line: str


def plot_regions(image: Path, regions: ImageRegions, path: Path) -> None:
    """Write a picture with frames round its regions, and a tile with the content of each frame.

    The proposals have numbers and solid frames, the boxes of the caller have letters and dotted frames, and the salient
    box has the letter S and a dashed frame.

    Args:
        image: the picture.
        regions: its regions.
        path: the file; its suffix is the format. It is written completely or not at all.

    Raises AnalysisError if the picture cannot be read, OSError, and ValueError for an unknown suffix.
    """
    picture = read_picture(str(image), SIDE_PIXELS)
    if picture is None:
        raise AnalysisError(f"{image} cannot be read as a picture")
    frames = list(_frames(regions))
    rows = math.ceil(len(frames) / COLUMNS)
    scale = SIDE_INCHES / max(picture.size)
    width, height = picture.width * scale, max(picture.height * scale, rows * TILE_INCHES)
    figure = Figure(figsize=(width + COLUMNS * TILE_INCHES, height), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[width, COLUMNS * TILE_INCHES])[0]
    _draw_frames(left.subplots(), picture, frames)
    tiles = right.subplots(rows, COLUMNS, squeeze=False)
    for axes in tiles.flat:
        axes.set_axis_off()
    for axes, frame in zip(tiles.flat, frames, strict=False):
        axes.imshow(_part(picture, frame.box))
        axes.set_title(frame.title, fontsize=LABEL_SIZE)
    with atomic_write(path) as partial:
        figure.savefig(partial, format=path.suffix[1:].lower(), dpi=110)


def _frames(regions: ImageRegions) -> Iterator[_Frame]:
    for number, region in enumerate(regions.proposals, start=1):
        yield _Frame(str(number), f"{number}: {region.saliency:.2f}", region.box, "solid")
    for number, region in enumerate(regions.boxes):
        label = _letters(number)
        yield _Frame(label, f"{label}: given", region.box, "dotted")
    yield _Frame("S", "S: salient box", regions.salient_box, "dashed")


def _letters(number: int) -> str:
    """Return A, B and so on without S, then A2, B2 and so on."""
    letters = "ABCDEFGHIJKLMNOPQRTUVWXYZ"
    again, letter = divmod(number, len(letters))
    return letters[letter] + (str(again + 1) if again else "")


def _draw_frames(axes: Axes, picture: Picture, frames: list[_Frame]) -> None:
    axes.set_axis_off()
    axes.imshow(picture)
    # The last frame is on top: draw the most salient ones last.
    for frame in reversed(frames):
        draw_box(axes, frame.box, picture.size, frame.line, width=1.4)
    for frame in reversed(frames):
        is_last = frame.line == "dashed"
        axes.text(
            (frame.box.x1 if is_last else frame.box.x0) * picture.width,
            (frame.box.y1 if is_last else frame.box.y0) * picture.height,
            frame.label,
            fontsize=LABEL_SIZE,
            fontweight="bold",
            ha="right" if is_last else "left",
            va="bottom" if is_last else "top",
            bbox={"facecolor": "gold", "edgecolor": "black", "pad": 1.5, "linewidth": 0.8},
        )


def _part(picture: Picture, box: Region) -> Picture:
    """Return the content of a box, at least one pixel."""
    left, top = int(box.x0 * picture.width), int(box.y0 * picture.height)
    right, bottom = math.ceil(box.x1 * picture.width), math.ceil(box.y1 * picture.height)
    return picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
