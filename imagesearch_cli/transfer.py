"""`imagesearch export` and `imagesearch import`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from grpc_kit.credentials import CredentialsError
from grpc_kit.errors import FailedPreconditionError, NotFoundError
from imagesearch_cli.bars import show_progress
from imagesearch_cli.connection import connected
from imagesearch_cli.loading import (
    STOPPED,
    FailAbove,
    LedgerFile,
    Limit,
    Maps,
    Patience,
    RejectsOption,
    Replace,
    Restart,
    RetryFailed,
    allowed_failures,
    check_end,
    check_rejects,
    endpoint,
    finish,
    load_files,
    pairs,
)
from imagesearch_cli.options import DEFAULT_COLLECTION, AsJson, CollectionName, Target, Where, condition_of
from imagesearch_cli.output import err, out
from imagesearch_client import DEFAULT_TARGET, Client
from imagesearch_client.types import Collection, Metric
from imagesearch_ingest.json_text import json_text
from imagesearch_ingest.load.report import LoadReport

if TYPE_CHECKING:
    from imagesearch_ingest.load.planned_collection import PlannedCollection
    from imagesearch_ingest.vector_files.source import VectorFile

# Calls that import uses are those of vectors, whose number is fixed.
STREAMS = 1


def export(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="The file to write: .parquet, .h5 or .npz.")],
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    where: Where = None,
    overwrite: Annotated[bool, typer.Option("--force", "--overwrite", help="Replace a file that is there.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew where an export that was cut off could go on.")
    ] = False,
    patience: Patience = 300.0,
    as_json: AsJson = False,
) -> None:
    """Write a collection with its vectors and attributes to a file.

    An export that was cut off goes on when it is run again: what was read is in FILE.parts until it is whole. Exit
    codes: 0 done, 1 the service refused, 2 wrong usage, 3 the file cannot be written.
    """
    # It brings pyarrow and others, which take a while to import.
    from imagesearch_ingest.vector_files.export import Export  # noqa: PLC0415
    from imagesearch_ingest.vector_files.parts import ExportError  # noqa: PLC0415

    condition = condition_of(where)
    with connected(target) as client, show_progress(err) as progress:
        total = client.count(collection, where=condition)
        progress.start(total)
        try:
            report = Export(
                client,
                collection,
                file,
                condition,
                progress.reach,
                restart=restart,
                overwrite=overwrite,
                patience=patience,
            ).run()
        except ExportError as error:
            err.print("[bold red]error[/] ", end="")
            err.print(Text(str(error)), soft_wrap=True)
            raise typer.Exit(STOPPED) from None
    if as_json:
        print(json_text(report.as_json()))
    else:
        resumed = f", {report.resumed_rows} of them by a run before" if report.resumed_rows else ""
        out.print(
            Text(f"{report.rows} images of {report.collection} in {file}, {report.bytes / 1e6:.1f} MB{resumed}"),
            soft_wrap=True,
        )


def import_file(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A file of vectors: .parquet, .h5 or .npz.")
    ],
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    fingerprint: Annotated[
        str, typer.Option(help="Which model made the vectors, where the file does not say: a name of your own.")
    ] = "",
    metric: Annotated[
        Metric | None, typer.Option(help="Of a collection that is made. [default: the file's, else cosine]")
    ] = None,
    vector_column: Annotated[str, typer.Option(help="Of the vectors. [default: vector, features, ...]")] = "",
    id_column: Annotated[str, typer.Option(help="Of the ids. [default: id, ids, image_names, ...]")] = "",
    uri_column: Annotated[str, typer.Option(help="Of the uris. [default: uri, path, ... where there is one]")] = "",
    maps: Maps = None,
    ledger: LedgerFile = None,
    restart: Restart = False,
    retry_failed: RetryFailed = False,
    replace: Replace = False,
    limit: Limit = None,
    rejects: RejectsOption = None,
    fail_above: FailAbove = "0",
    patience: Patience = 300.0,
    as_json: AsJson = False,
) -> None:
    """Put the vectors of a file into a collection: those of an export, or some that were made elsewhere.

    A collection that is not there is made like the exported one. Run it again where it was cut off: what is done is
    skipped. Exit codes: as of ingest.
    """
    # They bring pyarrow and others, which take a while to import.
    from imagesearch_cli.load_progress import show_progress  # noqa: PLC0415
    from imagesearch_ingest.load import job  # noqa: PLC0415
    from imagesearch_ingest.load.ledger_database import LedgerError  # noqa: PLC0415
    from imagesearch_ingest.load.load_options import LoadOptions, LoadServices  # noqa: PLC0415
    from imagesearch_ingest.load.planned_collection import PlannedCollection  # noqa: PLC0415
    from imagesearch_ingest.sources.items import SourceError  # noqa: PLC0415
    from imagesearch_ingest.vector_files.source import VectorFile, VectorOptions  # noqa: PLC0415

    allowed = allowed_failures(fail_above)
    check_rejects(rejects, [file])
    columns = VectorOptions(fingerprint, vector_column, id_column, uri_column, pairs(maps, "--map"))
    try:
        source = VectorFile(file, columns)
    except SourceError as error:
        raise typer.BadParameter(str(error), param_hint="FILE") from None
    account = LoadReport()
    try:
        with connected(target, code=STOPPED) as client:
            into = _collection_for(client, collection, source, metric, account)
            files = load_files(client, collection, into, ledger, rejects, restart=restart)
            services = LoadServices(endpoint(target), None, STREAMS, vectors_only=True)
            options = LoadOptions(retry_seconds=patience, limit=limit, retry_failed=retry_failed, replace=replace)
            with show_progress(account, err):
                job.load(job.LoadJob(client, into, [source], services, files, options, account))
            if isinstance(into, PlannedCollection) and not account.listed and not account.stopped:
                # The copy of an empty collection is one too.
                into.create()
            check_end(client, collection, into, account)
    except (LedgerError, OSError, CredentialsError) as error:
        err.print("[bold red]error[/] ", end="")
        err.print(Text(str(error)), soft_wrap=True)
        raise typer.Exit(STOPPED) from None
    finish(account, collection, allowed, dry_run=False, as_json=as_json)


def _collection_for(
    client: Client, name: str, source: "VectorFile", metric: Metric | None, account: LoadReport
) -> "Collection | PlannedCollection":
    """Return the collection of a name, or one to be made that takes a file's vectors."""
    from imagesearch_ingest.load.planned_collection import PlannedCollection, get_or_plan_collection  # noqa: PLC0415 - it brings Pillow
    from imagesearch_ingest.vector_files.settings import differences, settings_from  # noqa: PLC0415 - it brings numpy

    found = get_or_plan_collection(client, name, _Creation(client, name, source, metric))
    if isinstance(found, PlannedCollection):
        return found
    if found.fingerprint != source.fingerprint or found.dimension != source.dimension:
        raise typer.BadParameter(
            f"{name} is of {found.dimension} x {found.fingerprint}, and the file of {source.dimension} x "
            f"{source.fingerprint}; vectors of two models are never mixed",
            param_hint="--collection",
        )
    if metric not in (None, found.metric):
        raise typer.BadParameter(f"{name} exists and has {found.metric.value}", param_hint="--metric")
    if other := differences(found, settings_from(source.notes)):
        account.remarks.append(
            f"{name} exists and keeps its settings, which are not those of the file: {'; '.join(other)}"
        )
    return found


class _Creation:
    """Makes a collection for the vectors of a file."""

    def __init__(self, client: Client, name: str, source: "VectorFile", metric: Metric | None) -> None:
        """Make nothing yet."""
        self._client = client
        self._name = name
        self._source = source
        self._metric = metric
        self._model = source.notes.get("model", "")

    def __call__(self, *, validate_only: bool) -> Collection:
        """Make it, with the model that made the vectors if the embedder has that model."""
        if self._model:
            try:
                return self._create(validate_only=validate_only)
            except (FailedPreconditionError, NotFoundError) as error:
                err.print(Text(f"{self._name} takes vectors and no images: {error.message}"), soft_wrap=True)
                self._model = ""
        return self._create(validate_only=validate_only)

    def _create(self, *, validate_only: bool) -> Collection:
        from imagesearch_ingest.vector_files.settings import settings_from  # noqa: PLC0415 - it brings numpy

        settings = settings_from(self._source.notes)
        settings |= {"dimension": self._source.dimension, "fingerprint": self._source.fingerprint, "model": self._model}
        settings |= {} if self._metric is None else {"metric": self._metric}
        return self._client.create_collection(self._name, **settings, validate_only=validate_only)
