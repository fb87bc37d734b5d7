"""`imagesearch plot`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from imagesearch_cli.connection import connected
from imagesearch_cli.console import note
from imagesearch_cli.option_values import parse_region, parse_where
from imagesearch_cli.options import (
    DEFAULT_COLLECTION,
    AutoCrop,
    CollectionName,
    Exact,
    Force,
    MatchOption,
    OpenOption,
    RegionOption,
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
    region: RegionOption = "",
    match: MatchOption = Match.IMAGES,
    auto_crop: AutoCrop = False,
    exact: Exact = False,
    opens: OpenOption = None,
    force: Force = False,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Draw queries with their hits beside them.

    Below each hit is its cosine similarity, inner product or Euclidean distance, depending on the collection. With
    --match regions or --match all, a frame shows the part of the picture that matched. With --region or --auto-crop, a
    frame shows the part of the query.

    Example: imagesearch plot -c images ~/photos/coffee.jpg sku-17 -o hits.png
    """
    condition, part = parse_where(where), parse_region(region)
    _check_parts(queries, has_region=part is not None, auto_crop=auto_crop)
    check_file(output, SUFFIXES, "--output", force=force)
    # matplotlib takes a while to import.
    from imagesearch_analysis.query_plot import QueryHits, plot_queries  # noqa: PLC0415

    with analysis_errors(), allowed_files(opens), connected(target) as client:
        metric = client.get_collection(collection).metric
        rows = []
        for name in queries:
            query = _query(client, collection, name, part)
            hits = client.search(
                collection, query.query, limit=limit, where=condition, exact=exact, match=match, auto_crop=auto_crop
            )
            box = hits.query_region if part is not None or auto_crop else None
            rows.append(
                QueryHits(query.label, query.uri, hits, query.region, box, draws_boxes=match is not Match.IMAGES)
            )
        plot_queries(rows, output, metric)
    note(f"wrote {output}")


@dataclass(frozen=True, slots=True)
class _PlottedQuery:
    """A query, and how its tile shows it."""

    label: str
    uri: str
    query: Query
    region: Region | None = None
    """The part of a stored image that was embedded; None is the whole image."""


def _check_parts(queries: Sequence[str], *, has_region: bool, auto_crop: bool) -> None:
    """Check that --region and --auto-crop fit the queries, as `imagesearch search` does."""
    others = [name for name in queries if not _is_file(name)]
    if has_region and len(others) == len(queries):
        raise typer.BadParameter("selects a part of image files, and there are none", param_hint="--region")
    if auto_crop and has_region:
        raise typer.BadParameter("selects a part of its own; leave out --region", param_hint="--auto-crop")
    if auto_crop and others:
        raise typer.BadParameter(
            f"crops image files, and {others[0]!r:.80} is none; use it with image files only", param_hint="--auto-crop"
        )


def _is_file(name: str) -> bool:
    # An id may be longer than file names can be; Path.is_file raises for such names.
    return os.path.isfile(name)  # noqa: PTH113


def _query(client: Client, collection: str, name: str, part: Region | None) -> _PlottedQuery:
    """Return an image file as a query, or a part of it; or else a stored image."""
    if _is_file(name):
        path = Path(name)
        return _PlottedQuery(path.name, name, ImageFile(path.read_bytes(), part))
    image = client.get(collection, name)
    return _PlottedQuery(name, image.uri, StoredImage(name), image.region)
