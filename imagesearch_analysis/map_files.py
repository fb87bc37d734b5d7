"""Writes a map of a collection: a picture, or an interactive page."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagesearch_analysis.pages import render_page
from imagesearch_analysis.pictures import Picture, data_url, map_in_threads, read_picture
from imagesearch_analysis.snapshot import SnapshotImage
from imagesearch_ingest.atomic_file import atomic_write, write_text

INCHES, DPI = 16.0, 120
THUMBNAIL = 64
# Two thumbnails overlap by at most this part of their side, in each direction.
OVERLAP = 0.35
# Indexes of matplotlib's tab20 without its greys: grey is for all values without a color of their own.
COLORS = tuple(number for number in range(20) if number not in (14, 15))
MAX_LABEL = 40
NO_VALUE, OTHER_VALUES = "(none)", "(others)"
GREY = "#8a8a8a"


@dataclass(frozen=True, slots=True)
class Palette:
    """The colors of the values of an attribute."""

    labels: Sequence[str]
    """The most frequent values, then OTHER_VALUES and NO_VALUE if images need them."""
    colors: Sequence[str]
    """The color of each label, #rrggbb."""
    of_images: Sequence[int]
    """The index of the label of each image."""


@dataclass(frozen=True, slots=True)
class Map:
    """Images with their points on a map."""

    title: str
    images: Sequence[SnapshotImage]
    points: NDArray[np.float64]
    """float64[images, 2], all from 0 to 1; the second coordinate points up."""
    palette: Palette | None
    color_by: str
    """The attribute of the palette."""


def palette_of(values: Sequence[str | None]) -> Palette:
    """Return a palette for the attribute values of images; the 18 most frequent values have their own colors."""
    from matplotlib import colormaps  # noqa: PLC0415 - matplotlib takes a while to import
    from matplotlib.colors import to_hex  # noqa: PLC0415 - as above

    counts = Counter(value for value in values if value is not None)
    # Equal counts are ordered by text, so that the colors are always the same.
    frequent = sorted(counts, key=lambda value: (-counts[value], value))[: len(COLORS)]
    labels = [*frequent]
    colors = [to_hex(colormaps["tab20"](number)) for number in COLORS[: len(frequent)]]
    for label, is_needed in ((OTHER_VALUES, len(counts) > len(frequent)), (NO_VALUE, None in values)):
        if is_needed:
            labels.append(label)
            colors.append(GREY)
    numbers = {label: number for number, label in enumerate(frequent)}
    # A value of the attribute may have the text of one of the two last labels.
    others = len(frequent)
    return Palette(
        labels, colors, [len(labels) - 1 if value is None else numbers.get(value, others) for value in values]
    )


def draw_map(path: Path, drawn: Map, on_progress: Callable[[int], None] = lambda _: None) -> None:
    """Draw a map with thumbnails where there is room, and points elsewhere. Raises OSError.

    Args:
        path: the picture; its suffix is the format.
        drawn: the map.
        on_progress: receives the number of thumbnails that were drawn.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above
    from matplotlib.lines import Line2D  # noqa: PLC0415 - as above
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage  # noqa: PLC0415 - as above

    figure = Figure(figsize=(INCHES, INCHES), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_title(drawn.title, parse_math=False)
    colors = _colors(drawn)
    axes.scatter(drawn.points[:, 0], drawn.points[:, 1], c=colors, s=12, linewidths=0)
    chosen = thumbnails_with_room(drawn.points, THUMBNAIL / (INCHES * DPI))
    for number, (index, picture) in enumerate(_pictures(drawn, chosen), start=1):
        box = OffsetImage(np.asarray(picture or _grey_box()), zoom=72 / DPI)
        frame = {"edgecolor": colors[index], "linewidth": 2 if drawn.palette else 0.5}
        axes.add_artist(AnnotationBbox(box, tuple(drawn.points[index]), pad=0.05, bboxprops=frame))
        on_progress(number)
    if drawn.palette is not None:
        handles = [Line2D([], [], linestyle="", marker="o", color=color) for color in drawn.palette.colors]
        names = [label[:MAX_LABEL] for label in drawn.palette.labels]
        legend = figure.legend(handles, names, title=drawn.color_by, loc="outside right upper")
        for text in legend.get_texts():
            text.set_parse_math(False)
    with atomic_write(path) as partial:
        figure.savefig(partial, format=path.suffix[1:].lower(), dpi=DPI)


def thumbnails_with_room(points: NDArray[np.float64], side: float) -> list[int]:
    """Return the indexes of points whose thumbnails overlap by at most OVERLAP; earlier points have priority.

    Points are sorted into cells as wide as the smallest distance, so that each is compared with few others.
    """
    apart = side * (1 - OVERLAP)
    cells: dict[tuple[int, int], list[int]] = {}
    chosen = []
    for index, (x, y) in enumerate(points.tolist()):
        column, row = int(x // apart), int(y // apart)
        near = (
            other for right in (-1, 0, 1) for up in (-1, 0, 1) for other in cells.get((column + right, row + up), ())
        )
        if all(max(abs(points[other, 0] - x), abs(points[other, 1] - y)) >= apart for other in near):
            cells.setdefault((column, row), []).append(index)
            chosen.append(index)
    return chosen


def write_map_page(path: Path, drawn: Map, on_progress: Callable[[int], None] = lambda _: None) -> None:
    """Write an interactive page that contains the pictures of all images of a map. Raises OSError.

    Args:
        path: the page.
        drawn: the map.
        on_progress: receives the number of pictures that were read.
    """
    urls = []
    for number, (_, picture) in enumerate(_pictures(drawn, range(len(drawn.images))), start=1):
        urls.append(picture and data_url(picture))
        on_progress(number)
    palette = drawn.palette
    data: dict[str, Any] = {
        "ids": [image.id for image in drawn.images],
        "x": drawn.points[:, 0].round(5).tolist(),
        "y": (1 - drawn.points[:, 1]).round(5).tolist(),
        "pictures": urls,
        "labels": palette.labels if palette else [],
        "colors": palette.colors if palette else [GREY],
        "label_of": palette.of_images if palette else [0] * len(drawn.images),
    }
    write_text(path, render_page("map.html", title=drawn.title, color_by=drawn.color_by, data=data))


def _pictures(drawn: Map, indexes: Sequence[int]) -> Iterator[tuple[int, Picture | None]]:
    images = (drawn.images[index] for index in indexes)
    pictures = map_in_threads(lambda image: read_picture(image.uri, THUMBNAIL, image.region), images)
    return zip(indexes, pictures, strict=True)


def _colors(drawn: Map) -> list[str]:
    if drawn.palette is None:
        return [GREY] * len(drawn.images)
    return [drawn.palette.colors[number] for number in drawn.palette.of_images]


def _grey_box() -> NDArray[np.uint8]:
    return np.full((THUMBNAIL // 2, THUMBNAIL // 2, 3), 160, np.uint8)
