"""`imagesearch collections`."""

from datetime import timedelta
from typing import Annotated

import typer

from imagesearch_cli.connection import connected
from imagesearch_cli.options import (
    AsJson,
    CandidatesOption,
    ClustersOption,
    EdgesOption,
    IndexOption,
    Target,
    index_parameters_of,
)
from imagesearch_cli.output import collection_json, confirm, out, print_collections
from imagesearch_client import DEFAULT_TARGET
from imagesearch_client.types import Consistency, Index, Metric
from imagesearch_ingest.json_text import json_text

# A hundred years.
MAX_TTL_SECONDS = 36_500 * 86_400

collections_app = typer.Typer(help="Make, list and remove collections.", no_args_is_help=True)


@collections_app.command("list")
def list_collections(target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """List the collections."""
    with connected(target) as client:
        found = [(collection, client.count(collection.name)) for collection in client.list_collections()]
    if as_json:
        print(json_text([collection_json(collection, count) for collection, count in found]))
    else:
        print_collections(found)


@collections_app.command("get")
def get_collection(name: str, target: Target = DEFAULT_TARGET) -> None:
    """Show one collection as JSON."""
    with connected(target) as client:
        print(json_text(collection_json(client.get_collection(name), client.count(name)), indent=2))


@collections_app.command("create")
def create_collection(
    name: Annotated[str, typer.Argument(help="A lower-case letter, then lower-case letters, digits, underscores.")],
    target: Target = DEFAULT_TARGET,
    metric: Annotated[Metric, typer.Option(case_sensitive=False, help="How vectors are compared.")] = Metric.COSINE,
    model: Annotated[str, typer.Option(help="The embedder's model. [default: the embedder's own default]")] = "",
    description: Annotated[str, typer.Option(help="What the collection is for.")] = "",
    index: IndexOption = Index.HNSW,
    m: EdgesOption = None,
    ef_construction: CandidatesOption = None,
    nlist: ClustersOption = None,
    consistency: Annotated[
        Consistency, typer.Option(case_sensitive=False, help="How fresh reads are that do not say otherwise.")
    ] = Consistency.BOUNDED,
    ttl: Annotated[
        float | None,
        typer.Option(
            min=1, max=MAX_TTL_SECONDS, help="Seconds that an image is kept after its last change. [default: for ever]"
        ),
    ] = None,
) -> None:
    """Make an empty collection."""
    parameters = index_parameters_of(m, ef_construction, nlist)
    with connected(target) as client:
        collection = client.create_collection(
            name,
            metric=metric,
            model=model,
            description=description,
            index=index,
            index_parameters=parameters,
            consistency=consistency,
            ttl=None if ttl is None else timedelta(seconds=ttl),
        )
    out.print(f"made {collection.name}: {collection.fingerprint}, {collection.dimension} x float32, {metric.value}")


@collections_app.command("delete")
def delete_collection(
    name: str,
    target: Target = DEFAULT_TARGET,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a collection with all its images."""
    with connected(target) as client:
        if not yes:
            confirm(f"Remove {name} with its {client.count(name)} images?")
        client.delete_collection(name)
    out.print(f"removed {name}")
