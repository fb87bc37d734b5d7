"""Maps of a collection: a picture, and a page to move about in."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagesearch_analysis.pages import write_page
from imagesearch_analysis.pictures import Picture, at_once, data_uri, read_picture
from imagesearch_analysis.snapshot import Described
from imagesearch_ingest.atomic_file import atomic_write

INCHES, DPI = 16.0, 120
THUMBNAIL = 64
# How much of a thumbnail another one may cover, each way.
OVERLAP = 0.35
# Of matplotlib's tab20, for values that have one of their own; the rest share a grey, so that its greys are left out.
COLORS = tuple(number for number in range(20) if number not in (14, 15))
MAX_LABEL = 40
NOTHING, OTHERS = "(none)", "(others)"
GREY = "#8a8a8a"


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of an attribute's values."""

    labels: Sequence[str]
    """The most frequent ones first, then those of what is left and of images without the attribute."""
    colors: Sequence[str]
    """#rrggbb of each label."""
    of_images: Sequence[int]
    """The number of its label, of each image."""


@dataclass(frozen=True, slots=True)
class Map:
    """Images with their places."""

    title: str
    images: Sequence[Described]
    points: NDArray[np.float64]
    """float64[images, 2], within 0 and 1; the second one goes up."""
    palette: Palette | None
    color_by: str


def palette_of(values: Sequence[str | None]) -> Palette:
    """Colours for the values of each image; the most frequent have their own."""
    from matplotlib import colormaps  # noqa: PLC0415 - it takes a while to import
    from matplotlib.colors import to_hex  # noqa: PLC0415 - as above

    counts = Counter(value for value in values if value is not None)
    # Of equal counts by their texts, so that the colours are the same the next time.
    frequent = sorted(counts, key=lambda value: (-counts[value], value))[: len(COLORS)]
    colors = [to_hex(colormaps["tab20"](number)) for number in COLORS[: len(frequent)]]
    labels = [*frequent]
    for label, wanted in ((OTHERS, len(counts) > len(frequent)), (NOTHING, None in values)):
        if wanted:
            labels.append(label)
            colors.append(GREY)
    numbers = {label: number for number, label in enumerate(labels[: len(frequent)])}
    others = labels.index(OTHERS, len(frequent)) if OTHERS in labels[len(frequent) :] else -1
    numbers_of = [len(labels) - 1 if value is None else numbers.get(value, others) for value in values]
    return Palette(labels, colors, numbers_of)


def draw_map(path: Path, drawn: Map, tell: Callable[[int], None] = lambda _: None) -> None:
    """Draws a map: thumbnails where there is room for them, points elsewhere. Raises OSError."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - it takes a while to import
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
    places = with_room(drawn.points, THUMBNAIL / (INCHES * DPI))
    for number, (place, picture) in enumerate(_pictures(drawn, places), start=1):
        box = OffsetImage(np.asarray(picture or _grey_box()), zoom=72 / DPI)
        frame = {"edgecolor": colors[place], "linewidth": 2 if drawn.palette else 0.5}
        axes.add_artist(AnnotationBbox(box, tuple(drawn.points[place]), pad=0.05, bboxprops=frame))
        tell(number)
    if drawn.palette is not None:
        handles = [Line2D([], [], linestyle="", marker="o", color=color) for color in drawn.palette.colors]
        names = [label[:MAX_LABEL] for label in drawn.palette.labels]
        legend = figure.legend(handles, names, title=drawn.color_by, loc="outside right upper")
        for text in legend.get_texts():
            text.set_parse_math(False)
    with atomic_write(path) as partial:
        figure.savefig(partial, format=path.suffix[1:].lower(), dpi=DPI)


def with_room(points: NDArray[np.float64], size: float) -> list[int]:
    """The points at which a square of `size` covers no other one's by more than OVERLAP each way, greedily in order.

    They are looked for in cells as wide as the least distance, so that each is compared with few.
    """
    apart = size * (1 - OVERLAP)
    cells: dict[tuple[int, int], list[int]] = {}
    kept = []
    for place, (x, y) in enumerate(points.tolist()):
        column, row = int(x // apart), int(y // apart)
        near = (
            other for across in (-1, 0, 1) for up in (-1, 0, 1) for other in cells.get((column + across, row + up), ())
        )
        if all(max(abs(points[other, 0] - x), abs(points[other, 1] - y)) >= apart for other in near):
            cells.setdefault((column, row), []).append(place)
            kept.append(place)
    return kept


def write_map_page(path: Path, drawn: Map, tell: Callable[[int], None] = lambda _: None) -> None:
    """Writes a page with all pictures of a map in it, to move about in. Raises OSError."""
    uris = []
    for number, (_, picture) in enumerate(_pictures(drawn, range(len(drawn.images))), start=1):
        uris.append(picture and data_uri(picture))
        tell(number)
    palette = drawn.palette
    data: dict[str, Any] = {
        "ids": [image.id for image in drawn.images],
        "x": drawn.points[:, 0].round(5).tolist(),
        "y": (1 - drawn.points[:, 1]).round(5).tolist(),
        "pictures": uris,
        "labels": palette.labels if palette else [],
        "colors": palette.colors if palette else [GREY],
        "label_of": palette.of_images if palette else [0] * len(drawn.images),
    }
    write_page(path, "map.html", title=drawn.title, color_by=drawn.color_by, data=data)


def _pictures(drawn: Map, places: Sequence[int]) -> Iterator[tuple[int, Picture | None]]:
    images = (drawn.images[place] for place in places)
    pictures = at_once(lambda image: read_picture(image.uri, THUMBNAIL, image.region), images)
    return zip(places, pictures, strict=True)


def _colors(drawn: Map) -> list[str]:
    if drawn.palette is None:
        return [GREY] * len(drawn.images)
    return [drawn.palette.colors[number] for number in drawn.palette.of_images]


def _grey_box() -> NDArray[np.uint8]:
    return np.full((THUMBNAIL // 2, THUMBNAIL // 2, 3), 160, np.uint8)
