"""`imagesearch plot`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from imagesearch_cli.connection import connected
from imagesearch_cli.console import note
from imagesearch_cli.option_values import parse_where
from imagesearch_cli.options import (
    DEFAULT_COLLECTION,
    AutoCrop,
    CollectionName,
    Exact,
    Force,
    MatchOption,
    OpenOption,
    Target,
    Where,
    limit_option,
    output_option,
)
from imagesearch_cli.snapshots import allowed_files, analysis_errors, check_file
from imagesearch_client import DEFAULT_TARGET, Client
from imagesearch_client.types import ImageFile, Match, Query, Region, StoredImage

SUFFIXES = (".png", ".jpg", ".pdf", ".svg")


def plot(
    queries: Annotated[
        list[str],
        typer.Argument(metavar="QUERY", help="Image files or ids of stored images. Each query is a row."),
    ],
    output: Annotated[Path, output_option("Image to write: .png, .jpg, .pdf or .svg.")],
    collection: CollectionName = DEFAULT_COLLECTION,
    limit: Annotated[int, limit_option("Maximum number of hits for each query.", 50)] = 8,
    where: Where = None,
    match: MatchOption = Match.IMAGES,
    auto_crop: AutoCrop = False,
    exact: Exact = False,
    opens: OpenOption = None,
    force: Force = False,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Draw queries with their hits beside them.

    Below each hit is its cosine similarity, inner product or Euclidean distance, depending on the collection. With
    --match regions or --match all, a frame shows the part of the picture that matched.

    Example: imagesearch plot -c images ~/photos/coffee.jpg sku-17 -o hits.png
    """
    condition = parse_where(where)
    check_file(output, SUFFIXES, "--output", force=force)
    # matplotlib takes a while to import.
    from imagesearch_analysis.query_plot import QueryHits, plot_queries  # noqa: PLC0415

    with analysis_errors(), allowed_files(opens), connected(target) as client:
        metric = client.get_collection(collection).metric
        rows = []
        for name in queries:
            label, uri, region, query = _query(client, collection, name)
            crop = auto_crop and isinstance(query, ImageFile)
            hits = client.search(
                collection, query, limit=limit, where=condition, exact=exact, match=match, auto_crop=crop
            )
            box = hits.query_region if crop else None
            rows.append(QueryHits(label, uri, hits, region, box, draws_boxes=match is not Match.IMAGES))
        plot_queries(rows, output, metric)
    note(f"wrote {output}")


def _query(client: Client, collection: str, name: str) -> tuple[str, str, Region | None, Query]:
    """Return the label, uri and region of a query, and the query: an image file, or else a stored image."""
    # An id may be longer than file names can be; Path.is_file raises for such names.
    if os.path.isfile(name):  # noqa: PTH113
        path = Path(name)
        return path.name, name, None, ImageFile(path.read_bytes())
    image = client.get(collection, name)
    return name, image.uri, image.region, StoredImage(name)
