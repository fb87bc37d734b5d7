"""`imagesearch export` and `imagesearch import`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grpc_kit.credentials import CredentialsError
from grpc_kit.errors import FailedPreconditionError, NotFoundError
from imagesearch_cli.connection import connected
from imagesearch_cli.console import STOPPED, fail, note, show
from imagesearch_cli.load_setup import check_end, check_rejects, load_files, search_endpoint
from imagesearch_cli.load_summary import finish
from imagesearch_cli.option_values import parse_max_failed, parse_pairs, parse_where
from imagesearch_cli.options import (
    DEFAULT_COLLECTION,
    RETRY_SECONDS,
    SOURCES,
    AsJson,
    CollectionName,
    Columns,
    Force,
    LedgerFile,
    MaxFailed,
    MaxImages,
    RejectsOption,
    Replace,
    Restart,
    RetryFailed,
    RetrySeconds,
    Target,
    Where,
    output_option,
)
from imagesearch_cli.progress import show_load, show_progress
from imagesearch_client import DEFAULT_TARGET, Client
from imagesearch_client.types import Collection, Metric
from imagesearch_ingest.json_text import json_text
from imagesearch_ingest.load.report import LoadReport

if TYPE_CHECKING:
    from imagesearch_ingest.load.planned_collection import PlannedCollection
    from imagesearch_ingest.vector_files.vector_file_source import VectorFileSource

# An import embeds no images. The number of calls with vectors is fixed.
EMBEDDER_CALLS = 1


def export(
    output: Annotated[Path, output_option("File to write: .parquet, .h5 or .npz.")],
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    where: Where = None,
    force: Force = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard the parts of an interrupted export, and start again.")
    ] = False,
    retry_seconds: RetrySeconds = RETRY_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Write a collection with its vectors and attributes to a file.

    If the command is interrupted, run it again: it resumes from the folder FILE.parts.

    Exit codes: 0 done; 1 the service refused; 3 the file cannot be written.

    Example: imagesearch export -c products -o products.parquet
    """
    # pyarrow and others take a while to import.
    from imagesearch_ingest.empty_collection import EmptyCollectionError  # noqa: PLC0415
    from imagesearch_ingest.vector_files.export import export_collection  # noqa: PLC0415
    from imagesearch_ingest.vector_files.export_parts import ExportError, FormatError  # noqa: PLC0415

    condition = parse_where(where)
    with connected(target) as client, show_progress() as progress:
        total = client.count(collection, where=condition)
        progress.start(total)
        try:
            report = export_collection(
                client,
                collection,
                output,
                where=condition,
                on_progress=progress.reach,
                restart=restart,
                overwrite=force,
                retry_seconds=retry_seconds,
            )
        except EmptyCollectionError as error:
            fail(str(error))
        except FormatError as error:
            fail(str(error))
        except ExportError as error:
            fail(str(error), code=STOPPED)
    if as_json:
        print(json_text(report.as_json()))
    else:
        resumed = f", {report.resumed_rows} of them from an earlier run" if report.resumed_rows else ""
        show(f"{report.rows} images of {report.collection} in {output}, {report.bytes / 1e6:.1f} MB{resumed}")


def import_file(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, help="File with ids and vectors: .parquet, .h5 or .npz."
        ),
    ],
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    fingerprint: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Name of the model that made the vectors. Needed if the file holds no fingerprint; choose any name.",
        ),
    ] = "",
    metric: Annotated[
        Metric | None,
        typer.Option(case_sensitive=False, help="Metric of a new collection. [default: from the file, or else cosine]"),
    ] = None,
    vector_column: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Column of the vectors. [default: vector, features, ...]", rich_help_panel=SOURCES
        ),
    ] = "",
    id_column: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Column of the ids. [default: id, ids, image_names, ...]", rich_help_panel=SOURCES
        ),
    ] = "",
    uri_column: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Column of the uris. [default: uri, path, ... if there is one]",
            rich_help_panel=SOURCES,
        ),
    ] = "",
    columns: Columns = None,
    ledger: LedgerFile = None,
    restart: Restart = False,
    retry_failed: RetryFailed = False,
    replace: Replace = False,
    limit: MaxImages = None,
    rejects: RejectsOption = None,
    max_failed: MaxFailed = "0",
    retry_seconds: RetrySeconds = RETRY_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Load vectors from a file into a collection: from an export, or made by another program.

    If the collection does not exist, it is created with the settings of the exported one. If the command is
    interrupted, run it again: it skips the images that are done.

    Exit codes: 0 done; 1 more images failed than --max-failed; 3 stopped early.

    Example: imagesearch import features.h5 -c old --fingerprint resnet50-2024
    """
    # pyarrow and others take a while to import.
    from imagesearch_ingest.load import job  # noqa: PLC0415
    from imagesearch_ingest.load.ledger_database import LedgerError  # noqa: PLC0415
    from imagesearch_ingest.load.load_options import LoadOptions, LoadServices  # noqa: PLC0415
    from imagesearch_ingest.load.planned_collection import PlannedCollection  # noqa: PLC0415
    from imagesearch_ingest.sources.items import SourceError  # noqa: PLC0415
    from imagesearch_ingest.vector_files.vector_file_source import VectorFileSource, VectorOptions  # noqa: PLC0415

    allowed = parse_max_failed(max_failed)
    check_rejects(rejects, [file])
    vector_options = VectorOptions(fingerprint, vector_column, id_column, uri_column, parse_pairs(columns, "--map"))
    try:
        source = VectorFileSource(file, vector_options)
    except SourceError as error:
        raise typer.BadParameter(str(error), param_hint="FILE") from None
    load_report = LoadReport()
    try:
        with connected(target, code=STOPPED) as client:
            into = _collection_for(client, collection, source, metric, load_report)
            files = load_files(client, collection, into, ledger, rejects, restart=restart)
            services = LoadServices(search_endpoint(target), None, EMBEDDER_CALLS, vectors_only=True)
            options = LoadOptions(retry_seconds=retry_seconds, limit=limit, retry_failed=retry_failed, replace=replace)
            with show_load(load_report):
                job.load(job.LoadJob(client, into, [source], services, files, options, load_report))
            if isinstance(into, PlannedCollection) and not load_report.listed and not load_report.stopped:
                # An empty export makes an empty collection.
                into.create()
            check_end(client, collection, into, load_report)
    except (LedgerError, OSError, CredentialsError) as error:
        fail(str(error), code=STOPPED)
    finish(load_report, collection, allowed, dry_run=False, as_json=as_json)


def _collection_for(
    client: Client, name: str, source: "VectorFileSource", metric: Metric | None, load_report: LoadReport
) -> "Collection | PlannedCollection":
    """Return the collection with this name, or a plan to create one for the vectors of the file."""
    from imagesearch_ingest.load.planned_collection import PlannedCollection, get_or_plan_collection  # noqa: PLC0415 - Pillow takes a while to import
    from imagesearch_ingest.vector_files.collection_settings import differences, settings_from  # noqa: PLC0415 - as above

    found = get_or_plan_collection(client, name, _Creation(client, name, source, metric))
    if isinstance(found, PlannedCollection):
        return found
    if found.fingerprint != source.fingerprint or found.dimension != source.dimension:
        raise typer.BadParameter(
            f"{name} has vectors of {found.dimension} x {found.fingerprint}, and the file has vectors of "
            f"{source.dimension} x {source.fingerprint}; a collection holds vectors of one model only",
            param_hint="--collection",
        )
    if metric not in (None, found.metric):
        raise typer.BadParameter(f"{name} exists with the metric {found.metric.value}", param_hint="--metric")
    if other := differences(found, settings_from(source.notes)):
        load_report.remarks.append(
            f"{name} exists and keeps its settings, which differ from the file's: {'; '.join(other)}"
        )
    return found


class _Creation:
    """Creates a collection for the vectors of a file."""

    def __init__(self, client: Client, name: str, source: "VectorFileSource", metric: Metric | None) -> None:
        self._client = client
        self._name = name
        self._source = source
        self._metric = metric
        self._model = source.notes.get("model", "")

    def __call__(self, *, validate_only: bool) -> Collection:
        """Create the collection, with the model of the vectors if the embedder serves that model."""
        if self._model:
            try:
                return self._create(validate_only=validate_only)
            except (FailedPreconditionError, NotFoundError) as error:
                note(f"{self._name} accepts vectors and no images: {error.message}")
                self._model = ""
        return self._create(validate_only=validate_only)

    def _create(self, *, validate_only: bool) -> Collection:
        from imagesearch_ingest.vector_files.collection_settings import settings_from  # noqa: PLC0415 - NumPy, as above

        settings = settings_from(self._source.notes)
        settings |= {"dimension": self._source.dimension, "fingerprint": self._source.fingerprint, "model": self._model}
        settings |= {} if self._metric is None else {"metric": self._metric}
        return self._client.create_collection(self._name, **settings, validate_only=validate_only)
