"""`imagesearch search`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from grpc_kit.errors import InvalidArgumentError, NotFoundError, ServiceError
from imagesearch_cli.connection import connected
from imagesearch_cli.options import (
    DEFAULT_COLLECTION,
    AsJson,
    CollectionName,
    Target,
    Where,
    condition_of,
    region_of,
)
from imagesearch_cli.output import Answer, print_found
from imagesearch_client import DEFAULT_TARGET, Client
from imagesearch_client.defaults import MAX_CANDIDATES
from imagesearch_client.types import Example, Examples, ImageFile, Query, SearchOptions, StoredImage

# What is wrong with all queries of a command alike.
OF_ALL_QUERIES = ("COLLECTION_NOT_FOUND", "COLLECTION_NAME_INVALID", "FILTER_INVALID")


def search(
    images: Annotated[
        list[Path] | None, typer.Argument(exists=True, dir_okay=False, help="The images to look for.")
    ] = None,
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="Look for what is like this stored image, too. May be repeated.")
    ] = None,
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    limit: Annotated[int, typer.Option("--limit", "-k", min=1, max=1000, help="The most hits for each image.")] = 10,
    min_score: Annotated[float | None, typer.Option(help="Leave out hits that score less.")] = None,
    where: Where = None,
    group_by: Annotated[
        str, typer.Option(help="The best hits of each value of this attribute; images without it are left out.")
    ] = "",
    group_size: Annotated[
        int | None, typer.Option(min=1, max=100, help="Hits of each value, with --group-by. [default: 1]")
    ] = None,
    region: Annotated[
        str,
        typer.Option(help="The part of the images that counts, X0,Y0,X1,Y1 in fractions: 0,0,0.5,1 is the left half."),
    ] = "",
    unlike: Annotated[
        list[str] | None,
        typer.Option(
            "--unlike",
            help="A stored image to be unlike; then all images and ids together are one query, by examples. May be "
            "repeated.",
        ),
    ] = None,
    include_query: Annotated[
        bool, typer.Option("--include-query", help="Let the stored images of a query be among its hits.")
    ] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Compare every vector, whatever the index is.")] = False,
    ef: Annotated[
        int | None, typer.Option(min=1, help="HNSW, AUTOINDEX: candidates kept, from the limit to 32768.")
    ] = None,
    nprobe: Annotated[int | None, typer.Option(min=1, help="IVF: clusters looked at.")] = None,
    search_list: Annotated[
        int | None, typer.Option(min=1, help="DISKANN: candidates kept, from the limit to ten times the limit.")
    ] = None,
    coarse: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_CANDIDATES,
            help="Look by binary codes first, for so many candidates, and compare these by their vectors; see "
            "`imagesearch codes`.",
        ),
    ] = None,
    strong: Annotated[
        bool, typer.Option("--strong", help="See every write until now; 0.2 s more on a Milvus server.")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Tell which index answered, and the times.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find the images most like an image, or like each of several."""
    if not images and not ids:
        raise typer.BadParameter("there is nothing to look for: name image files, or stored images by --id")
    if region and not images:
        raise typer.BadParameter("is the part of image files, and there are none", param_hint="--region")
    options = SearchOptions(
        limit=limit,
        min_score=min_score,
        where=condition_of(where),
        include_query=include_query,
        exact=exact,
        ef=ef,
        nprobe=nprobe,
        search_list=search_list,
        coarse=coarse,
        strong=strong,
    )
    if group_by:
        options["group_by"], options["group_size"] = group_by, group_size or 1
    elif group_size is not None:
        raise typer.BadParameter("is the size of the groups that --group-by makes", param_hint="--group-size")
    part = region_of(region)
    examples: list[tuple[str, Example]] = [(str(image), ImageFile(image.read_bytes(), part)) for image in images or ()]
    examples += [(image_id, StoredImage(image_id)) for image_id in ids or ()]
    queries: Sequence[tuple[str, Query]] = examples
    if unlike:
        negative = [StoredImage(image_id) for image_id in unlike]
        queries = [(" + ".join(name for name, _ in examples), Examples([example for _, example in examples], negative))]
    with connected(target) as client:
        found, failed = look_for(client, collection, queries, options)
    print_found(found, failed, explain=explain, as_json=as_json)
    if failed:
        raise typer.Exit(1)


def look_for(
    client: Client, collection: str, queries: Sequence[tuple[str, Query]], options: SearchOptions
) -> tuple[list[Answer], list[tuple[str, ServiceError]]]:
    """The answer to each query, and the errors of those that are at fault themselves."""
    found: list[Answer] = []
    failed: list[tuple[str, ServiceError]] = []
    for name, query in queries:
        try:
            hits, explanation = client.search_explained(collection, query, **options)
        except (InvalidArgumentError, NotFoundError) as error:
            if error.reason in OF_ALL_QUERIES:
                raise
            failed.append((name, error))
        else:
            found.append(Answer(name, hits, explanation))
    return found, failed
