"""Draws queries with what was found for them."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from imagesearch_client.types import Hit

TILE_INCHES = 1.9
TILE_PIXELS = 320
MAX_LABEL = 26


def plot_hits(rows: Sequence[tuple[Path, Sequence[Hit]]], path: Path) -> None:
    """Writes a picture with a row for each query: the query at the left, then its hits with score and id.

    A hit whose uri is no readable image file is drawn as its id alone. The file's ending says the format.
    """
    columns = 1 + max((len(hits) for _, hits in rows), default=0)
    figure = Figure(figsize=(columns * TILE_INCHES, len(rows) * (TILE_INCHES + 0.45)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (query, hits) in zip(grid, rows, strict=True):
        for tile in axes:
            tile.set_axis_off()
        draw_tile(axes[0], query, f"query\n{shorten(query.name)}", bold=True)
        for tile, hit in zip(axes[1:], hits, strict=False):
            draw_tile(tile, Path(hit.image.uri), f"{hit.score:.3f}\n{shorten(hit.image.id)}", bold=False)
    figure.savefig(path, dpi=110)


def draw_tile(axes: Axes, path: Path, title: str, *, bold: bool) -> None:
    """Draws one image with its title."""
    axes.set_title(title, fontsize=8, fontweight="bold" if bold else "normal", parse_math=False)
    try:
        with Image.open(path) as opened:
            opened.draft("RGB", (TILE_PIXELS, TILE_PIXELS))
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        axes.text(0.5, 0.5, "no picture\nat its uri", ha="center", va="center", fontsize=8, color="grey")
        return
    picture.thumbnail((TILE_PIXELS, TILE_PIXELS))
    axes.imshow(picture)


def shorten(text: str) -> str:
    """The end of a text that is too long for a tile, which tells files apart better than the beginning."""
    return text if len(text) <= MAX_LABEL else f"...{text[-MAX_LABEL + 3 :]}"
