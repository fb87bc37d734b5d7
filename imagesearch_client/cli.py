"""The `imagesearch` command."""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from grpc_kit.credentials import ClientTls, CredentialsError
from grpc_kit.errors import InvalidArgumentError, NotFoundError, ServiceError
from imagesearch_client.client import DEFAULT_TARGET, Client
from imagesearch_client.filters import Filter, all_of, parse, read_value, split_values, unquoted
from imagesearch_client.ingest import SUFFIXES, find_images, ingest_folder, show_progress
from imagesearch_client.reindex import Change, Reindexing, check_aliases, make_new
from imagesearch_client.types import (
    AttributeValue,
    Collection,
    Consistency,
    Example,
    Examples,
    Explanation,
    Hit,
    HnswParameters,
    Image,
    ImageFile,
    Index,
    IndexParameters,
    IvfParameters,
    Metric,
    Query,
    Region,
    SearchOptions,
    StoredImage,
)

DEFAULT_COLLECTION = "images"
# A hundred years.
MAX_TTL_SECONDS = 36_500 * 86_400
SHOWN_REJECTS = 10
PLOT_SUFFIXES = (".png", ".jpg", ".pdf", ".svg")

# What helps at a terminal, by the reason of an error.
HINTS = {
    "UNAVAILABLE": "Is the search service up at {target}? `make up` starts one; --target names another.",
    "UNIMPLEMENTED": "Is that a search service at {target}? --target names another.",
    "COLLECTION_NOT_FOUND": "`imagesearch collections list` shows those there are; `imagesearch ingest` makes one.",
    "EMBEDDER_UNAVAILABLE": "The search service answers, and its embedder does not: is it up?",
}

app = typer.Typer(
    name="imagesearch",
    help="Find the images that look like an image. Talks to the search service, by default on this machine.",
    epilog="Over TLS: IMAGESEARCH_TLS=true, or IMAGESEARCH_CA with the file of your authority; IMAGESEARCH_CERTIFICATE "
    "and IMAGESEARCH_KEY for a service that asks for yours, IMAGESEARCH_TOKEN for one that wants a token.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
collections_app = typer.Typer(help="Make, list and remove collections.", no_args_is_help=True)
app.add_typer(collections_app, name="collections")
aliases_app = typer.Typer(help="Point second names at collections.", no_args_is_help=True)
app.add_typer(aliases_app, name="aliases")
images_app = typer.Typer(help="List, show, change and remove images.", no_args_is_help=True)
app.add_typer(images_app, name="images")

# Results go to standard output and everything else to standard error, so that results can be piped.
out = Console()
err = Console(stderr=True)

Target = Annotated[
    str,
    typer.Option("--target", envvar="IMAGESEARCH_TARGET", help="The search service, HOST:PORT or a gRPC name."),
]
CollectionName = Annotated[
    str,
    typer.Option("--collection", "-c", envvar="IMAGESEARCH_COLLECTION", help="The collection to work on."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        help="Only images that fit: 'price<100' (also <=, >, >=), 'category=shoe' (also !=), 'name^=red', "
        "'size in 41,42', 'sale' (has it), '!sale'. A value is a number, true, false or a text, and \"a text\" where "
        "it is quoted. May be repeated; all have to fit.",
    ),
]
# What is wrong with all queries of a command alike.
OF_ALL_QUERIES = ("COLLECTION_NOT_FOUND", "COLLECTION_NAME_INVALID", "FILTER_INVALID")


def tls_from_environment() -> ClientTls | None:
    """How the service is called over TLS; None is plain text."""
    authority, certificate, key = (
        Path(value) if (value := os.environ.get(f"IMAGESEARCH_{name}")) else None
        for name in ("CA", "CERTIFICATE", "KEY")
    )
    wanted = os.environ.get("IMAGESEARCH_TLS", "").lower() in {"1", "true", "yes"}
    return ClientTls(authority, certificate, key) if wanted or authority or certificate else None


@contextmanager
def connected(target: str) -> Iterator[Client]:
    """A client; an error of the service ends the command with its message and exit code 1."""
    try:
        client = Client(target, tls=tls_from_environment(), token=os.environ.get("IMAGESEARCH_TOKEN", ""))
    except CredentialsError as error:
        err.print(f"[bold red]error[/] {error}")
        raise typer.Exit(1) from None
    with client:
        try:
            yield client
        except ServiceError as error:
            err.print(f"[bold red]error[/] {error.reason}: ", end="")
            err.print(error.message, markup=False, highlight=False)
            if hint := HINTS.get(error.reason):
                err.print(Text(hint.format(target=target)))
            raise typer.Exit(1) from None


def condition_of(where: Sequence[str] | None) -> Filter | None:
    """The filter of the --where options; None where there are none."""
    try:
        conditions = [parse(text) for text in where or ()]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--where") from None
    return all_of(*conditions) if conditions else None


def region_of(text: str) -> Region | None:
    """The region of the --region option; None where there is none."""
    if not text:
        return None
    try:
        x0, y0, x1, y1 = map(float, text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} should be X0,Y0,X1,Y1, such as 0,0,0.5,1", param_hint="--region") from None
    return Region(x0, y0, x1, y1)


def read_attribute(text: str) -> AttributeValue:
    """An attribute's value as --where reads it, or a list of texts, as [a,"b, c"]."""
    if text.startswith("[") and text.endswith("]"):
        return [unquoted(part) for part in split_values(text[1:-1]) if part.strip()]
    return read_value(text)


def shown_attribute(value: AttributeValue) -> str:
    """An attribute's value as `images set` takes it."""
    if isinstance(value, str):
        return value if read_attribute(value) == value else json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool | int | float):
        return json.dumps(value, ensure_ascii=False)
    return f"[{','.join(map(shown_in_list, value))}]"


def shown_in_list(text: str) -> str:
    """One text of a list, between quotes where it would not be read as it is without."""
    if split_values(text) == [text] and unquoted(text) == text and text:
        return text
    return f"'{text}'" if '"' in text else f'"{text}"'


@app.command()
def status(target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Show whether the service answers, and what it holds."""
    with connected(target) as client:
        serving = client.is_serving()
        found = [(collection, client.count(collection.name)) for collection in client.list_collections()]
    if as_json:
        rows = [{"name": collection.name, "images": count} for collection, count in found]
        print(json.dumps({"target": target, "serving": serving, "collections": rows}))
    else:
        out.print(f"{target}: {'serving' if serving else 'not serving'}")
        print_collections(found)
    if not serving:
        raise typer.Exit(1)


@collections_app.command("list")
def list_collections(target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """List the collections."""
    with connected(target) as client:
        found = [(collection, client.count(collection.name)) for collection in client.list_collections()]
    if as_json:
        print(json.dumps([collection_json(collection, count) for collection, count in found]))
    else:
        print_collections(found)


@collections_app.command("get")
def get_collection(name: str, target: Target = DEFAULT_TARGET) -> None:
    """Show one collection as JSON."""
    with connected(target) as client:
        print(json.dumps(collection_json(client.get_collection(name), client.count(name)), indent=2))


IndexOption = Annotated[
    Index | None, typer.Option(help="What answers the queries; Milvus Lite compares every vector anyway.")
]
EdgesOption = Annotated[int | None, typer.Option("--m", min=1, help="HNSW: edges of a node. [default: 16]")]
CandidatesOption = Annotated[
    int | None, typer.Option(min=1, help="HNSW: candidates looked at when a node is put in. [default: 200]")
]
ClustersOption = Annotated[
    int | None, typer.Option(min=1, help="IVF_FLAT, IVF_SQ8: number of clusters. [default: 128]")
]


def index_parameters_of(m: int | None, ef_construction: int | None, nlist: int | None) -> IndexParameters | None:
    """The index parameters that were given; None where none were."""
    if nlist is not None and (m is not None or ef_construction is not None):
        raise typer.BadParameter("--nlist is for IVF, --m and --ef-construction are for HNSW")
    if nlist is not None:
        return IvfParameters(nlist)
    if m is None and ef_construction is None:
        return None
    default = HnswParameters()
    return HnswParameters(
        default.m if m is None else m, default.ef_construction if ef_construction is None else ef_construction
    )


@collections_app.command("create")
def create_collection(
    name: Annotated[str, typer.Argument(help="A lower-case letter, then lower-case letters, digits, underscores.")],
    target: Target = DEFAULT_TARGET,
    metric: Annotated[Metric, typer.Option(help="How vectors are compared.")] = Metric.COSINE,
    model: Annotated[str, typer.Option(help="The embedder's model. [default: the embedder's own default]")] = "",
    description: Annotated[str, typer.Option(help="What the collection is for.")] = "",
    index: IndexOption = None,
    m: EdgesOption = None,
    ef_construction: CandidatesOption = None,
    nlist: ClustersOption = None,
    consistency: Annotated[
        Consistency, typer.Option(help="How fresh reads are that do not say otherwise.")
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
            index=index or Index.AUTOINDEX,
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
            typer.confirm(f"Remove {name} with its {client.count(name)} images?", abort=True)
        client.delete_collection(name)
    out.print(f"removed {name}")


@app.command()
def reindex(
    source: Annotated[str, typer.Argument(help="The collection, or an alias of it, which is moved then.")],
    new: Annotated[str, typer.Argument(help="The collection to make.")],
    target: Target = DEFAULT_TARGET,
    index: IndexOption = None,
    m: EdgesOption = None,
    ef_construction: CandidatesOption = None,
    nlist: ClustersOption = None,
    metric: Annotated[Metric | None, typer.Option(help="How vectors are compared.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Another model of the embedder: every image's file is read and embedded anew.")
    ] = None,
    root: Annotated[Path, typer.Option(help="Where relative uris begin, to find the files for --model.")] = Path(),
    alias: Annotated[list[str] | None, typer.Option(help="An alias to point at the new collection.")] = None,
    keep_alias: Annotated[bool, typer.Option("--keep-alias", help="Leave SOURCE where it points.")] = False,
    skip_failed: Annotated[
        bool, typer.Option("--skip-failed", help="Go on without the images that could not be written.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build a collection anew beside the old one, with another index, metric or model, and move the alias to it.

    Vectors, attributes and all else is copied; only another model reads the images' files again. What is written to the
    old collection meanwhile is carried over. The alias moves when every image was copied. The old collection stays
    until you remove it.
    """
    change = Change(model, index, index_parameters_of(m, ef_construction, nlist), metric)
    with connected(target) as client, show_progress(err) as progress:
        old = client.get_collection(source)
        aliases = [*(alias or []), *([] if keep_alias or old.name == source else [source])]
        check_aliases(client, aliases)
        made = make_new(client, old, new, change)
        progress.start(client.count(old.name))
        reindexing = Reindexing(client, old, made, root, progress.step)
        reindexing.copy()
        report = reindexing.report
        good = report.complete or (skip_failed and not report.differences)
        if good:
            try:
                reindexing.move(aliases)
            except ServiceError:
                for name in report.moved:
                    err.print(f"{name} -> {new}; what was written to {report.source} at last is not copied")
                raise
            good = skip_failed or not report.failed
    if as_json:
        print(json.dumps(report.as_json()))
    else:
        how = "embedded anew" if report.embedded_anew else "vectors copied"
        out.print(f"{report.collection}: {report.count} images of {report.source_count} in {report.source}; {how}")
        for name in report.moved:
            out.print(f"{name} -> {report.collection}", highlight=False)
    for result in report.failed[:SHOWN_REJECTS]:
        err.print(Text(f"{result.id}: {result.error}"), style="red")
    if len(report.failed) > SHOWN_REJECTS:
        err.print(f"and {len(report.failed) - SHOWN_REJECTS} more; --json lists all")
    if not good and not report.moved:
        err.print(f"no alias was moved; {report.source} is as it was, and `collections delete {new}` removes the copy")
    if not good:
        raise typer.Exit(1)


@aliases_app.command("list")
def list_aliases(target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """List the aliases and what they point at."""
    with connected(target) as client:
        aliases = client.list_aliases()
    if as_json:
        print(json.dumps(aliases))
    else:
        for alias, collection in aliases.items():
            out.print(f"{alias} -> {collection}", highlight=False)


@aliases_app.command("set")
def set_alias(alias: str, collection: str, target: Target = DEFAULT_TARGET) -> None:
    """Point an alias at a collection; who searches sees the one or the other."""
    with connected(target) as client:
        previous = client.set_alias(alias, collection)
    out.print(f"{alias} -> {collection}" + (f" (was {previous})" if previous else ""), highlight=False)


@aliases_app.command("delete")
def delete_alias(alias: str, target: Target = DEFAULT_TARGET) -> None:
    """Remove an alias, never its collection."""
    with connected(target) as client:
        client.delete_alias(alias)
    out.print(f"removed {alias}", highlight=False)


@app.command()
def ingest(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Searched for images in all its folders.")
    ],
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Put the images of a folder into a collection, which is made where there is none.

    An image's id is its path below the folder, so that doing it again replaces and never doubles: an image that is
    written again has no attributes. Exit code 1 when any image failed; the others are stored all the same.
    """
    if not find_images(folder):
        err.print(Text(f"no image files below {folder}; their names end in {', '.join(sorted(SUFFIXES))}"))
        raise typer.Exit(1)
    with connected(target) as client, show_progress(err) as progress:
        report = ingest_folder(client, collection, folder, progress)
    if as_json:
        print(json.dumps(report.as_json()))
    else:
        out.print(
            f"{report.stored} of {report.seen} images stored in {collection}, {report.images_per_second:.1f} images/s"
        )
        for reason, count in sorted(report.reasons().items()):
            err.print(f"  {count} x {reason}", highlight=False)
        for reject in report.rejects[:SHOWN_REJECTS]:
            err.print(f"  {reject.path}: {reject.message}", markup=False, highlight=False)
        if len(report.rejects) > SHOWN_REJECTS:
            err.print(f"  ... and {len(report.rejects) - SHOWN_REJECTS} more; --json lists all")
        if report.stopped:
            err.print("stopped early: ", end="", style="bold red")
            err.print(report.stopped, markup=False, highlight=False)
    if report.rejects or report.stopped:
        raise typer.Exit(1)


@app.command()
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
    ef: Annotated[int | None, typer.Option(min=1, help="HNSW: candidates kept, from the limit to 32768.")] = None,
    nprobe: Annotated[int | None, typer.Option(min=1, help="IVF: clusters looked at.")] = None,
    strong: Annotated[
        bool, typer.Option("--strong", help="See every write until now; 0.2 s more on a Milvus server.")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Tell which index answered, and the times.")] = False,
    as_json: AsJson = False,
    plot: Annotated[
        Path | None, typer.Option(help="Write a picture: a row for each image, its hits beside it.")
    ] = None,
) -> None:
    """Find the images most like an image, or like each of several."""
    if not images and not ids:
        raise typer.BadParameter("there is nothing to look for: name image files, or stored images by --id")
    if plot is not None and (ids or unlike):
        raise typer.BadParameter("draws rows for image files, and --id and --unlike have none", param_hint="--plot")
    if plot is not None and (plot.suffix.lower() not in PLOT_SUFFIXES or not plot.absolute().parent.is_dir()):
        raise typer.BadParameter(
            f"{plot} should be in a folder that exists and end in {', '.join(PLOT_SUFFIXES)}", param_hint="--plot"
        )
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
    if plot is not None and found:
        # matplotlib takes a while to import.
        from imagesearch_client.plot import plot_hits  # noqa: PLC0415

        plot_hits([(Path(answer.query), answer.hits) for answer in found], plot)
        err.print(Text(f"wrote {plot}"))
    if failed:
        raise typer.Exit(1)


@images_app.command("list")
def list_images(
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    where: Where = None,
    latest_first: Annotated[bool, typer.Option(help="The most recently changed first, not by id.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-k", min=1, help="The most images. --all lifts it.")] = 100,
    everything: Annotated[bool, typer.Option("--all", help="All of them, however many.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line for each image.")] = False,
) -> None:
    """List the images of a collection."""
    condition = condition_of(where)
    with connected(target) as client:
        # At most one page more than is shown is read.
        found = client.list(collection, where=condition, latest_first=latest_first, page_size=min(limit, 1000))
        for image in found if everything else islice(found, limit):
            if as_json:
                print(json.dumps(image_json(image)))
            else:
                attributes = " ".join(
                    f"{name}={shown_attribute(value)}" for name, value in sorted(image.attributes.items())
                )
                out.print(f"{image.id}  {attributes}", markup=False, highlight=False, soft_wrap=True)


@images_app.command("get")
def get_images(
    ids: Annotated[list[str], typer.Argument(help="The ids.")],
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    vector: Annotated[bool, typer.Option("--vector", help="With their vectors.")] = False,
) -> None:
    """Show images as JSON, a line for each. Exit code 1 where one does not exist."""
    with connected(target) as client:
        found = client.get_many(collection, ids, with_vector=vector)
    for image in found.values():
        print(json.dumps(image_json(image)))
    missing = [image_id for image_id in ids if image_id not in found]
    for image_id in missing:
        err.print(f"{collection} has no image {image_id}", markup=False, highlight=False)
    if missing:
        raise typer.Exit(1)


@images_app.command("set")
def set_attributes(
    image_id: Annotated[str, typer.Argument(help="The image.")],
    assignments: Annotated[
        list[str] | None,
        typer.Argument(
            help="NAME=VALUE sets an attribute, NAME= removes it. A value is a number, true, false, a text, a list of "
            'texts as \\[a,"b, c"], and "a text" where it is quoted.'
        ),
    ] = None,
    uri: Annotated[str | None, typer.Option(help="Where the image's file is from now on.")] = None,
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Change attributes of an image, or its uri; its vector stays."""
    if not assignments and uri is None:
        raise typer.BadParameter("there is nothing to change: name attributes as NAME=VALUE, or --uri")
    changed: dict[str, AttributeValue] = {}
    removed = []
    for assignment in assignments or ():
        name, equals_sign, value = assignment.partition("=")
        if not equals_sign:
            raise typer.BadParameter(f"{assignment!r} should be NAME=VALUE or NAME=")
        if name in changed or name in removed:
            raise typer.BadParameter(f"{name} is there twice")
        if value:
            changed[name] = read_attribute(value)
        else:
            removed.append(name)
    with connected(target) as client:
        try:
            image = client.update(collection, image_id, uri=uri, attributes=changed, remove=removed)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    print(json.dumps(image_json(image)))


@images_app.command("delete")
def delete_images(
    ids: Annotated[list[str] | None, typer.Argument(help="The ids.")] = None,
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    where: Where = None,
    dry_run: Annotated[bool, typer.Option(help="Count what would be removed, and remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove images by their ids, or those that fit. Exit code 1 where one of the ids does not exist."""
    condition = condition_of(where)
    if bool(ids) is (condition is not None):
        raise typer.BadParameter("either ids or --where should say what is removed")
    with connected(target) as client:

        def delete(*, dry_run: bool) -> int:
            if condition is not None:
                return client.delete_where(collection, condition, dry_run=dry_run)
            return client.delete(collection, ids or [], dry_run=dry_run)

        missing = sorted(set(ids or ()) - client.get_many(collection, ids).keys()) if ids else []
        for image_id in missing:
            err.print(f"{collection} has no image {image_id}", markup=False, highlight=False)
        count = delete(dry_run=True)
        if dry_run:
            out.print(f"would remove {count} images of {collection}")
        else:
            if count and not yes:
                typer.confirm(f"Remove {count} images of {collection}?", abort=True)
            out.print(f"removed {delete(dry_run=False) if count else 0} images of {collection}")
    if missing:
        raise typer.Exit(1)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was found for a query."""

    query: str
    hits: list[Hit]
    explanation: Explanation


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


def print_found(
    found: Sequence[Answer], failed: Sequence[tuple[str, ServiceError]], *, explain: bool, as_json: bool
) -> None:
    """The hits of each query, and what is wrong with some."""
    if as_json:
        rows = [answer_json(answer, explain=explain) for answer in found]
        rows += [{"query": query, "error": fault.reason, "message": fault.message} for query, fault in failed]
        print(json.dumps(rows))
    else:
        for answer in found:
            print_hits(answer.query, answer.hits)
            if explain:
                out.print(explained(answer.explanation), highlight=False)
    for query, fault in failed:
        err.print(Text(f"{query}: {fault.reason}: {fault.message}"), style="red")


def print_collections(found: Sequence[tuple[Collection, int]]) -> None:
    """A table of collections with their numbers of images."""
    if not found:
        out.print("no collections yet; `imagesearch ingest FOLDER` makes one")
        return
    table = Table("collection", "images", "metric", "dimension", "fingerprint", "description")
    for collection, count in found:
        table.add_row(
            collection.name,
            str(count),
            collection.metric.value,
            str(collection.dimension),
            collection.fingerprint,
            Text(collection.description),
        )
    out.print(table)


def print_hits(query: str, hits: Sequence[Hit]) -> None:
    """A table of the hits of one query."""
    table = Table("", "score", "distance", "id", title=Text(query), title_justify="left")
    for rank, hit in enumerate(hits, start=1):
        table.add_row(str(rank), f"{hit.score:.4f}", f"{hit.distance:.4f}", Text(hit.image.id))
    out.print(table if hits else Text(f"{query}: no hits"))


def collection_json(collection: Collection, count: int) -> dict[str, object]:
    """A collection as JSON has it."""
    return {
        "name": collection.name,
        "images": count,
        "model": collection.model,
        "dimension": collection.dimension,
        "fingerprint": collection.fingerprint,
        "metric": collection.metric.value,
        "index": collection.index.value,
        "index_parameters": dataclasses.asdict(collection.index_parameters) if collection.index_parameters else {},
        "consistency": collection.consistency.value,
        "ttl_seconds": collection.ttl.total_seconds() if collection.ttl else None,
        "description": collection.description,
        "labels": dict(collection.labels),
        "create_time": collection.create_time.isoformat(),
    }


def explained(explanation: Explanation) -> str:
    """An explanation in words."""
    parameters = dataclasses.asdict(explanation.index_parameters) if explanation.index_parameters else {}
    built = "".join(f" {name}={value}" for name, value in parameters.items())
    return (
        f"index {explanation.index.value}{built}; {1000 * explanation.embed_seconds:.1f} ms embedding, "
        f"{1000 * explanation.store_seconds:.1f} ms Milvus, {1000 * explanation.total_seconds:.1f} ms in all"
    )


def answer_json(answer: Answer, *, explain: bool) -> dict[str, object]:
    """What was found for a query as JSON has it."""
    found: dict[str, object] = {"query": answer.query, "hits": [hit_json(hit) for hit in answer.hits]}
    if explain:
        how = dataclasses.asdict(answer.explanation)
        found["explanation"] = how | {"index": answer.explanation.index.value}
    return found


def hit_json(hit: Hit) -> dict[str, object]:
    """A hit as JSON has it."""
    return {
        "id": hit.image.id,
        "score": hit.score,
        "distance": hit.distance,
        "uri": hit.image.uri,
        "attributes": dict(hit.image.attributes),
    }


def image_json(image: Image) -> dict[str, object]:
    """A stored image as JSON has it."""
    found: dict[str, object] = {
        "id": image.id,
        "uri": image.uri,
        "attributes": dict(image.attributes),
        "content_sha256": image.content_sha256,
        "create_time": image.create_time.isoformat(),
        "update_time": image.update_time.isoformat(),
    }
    if image.embedding is not None:
        found["vector"] = list(image.embedding.values)
    if image.region is not None:
        found["region"] = dataclasses.astuple(image.region)
    return found


def main() -> None:
    """Runs the command."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        end_quietly()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            end_quietly()
        raise


def end_quietly() -> NoReturn:
    """Ends well: the reader of a pipe, such as `head`, has seen enough."""
    # What is still to be written at the end of the process goes nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
    sys.exit(0)


if __name__ == "__main__":
    main()
