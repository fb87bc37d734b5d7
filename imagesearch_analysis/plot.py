"""Draws queries with what was found for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imagesearch_analysis.pictures import read_picture
from imagesearch_client.types import Hit, Metric, Region
from imagesearch_ingest.atomic_file import atomic_write

TILE_INCHES = 1.9
TILE_PIXELS = 320
MAX_LABEL = 26


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture with a name."""

    name: str
    uri: str
    """A path or URL; where it cannot be read there is a grey box."""
    region: Region | None = None
    """The part of it that counts; None is the whole."""


def plot_hits(rows: Sequence[tuple[Path, Sequence[Hit]]], path: Path, metric: Metric) -> None:
    """Writes a picture with a row for each query file, its hits beside it; as `plot_rows`."""
    plot_rows([(Tile(query.name, str(query)), hits) for query, hits in rows], path, metric)


def plot_rows(rows: Sequence[tuple[Tile, Sequence[Hit]]], path: Path, metric: Metric) -> None:
    """Writes a picture with a row for each query: the query at the left, then its hits with score and id.

    Args:
        rows: each query with its hits.
        path: the file, which is there whole or not at all; its ending says the format.
        metric: that of the collection, which says what the number of a hit is: the cosine similarity, the inner
            product, or the Euclidean distance.

    Raises OSError.
    """
    columns = 1 + max((len(hits) for _, hits in rows), default=0)
    figure = Figure(figsize=(columns * TILE_INCHES, len(rows) * (TILE_INCHES + 0.45)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (query, hits) in zip(grid, rows, strict=True):
        for tile in axes:
            tile.set_axis_off()
        draw_tile(axes[0], query, f"query\n{shorten(query.name)}", bold=True)
        for tile, hit in zip(axes[1:], hits, strict=False):
            picture = Tile(hit.image.id, hit.image.uri, hit.image.region)
            draw_tile(tile, picture, f"{measured(hit, metric)}\n{shorten(hit.image.id)}", bold=False)
    with atomic_write(path) as partial:
        figure.savefig(partial, format=path.suffix[1:].lower(), dpi=110)


def measured(hit: Hit, metric: Metric) -> str:
    """How near a hit is, in words and as its metric has it."""
    match metric:
        case Metric.COSINE:
            return f"cosine similarity {hit.score:.3f}"
        case Metric.IP:
            return f"inner product {hit.score:.4g}"
        case Metric.L2:
            return f"Euclidean distance {hit.distance:.4g}"


def draw_tile(axes: Axes, tile: Tile, title: str, *, bold: bool) -> None:
    """Draws one image with its title, or a grey box."""
    axes.set_title(title, fontsize=8, fontweight="bold" if bold else "normal", parse_math=False)
    picture = read_picture(tile.uri, TILE_PIXELS, tile.region)
    if picture is None:
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        axes.fill([0, 1, 1, 0], [0, 0, 1, 1], color="lightgrey")
        axes.text(0.5, 0.5, "no picture\nat its uri", ha="center", va="center", fontsize=8, color="dimgrey")
        return
    axes.imshow(picture)


def shorten(text: str) -> str:
    """The end of a text that is too long for a tile, which tells files apart better than the beginning."""
    return text if len(text) <= MAX_LABEL else f"...{text[-MAX_LABEL + 3 :]}"
