"""Arranges a picture and the tiles of its regions on a page, and the labels of the frames on the picture."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from imagesearch_client.types import Region

TILE_INCHES, TITLE_INCHES, GAP_INCHES = 1.3, 0.2, 0.12
CELL_WIDTH, CELL_HEIGHT = TILE_INCHES + GAP_INCHES, TILE_INCHES + TITLE_INCHES + GAP_INCHES
# A picture has about this area at least, and this share of the area of the tiles.
LEAST_AREA, AREA_SHARE = 22.0, 0.4
MAX_SIDE_INCHES = 12.0
# Width to height of the page.
PAGE = 1.5
LABEL_HEIGHT, LETTER_WIDTH, LABEL_PADDING = 0.17, 0.075, 0.09


@dataclass(frozen=True, slots=True)
class Place:
    """A rectangle on the page in inches, from the bottom left corner."""

    left: float
    bottom: float
    width: float
    height: float

    def overlap(self, other: "Place") -> float:
        """Return the common area with another rectangle."""
        across = min(self.left + self.width, other.left + other.width) - max(self.left, other.left)
        down = min(self.bottom + self.height, other.bottom + other.height) - max(self.bottom, other.bottom)
        return max(0.0, across) * max(0.0, down)


@dataclass(frozen=True, slots=True)
class Layout:
    """The size of a page in inches, and the places on it."""

    width: float
    height: float
    picture: Place
    tiles: Sequence[Place]
    """The places of the tiles, without their titles, which are TITLE_INCHES high and above them."""


def arrange(aspect: float, tiles: int) -> Layout:
    """Return the layout that fits on the smallest page with the aspect ratio PAGE.

    The page is a grid of cells. The picture takes the cells at the top left, and the tiles fill the rest row by row.
    `aspect` is the width of the picture divided by its height.
    """
    area = max(LEAST_AREA, AREA_SHARE * tiles * CELL_WIDTH * CELL_HEIGHT)
    longest = min(math.sqrt(area * max(aspect, 1 / aspect)), MAX_SIDE_INCHES)
    width, height = (longest, longest / aspect) if aspect >= 1 else (longest * aspect, longest)
    across, down = math.ceil(width / CELL_WIDTH), math.ceil(height / CELL_HEIGHT)
    layouts = (_layout(aspect, (across, down), tiles, columns) for columns in range(across, across + tiles + 1))
    return min(layouts, key=lambda layout: max(layout.width / PAGE, layout.height))


def _layout(aspect: float, block: tuple[int, int], tiles: int, columns: int) -> Layout:
    """Return the layout on this number of columns, with the picture in a block of cells across and down."""
    cells = ((row, column) for row in itertools.count() for column in range(columns))
    free = ((row, column) for row, column in cells if row >= block[1] or column >= block[0])
    taken = list(itertools.islice(free, tiles))
    rows = max(block[1], *(row + 1 for row, _ in taken))
    width, height = columns * CELL_WIDTH + GAP_INCHES, rows * CELL_HEIGHT + GAP_INCHES
    places = [
        Place(column * CELL_WIDTH + GAP_INCHES, height - (row + 1) * CELL_HEIGHT, TILE_INCHES, TILE_INCHES)
        for row, column in taken
    ]
    most = (block[0] * CELL_WIDTH - GAP_INCHES, block[1] * CELL_HEIGHT - GAP_INCHES)
    size = (min(most[0], most[1] * aspect), min(most[1], most[0] / aspect))
    if columns == block[0]:
        # No tile is beside the picture, so the tiles begin right below it.
        height -= most[1] - size[1]
    return Layout(width, height, Place(GAP_INCHES, height - GAP_INCHES - size[1], *size), places)


def label_of_box(number: int) -> str:
    """Return the label of a box of the caller: A, B and so on without S, then A2, B2 and so on."""
    letters = "ABCDEFGHIJKLMNOPQRTUVWXYZ"
    again, letter = divmod(number, len(letters))
    return letters[letter] + (str(again + 1) if again else "")


def place_labels(labels: Iterable[tuple[str, Region]], width: float, height: float) -> list[Place]:
    """Return a place for each label inside its box, on a picture of this size in inches, from its bottom left corner.

    A label is in a corner or at an edge of its box. It covers as little of the earlier labels as possible.
    """
    places: list[Place] = []
    for text, box in labels:
        size = (LABEL_PADDING + LETTER_WIDTH * len(text), LABEL_HEIGHT)
        free = _places_in(box, size, (width, height))
        places.append(min(free, key=lambda place: sum(map(place.overlap, places))))
    return places


def _places_in(box: Region, size: tuple[float, float], picture: tuple[float, float]) -> Iterator[Place]:
    """Yield the places of a label: the top left corner first."""
    left, right = box.x0 * picture[0], box.x1 * picture[0] - size[0]
    top, bottom = (1 - box.y0) * picture[1] - size[1], (1 - box.y1) * picture[1]
    for share in (0.0, 1.0, 0.5, 0.25, 0.75):
        for down in (0.0, 1.0, 0.5):
            x = min(max(left + share * (right - left), 0.0), max(picture[0] - size[0], 0.0))
            y = min(max(top + down * (bottom - top), 0.0), max(picture[1] - size[1], 0.0))
            yield Place(x, y, *size)
