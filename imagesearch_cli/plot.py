"""`imagesearch plot`."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from imagesearch_cli.connection import connected
from imagesearch_cli.options import OpenOption, Target, Where, condition_of
from imagesearch_cli.output import err
from imagesearch_cli.snapshots import CollectionArgument, Force, check_file, ending_well, opening
from imagesearch_client import DEFAULT_TARGET, Client
from imagesearch_client.types import ImageFile, Query, Region, StoredImage

SUFFIXES = (".png", ".jpg", ".pdf", ".svg")


def plot(
    collection: CollectionArgument,
    queries: Annotated[
        list[str], typer.Argument(help="What to look for, a row each: image files, or else ids of stored images.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture: .png, .jpg, .pdf or .svg.")],
    limit: Annotated[int, typer.Option("--limit", "-k", min=1, max=50, help="Neighbours of each query.")] = 8,
    where: Where = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare every vector, whatever the index is.")] = False,
    opens: OpenOption = None,
    force: Force = False,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Draw queries, each with its neighbours beside it and how near they are.

    That is the cosine similarity, the inner product or the Euclidean distance, as the collection has it.

    Example: imagesearch plot images ~/photos/coffee.jpg sku-17 -o neighbours.png
    """
    condition = condition_of(where)
    check_file(output, SUFFIXES, "--output", force=force)
    # matplotlib takes a while to import.
    from imagesearch_analysis.query_plot import QueryHits, plot_queries  # noqa: PLC0415

    with ending_well(), opening(opens), connected(target) as client:
        metric = client.get_collection(collection).metric
        rows = []
        for name in queries:
            label, uri, region, query = _query(client, collection, name)
            hits = client.search(collection, query, limit=limit, where=condition, exact=exact)
            rows.append(QueryHits(label, uri, hits, region))
        plot_queries(rows, output, metric)
    err.print(Text(f"wrote {output}"))


def _query(client: Client, collection: str, name: str) -> tuple[str, str, Region | None, Query]:
    """Return the label, the uri and the region of a query image, and the query."""
    # An id may be longer than the name of a file can be, for which Path.is_file raises.
    if os.path.isfile(name):  # noqa: PTH113
        path = Path(name)
        return path.name, name, None, ImageFile(path.read_bytes())
    image = client.get(collection, name)
    return name, image.uri, image.region, StoredImage(name)
