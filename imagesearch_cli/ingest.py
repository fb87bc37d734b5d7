"""`imagesearch ingest`."""

import sys
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import replace as replace_fields
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from grpc_kit.credentials import CredentialsError
from imagesearch_cli.connection import connected
from imagesearch_cli.console import STOPPED, err, fail
from imagesearch_cli.load_setup import (
    check_end,
    check_rejects,
    confirm_prune,
    dry_run_files,
    embedder_endpoint,
    has_items,
    load_files,
    note_waiting,
    search_endpoint,
    write_unsupported,
)
from imagesearch_cli.load_summary import finish, finish_without_images
from imagesearch_cli.option_values import parse_max_failed, parse_pairs, parse_share
from imagesearch_cli.options import (
    CONNECTION,
    DEFAULT_COLLECTION,
    PRUNING,
    RETRY_SECONDS,
    RUNS,
    SOURCES,
    AsJson,
    CollectionName,
    Columns,
    Embedder,
    LedgerFile,
    MaxFailed,
    MaxImages,
    ParallelReads,
    RejectsOption,
    Replace,
    Restart,
    RetryFailed,
    RetrySeconds,
    Target,
)
from imagesearch_cli.progress import show_load
from imagesearch_client import DEFAULT_EMBEDDER, DEFAULT_TARGET
from imagesearch_ingest.load.errors import LoadStoppedError
from imagesearch_ingest.load.limits import DEFAULT_READERS
from imagesearch_ingest.load.report import LoadReport

if TYPE_CHECKING:
    from imagesearch_ingest.sources.items import Source
    from imagesearch_ingest.sources.source_options import SourceOptions


class Via(Enum):
    """The service that receives the images."""

    EMBEDDER = "embedder"
    SEARCH = "search"


class Format(Enum):
    """The format of a source."""

    FOLDER = "folder"
    LIST = "list"
    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    TAR = "tar"


class IdFrom(Enum):
    """What an image's id is made from."""

    PATH = "path"
    CONTENT = "content"


class Changes(Enum):
    """How changes of a file are detected."""

    TIME = "time"
    CONTENT = "content"


def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="A folder; an image; a list of paths (.txt, or - for standard input); a manifest (.csv, .tsv, .jsonl, "
            ".parquet) with a column for the path and others for the id and attributes; a tar file or webdataset "
            "shard; or any of these at s3://, gs:// or https://.",
        ),
    ],
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    embedder: Embedder = DEFAULT_EMBEDDER,
    via: Annotated[
        Via,
        typer.Option(
            help="Service that receives the images: the embedder, or the search service if only that is reachable.",
            rich_help_panel=CONNECTION,
        ),
    ] = Via.EMBEDDER,
    source_format: Annotated[
        Format | None,
        typer.Option("--format", help="Format of the sources. [default: by file name]", rich_help_panel=SOURCES),
    ] = None,
    id_from: Annotated[
        IdFrom,
        typer.Option(help="What an image's id is: its path, or the SHA-256 of its file.", rich_help_panel=SOURCES),
    ] = IdFrom.PATH,
    any_name: Annotated[
        bool,
        typer.Option(
            "--any-name",
            help="Load files with any name if their content is an image. Reads the beginning of every file.",
            rich_help_panel=SOURCES,
        ),
    ] = False,
    root: Annotated[
        str,
        typer.Option(
            metavar="FOLDER",
            help="Folder or URL that relative paths start from. [default: the manifest's folder]",
            rich_help_panel=SOURCES,
        ),
    ] = "",
    path_column: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Column of the path or URL. [default: path, uri, ...]", rich_help_panel=SOURCES
        ),
    ] = "",
    id_column: Annotated[
        str,
        typer.Option(metavar="NAME", help="Column of the id. [default: id, or else the path]", rich_help_panel=SOURCES),
    ] = "",
    columns: Columns = None,
    column_types: Annotated[
        list[str] | None,
        typer.Option(
            "--column-type",
            metavar="COLUMN=TYPE",
            help="Type of a CSV column: text, int, float, bool or date. May be repeated. [default: from the values]",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    ledger: LedgerFile = None,
    restart: Restart = False,
    retry_failed: RetryFailed = False,
    replace: Replace = False,
    detect_changes: Annotated[
        Changes,
        typer.Option(
            help="How to detect that a file has changed: by its size and time, or by its content.", rich_help_panel=RUNS
        ),
    ] = Changes.TIME,
    limit: MaxImages = None,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="Delete images that the sources no longer have from the collection. Asks first on a terminal.",
            rich_help_panel=PRUNING,
        ),
    ] = False,
    max_pruned: Annotated[
        str,
        typer.Option(
            metavar="SHARE",
            help="Maximum share of a source's images, such as 50%, that --prune deletes without asking. [default: 20%]",
            show_default=False,
            rich_help_panel=PRUNING,
        ),
    ] = "",
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before --prune deletes images.", rich_help_panel=PRUNING)
    ] = False,
    dedup: Annotated[
        bool,
        typer.Option(
            "--dedup", help="Store images with equal content once. The attribute other_uris lists the other copies."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and decode the images, but write nothing except --rejects.")
    ] = False,
    rejects: RejectsOption = None,
    max_failed: MaxFailed = "0",
    retry_seconds: RetrySeconds = RETRY_SECONDS,
    parallel_calls: Annotated[
        int,
        typer.Option(
            min=1,
            max=1024,
            metavar="N",
            help="Number of calls at once, of 16 images each. Use two or more for each embedder.",
        ),
    ] = 8,
    parallel_reads: ParallelReads = DEFAULT_READERS,
    as_json: AsJson = False,
) -> None:
    """Load images into a collection, which is created if it does not exist, and account for every image.

    Run the command again at any time: it skips images that are done, embeds changed images again, and resumes an
    interrupted load. An image's id is its path below the folder. Its attributes come from its row in the manifest; a
    source without attributes leaves stored attributes as they are. Ctrl-C stops after the calls in flight, in about
    five seconds; a second Ctrl-C stops immediately.

    Exit codes: 0 done; 1 more images failed than --max-failed; 3 stopped early, or --prune was refused.
    """
    # pyarrow and others take a while to import.
    from imagesearch_ingest.load import job  # noqa: PLC0415
    from imagesearch_ingest.load.ledger_database import LedgerError  # noqa: PLC0415
    from imagesearch_ingest.load.load_options import PRUNE_ABOVE, LoadOptions, LoadServices  # noqa: PLC0415
    from imagesearch_ingest.load.planned_collection import plan_collection  # noqa: PLC0415
    from imagesearch_ingest.sources.source_options import SourceOptions  # noqa: PLC0415

    allowed = parse_max_failed(max_failed)
    check_rejects(rejects, sources)
    _check_prune(max_pruned, limit, prune=prune)
    source_options = SourceOptions(
        by_content=id_from is IdFrom.CONTENT,
        any_name=any_name,
        root=root,
        path_column=path_column,
        id_column=id_column,
        columns=parse_pairs(columns, "--map"),
        types=parse_pairs(column_types, "--column-type"),
        kind=source_format.value if source_format else "",
    )
    report = LoadReport()
    # In a context of its own: the load retries its listing itself.
    opened, has_images = copy_context().run(_open, sources, source_options, retry_seconds, report)
    if not has_images:
        try:
            write_unsupported(opened, rejects)
        except (OSError, LoadStoppedError) as error:
            fail(str(error), code=STOPPED)
        finish_without_images(report, sources, collection, dry_run=dry_run, as_json=as_json)
    options = LoadOptions(
        limit=limit,
        retry_failed=retry_failed,
        prune=prune,
        prune_above=parse_share(max_pruned, "--max-pruned") if max_pruned else PRUNE_ABOVE,
        dedup=dedup,
        compare_content=detect_changes is Changes.CONTENT,
        readers=parallel_reads,
        retry_seconds=retry_seconds,
        replace=replace,
    )
    try:
        if dry_run:
            files = dry_run_files(collection, target, ledger, rejects, restart=restart)
            with show_load(report):
                job.dry_run(opened, files, options, report)
        else:
            embedders = embedder_endpoint(embedder) if via is Via.EMBEDDER else None
            services = LoadServices(search_endpoint(target), embedders, parallel_calls)
            with connected(target, code=STOPPED) as client:
                into = plan_collection(client, collection)
                files = load_files(client, collection, into, ledger, rejects, restart=restart)
                with show_load(report) as display:
                    if sys.stdin.isatty() and err.is_terminal and not yes:
                        options = replace_fields(options, confirm_prune=partial(confirm_prune, display))
                    job.load(job.LoadJob(client, into, opened, services, files, options, report))
                check_end(client, collection, into, report)
    except (LedgerError, OSError, CredentialsError) as error:
        fail(str(error), code=STOPPED)
    finish(report, collection, allowed, dry_run=dry_run, as_json=as_json)


def _check_prune(max_pruned: str, limit: int | None, *, prune: bool) -> None:
    """Check that the options go together."""
    if prune and limit is not None:
        raise typer.BadParameter(
            "deletes what the complete sources no longer have; leave out --limit", param_hint="--prune"
        )
    if max_pruned and not prune:
        raise typer.BadParameter("has no effect without --prune", param_hint="--max-pruned")


def _open(
    sources: Sequence[str], options: "SourceOptions", retry_seconds: float, report: LoadReport
) -> "tuple[Sequence[Source], bool]":
    """Return the sources, and whether they have anything to load; if not, count their files in `report`."""
    from imagesearch_ingest.sources.items import SourceError  # noqa: PLC0415 - it takes a while to import
    from imagesearch_ingest.sources.open_source import open_source  # noqa: PLC0415 - as above
    from imagesearch_ingest.sources.source_retries import SourceRetries, thread_retries  # noqa: PLC0415 - as above

    thread_retries.set(SourceRetries(retry_seconds, note_waiting, is_opening=True))
    try:
        opened = [open_source(source, options) for source in sources]
        # Standard input can be read only once.
        return opened, "-" in sources or has_items(opened, report)
    except SourceError as error:
        raise typer.BadParameter(str(error), param_hint="SOURCE") from None
