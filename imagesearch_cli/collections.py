"""`imagesearch collections`."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Annotated

import typer

from imagesearch_cli.connection import connected
from imagesearch_cli.console import confirm, show
from imagesearch_cli.option_values import parse_index_parameters
from imagesearch_cli.options import (
    AsJson,
    ClustersOption,
    ConstructionOption,
    EdgesOption,
    IndexOption,
    MaxRegions,
    Target,
    Yes,
)
from imagesearch_cli.records import collection_json, print_record
from imagesearch_cli.tables import Column, print_table
from imagesearch_cli.typer_app import App
from imagesearch_client import DEFAULT_TARGET, Client, NotFoundError
from imagesearch_client.types import Collection, Consistency, Index, Metric
from imagesearch_ingest.json_text import json_text

# A hundred years.
MAX_TTL_SECONDS = 36_500 * 86_400

collections_app = App(help="List, create and delete collections.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name or alias of the collection.")]


@collections_app.command("list")
def list_collections(target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """List the collections."""
    with connected(target) as client:
        found = counted_collections(client)
    if as_json:
        print(json_text([collection_json(collection, count) for collection, count in found]))
    else:
        print_collections(found)


@collections_app.command("get")
def get_collection(name: Name, target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Show a collection's settings and its number of images."""
    with connected(target) as client:
        print_record(collection_json(client.get_collection(name), client.count(name)), as_json=as_json)


@collections_app.command("create")
def create_collection(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Name of the new collection: a lower-case letter, then lower-case letters, digits, _."
        ),
    ],
    target: Target = DEFAULT_TARGET,
    metric: Annotated[Metric, typer.Option(case_sensitive=False, help="How vectors are compared.")] = Metric.COSINE,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Model that embeds the images. [default: the embedder's first model]")
    ] = "",
    description: Annotated[str, typer.Option(metavar="TEXT", help="What the collection is for.")] = "",
    index: IndexOption = Index.HNSW,
    m: EdgesOption = None,
    ef_construction: ConstructionOption = None,
    nlist: ClustersOption = None,
    consistency: Annotated[
        Consistency,
        typer.Option(case_sensitive=False, help="How recent the writes are that searches see by default."),
    ] = Consistency.BOUNDED,
    ttl_seconds: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=MAX_TTL_SECONDS,
            metavar="N",
            help="How long an image is kept after its last change, in seconds. [default: for ever]",
        ),
    ] = None,
    max_regions: MaxRegions = None,
) -> None:
    """Create an empty collection.

    Example: imagesearch collections create shop --model vgg16 --metric l2

    Example: imagesearch collections create rooms --model vgg16-max-native --max-regions 8
    """
    parameters = parse_index_parameters(m, ef_construction, nlist)
    with connected(target) as client:
        collection = client.create_collection(
            name,
            metric=metric,
            model=model,
            description=description,
            index=index,
            index_parameters=parameters,
            consistency=consistency,
            max_regions=max_regions or 0,
            ttl=None if ttl_seconds is None else timedelta(seconds=ttl_seconds),
        )
    show(f"created {collection.name}: {collection.fingerprint}, {collection.dimension} x float32, {metric.value}")


@collections_app.command("delete")
def delete_collection(name: Name, target: Target = DEFAULT_TARGET, yes: Yes = False) -> None:
    """Delete a collection with all its images."""
    with connected(target) as client:
        if not yes:
            confirm(f"Delete {name} with its {client.count(name)} images?")
        client.delete_collection(name)
    show(f"deleted {name}")


def counted_collections(client: Client) -> list[tuple[Collection, int]]:
    """Return the collections with their numbers of images, without those that another caller deletes meanwhile."""
    found = []
    for collection in client.list_collections():
        with suppress(NotFoundError):
            found.append((collection, client.count(collection.name)))
    return found


def print_collections(found: Sequence[tuple[Collection, int]]) -> None:
    """Print a table of collections with their numbers of images."""
    if not found:
        show("no collections yet; `imagesearch ingest FOLDER` creates one")
        return
    collections = [collection for collection, _ in found]
    columns = [
        Column("collection", [each.name for each in collections], 0),
        Column("images", [str(count) for _, count in found], 1, is_number=True),
        Column("metric", [each.metric.value for each in collections], 3),
        Column("dimension", [str(each.dimension) for each in collections], 4, is_number=True),
        Column("model", [each.model for each in collections], 2),
        Column("fingerprint", [each.fingerprint for each in collections], 6),
    ]
    if any(each.max_regions for each in collections):
        columns.append(Column("regions", [str(each.max_regions) for each in collections], 3, is_number=True))
    if any(each.description for each in collections):
        columns.append(Column("description", [each.description for each in collections], 5))
    print_table(columns)
