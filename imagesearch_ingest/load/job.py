"""Run a load, or a dry run of one."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from grpc_kit.errors import FailedPreconditionError
from imagesearch_client.client import Client
from imagesearch_client.types import Collection
from imagesearch_ingest.event_loop import run_coroutine
from imagesearch_ingest.load.collection_destination import CollectionDestination
from imagesearch_ingest.load.dry_run_destination import DryRunDestination
from imagesearch_ingest.load.ledger import Ledger
from imagesearch_ingest.load.ledger_rows import CollectionIdentity
from imagesearch_ingest.load.load_options import LoadOptions, LoadServices, LocalFiles
from imagesearch_ingest.load.load_run import LoadRun
from imagesearch_ingest.load.planned_collection import PlannedCollection
from imagesearch_ingest.load.rejects_file import RejectsFile
from imagesearch_ingest.load.report import LoadReport
from imagesearch_ingest.sources.items import Source


@dataclass(frozen=True)
class LoadJob:
    """A load of some sources into a collection."""

    client: Client
    """A client of the search service, for calls that are not part of the bulk."""
    collection: Collection | PlannedCollection
    """The collection. A planned one is created when its first image is about to be stored."""
    sources: Sequence[Source]
    services: LoadServices
    files: LocalFiles
    options: LoadOptions = field(default_factory=LoadOptions)
    report: LoadReport = field(default_factory=LoadReport)
    """Filled while the load runs, and complete when it ends."""


def load(job: LoadJob) -> LoadReport:
    """Run a load, and return its report.

    In the main thread, the first SIGINT or SIGTERM gives calls in flight some seconds and stops the load. The second
    one ends it at once. In a notebook, where an event loop runs already, the load runs in a thread, and an interrupt of
    the notebook stops it.

    Raises LedgerError, ServiceError, CredentialsError and OSError before the load begins.
    """
    return run_coroutine(lambda: load_async(job))


async def load_async(job: LoadJob) -> LoadReport:
    """Run a load as `load` does, for programs with an event loop. Leaves signals to the program.

    If its task is cancelled, calls in flight are cancelled, and the next load with the same ledger repeats them.
    """
    files = job.files
    planned = job.collection if isinstance(job.collection, PlannedCollection) else None
    collection = planned.collection if planned else job.collection
    assert isinstance(collection, Collection)  # noqa: S101 - for the types
    if not job.services.vectors_only and not collection.model:
        raise FailedPreconditionError(
            "MODEL_UNKNOWN",
            f"the vectors of {collection.name} ({collection.fingerprint}) come from elsewhere, so no embedder can make "
            "more; add ready vectors with import",
        )
    with Ledger(files.ledger) as ledger, RejectsFile(files.rejects) as rejects:
        has_images = planned is None and await asyncio.to_thread(job.client.count, collection.name) > 0
        identity = CollectionIdentity.of(collection)
        ledger.bind(replace(identity, create_time="") if planned else identity, restart=files.restart)
        ledger.add_aliases({files.alias} - {"", collection.name})
        options = replace(job.options, in_flight=job.services.in_flight)
        create = _create_and_bind(planned, ledger) if planned else None
        async with CollectionDestination(
            job.client, collection, job.services, options.retry_seconds, job.report.wait_for, create
        ) as destination:
            run = LoadRun(destination, ledger, options, job.report, rejects, keep_attributes=has_images)
            await _run(run, job.sources, job.report)
    return job.report


def dry_run(sources: Sequence[Source], files: LocalFiles, options: LoadOptions, report: LoadReport) -> None:
    """Read and decode what a load would load. Only the file of rejects is written. Raises LedgerError and OSError."""
    run_coroutine(lambda: dry_run_async(sources, files, options, report))


async def dry_run_async(sources: Sequence[Source], files: LocalFiles, options: LoadOptions, report: LoadReport) -> None:
    """Do a dry run as `dry_run` does, for programs with an event loop."""
    known = files.ledger if files.ledger is not None and files.ledger.exists() and not files.restart else None
    with Ledger(known, read_only=True) as ledger, RejectsFile(files.rejects) as rejects:
        await _run(LoadRun(DryRunDestination(), ledger, options, report, rejects), sources, report)


def _create_and_bind(planned: PlannedCollection, ledger: Ledger) -> Callable[[], Collection]:
    def create() -> Collection:
        created = planned.create()
        # Bind before the first image is recorded, so that a later collection of the same name cannot use the ledger.
        ledger.bind(CollectionIdentity.of(created))
        return created

    return create


async def _run(run: LoadRun, sources: Sequence[Source], report: LoadReport) -> None:
    await run.run(sources)
    # Sources of other programs may have no remarks.
    report.remarks += [remark for source in sources for remark in getattr(source, "remarks", ())]
