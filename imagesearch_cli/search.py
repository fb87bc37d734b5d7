"""`imagesearch search`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from grpc_kit.errors import InvalidArgumentError, NotFoundError, ServiceError
from imagesearch_cli.connection import connected
from imagesearch_cli.console import FAILED
from imagesearch_cli.hits import Answer, print_answers
from imagesearch_cli.option_values import parse_region, parse_where
from imagesearch_cli.options import (
    DEFAULT_COLLECTION,
    TUNING,
    AsJson,
    AutoCrop,
    CodeCandidates,
    CollectionName,
    Exact,
    MatchOption,
    RegionOption,
    SearchEf,
    SearchList,
    SearchNprobe,
    Target,
    Where,
    limit_option,
)
from imagesearch_client import DEFAULT_TARGET, Client
from imagesearch_client.types import Example, Examples, ImageFile, Match, Query, Region, SearchOptions, StoredImage

# Errors that concern every query of a command.
ERRORS_OF_ALL_QUERIES = ("COLLECTION_NOT_FOUND", "COLLECTION_NAME_INVALID", "FILTER_INVALID")


def search(
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE", exists=True, dir_okay=False, help="Image files; each one is a query."),
    ] = None,
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="ID", help="Use a stored image as a query. May be repeated."),
    ] = None,
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    limit: Annotated[int, limit_option("Maximum number of hits for each query.", 1000)] = 10,
    min_score: Annotated[float | None, typer.Option(metavar="SCORE", help="Leave out hits with lower scores.")] = None,
    where: Where = None,
    show: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="Attributes to show in the table, such as price,kind.")
    ] = "",
    group_by: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Return the best hits for each value of this attribute. Leaves out images without it."
        ),
    ] = "",
    group_size: Annotated[
        int | None,
        typer.Option(min=1, max=100, metavar="N", help="With --group-by: number of hits per value. [default: 1]"),
    ] = None,
    region: RegionOption = "",
    match: MatchOption = Match.IMAGES,
    auto_crop: AutoCrop = False,
    unlike: Annotated[
        list[str] | None,
        typer.Option(
            "--unlike",
            metavar="ID",
            help="Find images unlike this stored image. All images and ids then form one query. May be repeated.",
        ),
    ] = None,
    include_query: Annotated[
        bool, typer.Option("--include-query", help="Keep the stored images of a query among its hits.")
    ] = False,
    exact: Exact = False,
    ef: SearchEf = None,
    nprobe: SearchNprobe = None,
    search_list: SearchList = None,
    code_candidates: CodeCandidates = None,
    strong: Annotated[
        bool,
        typer.Option(
            "--strong",
            help="Search every write that was acknowledged until now. Takes 0.2 s longer on a Milvus server.",
            rich_help_panel=TUNING,
        ),
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the index that answered, and how long each step took.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find the stored images that look like an image. Several images are several queries.

    Example: imagesearch search ~/photos/coffee.jpg -c shop -k 5 --where 'price<10' --show price

    Example: imagesearch search --id coffee.jpg --unlike page.jpg

    Example: imagesearch search lamp.jpg -c rooms --match regions
    """
    if not images and not ids:
        raise typer.BadParameter("there is no query; name image files, or stored images with --id")
    if region and not images:
        raise typer.BadParameter("selects a part of image files, and there are none", param_hint="--region")
    if auto_crop and (region or ids or unlike or not images):
        raise typer.BadParameter(
            "crops image files; use it without --id, --unlike and --region", param_hint="--auto-crop"
        )
    options = SearchOptions(
        match=match,
        auto_crop=auto_crop,
        limit=limit,
        min_score=min_score,
        where=parse_where(where),
        include_query=include_query,
        exact=exact,
        ef=ef,
        nprobe=nprobe,
        search_list=search_list,
        coarse=code_candidates,
        strong=strong,
    )
    if group_by:
        options["group_by"], options["group_size"] = group_by, group_size or 1
    elif group_size is not None:
        raise typer.BadParameter("has no effect without --group-by", param_hint="--group-size")
    queries = _queries(images or (), ids or (), unlike or (), parse_region(region))
    with connected(target) as client:
        answers, failed = _search_each(client, collection, queries, options)
    attributes = [name for part in show.split(",") if (name := part.strip())]
    print_answers(answers, failed, attributes=attributes, explain=explain, as_json=as_json)
    if failed:
        raise typer.Exit(FAILED)


def _queries(
    images: Sequence[Path], ids: Sequence[str], unlike: Sequence[str], region: Region | None
) -> Sequence[tuple[str, Query]]:
    """Return the queries with their names: one for each image and id, or a single one with --unlike."""
    examples: list[tuple[str, Example]] = [(str(image), ImageFile(image.read_bytes(), region)) for image in images]
    examples += [(image_id, StoredImage(image_id)) for image_id in ids]
    if not unlike:
        return examples
    negative = [StoredImage(image_id) for image_id in unlike]
    return [(" + ".join(name for name, _ in examples), Examples([example for _, example in examples], negative))]


def _search_each(
    client: Client, collection: str, queries: Sequence[tuple[str, Query]], options: SearchOptions
) -> tuple[list[Answer], list[tuple[str, ServiceError]]]:
    """Return the answer to each query, and the errors of the queries that are wrong themselves."""
    answers: list[Answer] = []
    failed: list[tuple[str, ServiceError]] = []
    for name, query in queries:
        try:
            hits, explanation = client.search_explained(collection, query, **options)
        except (InvalidArgumentError, NotFoundError) as error:
            if error.reason in ERRORS_OF_ALL_QUERIES:
                raise
            failed.append((name, error))
        else:
            answers.append(Answer(name, hits, explanation))
    return answers, failed
