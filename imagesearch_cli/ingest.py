"""`imagesearch ingest`."""

import sys
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import replace as replace_fields
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from grpc_kit.credentials import CredentialsError
from imagesearch_cli.connection import connected
from imagesearch_cli.loading import (
    STOPPED,
    FailAbove,
    LedgerFile,
    Limit,
    Maps,
    Patience,
    ReadersOption,
    RejectsOption,
    Replace,
    Restart,
    RetryFailed,
    allowed_failures,
    ask_to_prune,
    check_end,
    check_rejects,
    embedder_endpoint,
    end_without_images,
    endpoint,
    finish,
    has_items,
    load_files,
    pairs,
    rehearsal_files,
    share_of,
    tell_waiting,
    write_not_taken,
)
from imagesearch_cli.options import DEFAULT_COLLECTION, AsJson, CollectionName, Target
from imagesearch_cli.output import err
from imagesearch_client import DEFAULT_EMBEDDER, DEFAULT_TARGET
from imagesearch_ingest.load.errors import LoadStoppedError
from imagesearch_ingest.load.image_reader import DEFAULT_READERS
from imagesearch_ingest.load.report import LoadReport

if TYPE_CHECKING:
    from imagesearch_ingest.sources.items import Source
    from imagesearch_ingest.sources.source_options import SourceOptions

SOURCES = "Where the images come from"


class Via(Enum):
    """Who has the images embedded."""

    EMBEDDER = "embedder"
    SEARCH = "search"


class Kind(Enum):
    """What a source is."""

    FOLDER = "folder"
    LIST = "list"
    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    TAR = "tar"


class Ids(Enum):
    """What ids are made of."""

    PATH = "path"
    CONTENT = "content"


class Compare(Enum):
    """What tells whether a file has changed."""

    TIME = "time"
    CONTENT = "content"


def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="A folder; an image; a list of paths (.txt, or - for standard input); a manifest (.csv, .tsv, .jsonl, "
            ".parquet) with a column for the path and others for the id and attributes; a tar or webdataset shard; or "
            "any of these as s3://, gs:// or https://.",
        ),
    ],
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    embedder: Annotated[
        str,
        typer.Option(
            "--embedder",
            envvar="IMAGESEARCH_EMBEDDER",
            help="The embedder, HOST:PORT, or dns:///HOST:PORT for all the replicas behind a name.",
        ),
    ] = DEFAULT_EMBEDDER,
    via: Annotated[
        Via,
        typer.Option(help="Who is given the images: the embedder, or the search service where it alone is reachable."),
    ] = Via.EMBEDDER,
    kind: Annotated[
        Kind | None, typer.Option("--as", help="What the sources are. [default: by name]", rich_help_panel=SOURCES)
    ] = None,
    ids: Annotated[
        Ids, typer.Option(help="What an image's id is: its path or its SHA-256.", rich_help_panel=SOURCES)
    ] = Ids.PATH,
    any_name: Annotated[
        bool,
        typer.Option(
            "--any-name",
            help="Take files of any name whose content is an image. Reads the beginning of each file.",
            rich_help_panel=SOURCES,
        ),
    ] = False,
    root: Annotated[
        str, typer.Option(help="Where relative paths begin. [default: the manifest's folder]", rich_help_panel=SOURCES)
    ] = "",
    path_column: Annotated[
        str, typer.Option(help="Column of the path or URL. [default: path, uri, ...]", rich_help_panel=SOURCES)
    ] = "",
    id_column: Annotated[
        str, typer.Option(help="Column of the id. [default: id; else the path is the id]", rich_help_panel=SOURCES)
    ] = "",
    maps: Maps = None,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            help="COLUMN=text, int, float, bool or date, for a CSV column that should not be found out.",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    ledger: LedgerFile = None,
    restart: Restart = False,
    retry_failed: RetryFailed = False,
    replace: Replace = False,
    limit: Limit = None,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Remove from the collection what the sources no longer have; ask on a terminal."),
    ] = False,
    prune_above: Annotated[
        str,
        typer.Option(
            metavar="SHARE",
            help="Share of a source's images, as 50%, above which --prune is refused if it may not ask. [default: 20%]",
            show_default=False,
        ),
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before --prune removes images.")] = False,
    dedup: Annotated[
        bool, typer.Option("--dedup", help="Store equal content once; its attribute other_uris tells where else it is.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and decode what a load would; write nothing but --rejects.")
    ] = False,
    compare: Annotated[
        Compare, typer.Option(help="A file has changed when its size or time has, or when its content has.")
    ] = Compare.TIME,
    rejects: RejectsOption = None,
    fail_above: FailAbove = "0",
    patience: Patience = 300.0,
    streams: Annotated[
        int, typer.Option(min=1, max=1024, help="Calls at a time, of 16 images each; two or more for each embedder.")
    ] = 8,
    readers: ReadersOption = DEFAULT_READERS,
    as_json: AsJson = False,
) -> None:
    """Put images into a collection, which is made where there is none, and account for every one.

    Run it again at any time: what is done is skipped, what has changed is embedded anew, what was cut off goes on. An
    image's id is its path below the folder; its attributes are those of its manifest's row, or stay as they are where
    the source has none. Ctrl-C ends it after the calls in flight, in about five seconds; a second one ends it now.

    Exit codes: 0 done, 1 more failed than --fail-above allows, 2 wrong usage, 3 stopped early or --prune was refused,
    130 interrupted.
    """
    # They bring pyarrow and others, which take a while to import.
    from imagesearch_cli.load_progress import show_progress  # noqa: PLC0415
    from imagesearch_ingest.load import job  # noqa: PLC0415
    from imagesearch_ingest.load.ledger_database import LedgerError  # noqa: PLC0415
    from imagesearch_ingest.load.load_options import PRUNE_ABOVE, LoadOptions, LoadServices  # noqa: PLC0415
    from imagesearch_ingest.load.planned_collection import plan_collection  # noqa: PLC0415
    from imagesearch_ingest.sources.source_options import SourceOptions  # noqa: PLC0415

    allowed = allowed_failures(fail_above)
    check_rejects(rejects, sources)
    _check_prune(prune_above, limit, prune=prune)
    source_options = SourceOptions(
        by_content=ids is Ids.CONTENT,
        any_name=any_name,
        root=root,
        path_column=path_column,
        id_column=id_column,
        columns=pairs(maps, "--map"),
        types=pairs(types, "--type"),
        kind=kind.value if kind else "",
    )
    account = LoadReport()
    # In a context of its own: the load tries its listing again by itself.
    opened, has_images = copy_context().run(_open, sources, source_options, patience, account)
    if not has_images:
        try:
            write_not_taken(opened, rejects)
        except (OSError, LoadStoppedError) as error:
            err.print("[bold red]error[/] ", end="")
            err.print(Text(str(error)), soft_wrap=True)
            raise typer.Exit(STOPPED) from None
        end_without_images(account, sources, collection, dry_run=dry_run, as_json=as_json)
    options = LoadOptions(
        limit=limit,
        retry_failed=retry_failed,
        prune=prune,
        prune_above=share_of(prune_above) if prune_above else PRUNE_ABOVE,
        dedup=dedup,
        compare_content=compare is Compare.CONTENT,
        readers=readers,
        retry_seconds=patience,
        replace=replace,
    )
    try:
        if dry_run:
            files = rehearsal_files(collection, target, ledger, rejects, restart=restart)
            with show_progress(account, err):
                job.dry_run(opened, files, options, account)
        else:
            embedders = embedder_endpoint(embedder) if via is Via.EMBEDDER else None
            services = LoadServices(endpoint(target), embedders, streams)
            with connected(target, code=STOPPED) as client:
                into = plan_collection(client, collection)
                files = load_files(client, collection, into, ledger, rejects, restart=restart)
                with show_progress(account, err) as shown:
                    if sys.stdin.isatty() and err.is_terminal and not yes:
                        options = replace_fields(options, confirm_prune=partial(ask_to_prune, shown))
                    job.load(job.LoadJob(client, into, opened, services, files, options, account))
                check_end(client, collection, into, account)
    except (LedgerError, OSError, CredentialsError) as error:
        err.print("[bold red]error[/] ", end="")
        err.print(Text(str(error)), soft_wrap=True)
        raise typer.Exit(STOPPED) from None
    finish(account, collection, allowed, dry_run=dry_run, as_json=as_json)


def _check_prune(prune_above: str, limit: int | None, *, prune: bool) -> None:
    """Refuse options that do not go together."""
    if prune and limit is not None:
        raise typer.BadParameter(
            "removes what the whole of the sources does not have; --limit does not go with it", param_hint="--prune"
        )
    if prune_above and not prune:
        raise typer.BadParameter("has no effect without --prune", param_hint="--prune-above")


def _open(
    sources: Sequence[str], options: "SourceOptions", patience: float, account: LoadReport
) -> "tuple[Sequence[Source], bool]":
    """Return the sources, and whether there is anything to load; if not, `account` counts the files that are there."""
    from imagesearch_ingest.sources.items import SourceError  # noqa: PLC0415 - as above
    from imagesearch_ingest.sources.open_source import open_source  # noqa: PLC0415
    from imagesearch_ingest.sources.source_retries import SourceRetries, thread_retries  # noqa: PLC0415

    thread_retries.set(SourceRetries(patience, tell_waiting, is_opening=True))
    try:
        opened = [open_source(source, options) for source in sources]
        # The standard input can be read once only.
        return opened, "-" in sources or has_items(opened, account)
    except SourceError as error:
        raise typer.BadParameter(str(error), param_hint="SOURCE") from None
