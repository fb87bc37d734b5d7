"""Draws queries beside the hits that were found for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagesearch_analysis.tiles import Tile, draw_tiles, shorten
from imagesearch_client.types import Hit, Metric, Region
from imagesearch_ingest.atomic_file import atomic_write


@dataclass(frozen=True, slots=True)
class QueryHits:
    """A query image with its hits."""

    name: str
    uri: str
    """The path or URL of the query image."""
    hits: Sequence[Hit]
    region: Region | None = None
    """The part of the image that was embedded; None is the whole image."""
    box: Region | None = None
    """The box of the image that was searched; None draws no frame."""
    draws_boxes: bool = False
    """Whether a frame shows the part of each hit that matched."""


def plot_queries(queries: Sequence[QueryHits], path: Path, metric: Metric) -> None:
    """Write a picture with a row for each query: the query, then its hits with score and id.

    Args:
        queries: the queries with their hits.
        path: the file; its suffix is the format. It is written completely or not at all.
        metric: the metric of the collection.

    Raises OSError; ValueError for an unknown suffix.
    """
    columns = 1 + max((len(query.hits) for query in queries), default=0)
    figure = draw_tiles([_tiles(query, metric) for query in queries], columns)
    with atomic_write(path) as partial:
        figure.savefig(partial, format=path.suffix[1:].lower(), dpi=110)


def _tiles(query: QueryHits, metric: Metric) -> list[Tile]:
    own = Tile(query.uri, f"query\n{shorten(query.name)}", query.region, bold=True, box=query.box)
    return [own] + [_hit_tile(hit, metric, draws_box=query.draws_boxes) for hit in query.hits]


def _hit_tile(hit: Hit, metric: Metric, *, draws_box: bool) -> Tile:
    title = f"{similarity_text(hit, metric)}\n{shorten(hit.image.id)}"
    if draws_box:
        # Boxes are parts of the whole picture.
        return Tile(hit.image.uri, title, box=hit.region)
    return Tile(hit.image.uri, title, hit.image.region)


def similarity_text(hit: Hit, metric: Metric) -> str:
    """Return how similar a hit is to its query, as the metric measures it."""
    match metric:
        case Metric.COSINE:
            return f"cosine similarity {hit.score:.3f}"
        case Metric.IP:
            return f"inner product {hit.score:.4g}"
        case Metric.L2:
            return f"Euclidean distance {hit.distance:.4g}"
