"""One run of a load: list the items of some sources, load each one once, and account for it."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager

from grpc_kit.errors import ServiceError
from imagesearch_client.types import Embedding
from imagesearch_ingest.event_loop import interrupted_by_signals
from imagesearch_ingest.load.async_ledger import AsyncLedger
from imagesearch_ingest.load.decisions import Action, decide
from imagesearch_ingest.load.destination import Destination
from imagesearch_ingest.load.errors import LoadStoppedError
from imagesearch_ingest.load.id_conflicts import IdConflicts, ListedItem, conflict_within_run
from imagesearch_ingest.load.image_reader import ImageReader
from imagesearch_ingest.load.in_flight_limit import InFlightLimit
from imagesearch_ingest.load.item_loader import ItemLoader, PendingItem
from imagesearch_ingest.load.ledger import Ledger
from imagesearch_ingest.load.ledger_database import LedgerError
from imagesearch_ingest.load.ledger_rows import ItemState, LedgerRow
from imagesearch_ingest.load.load_options import LoadOptions
from imagesearch_ingest.load.pruning import Pruner
from imagesearch_ingest.load.rejects_file import RejectsFile
from imagesearch_ingest.load.report import FORMAT_UNSUPPORTED, LoadReport, Reject
from imagesearch_ingest.load.source_lister import SourceLister, count_in_background
from imagesearch_ingest.sources.items import Fault, Item, SkippedFile, SkipReason, Source, SourceEntry, SourceError

# Bytes of the files in flight, and the estimate for a file of unknown size.
IN_FLIGHT_BYTES = 256 * 1024 * 1024
UNKNOWN_BYTES = 8 * 1024 * 1024
# Seconds that calls in flight may take after the first signal.
GRACE_SECONDS = 5.0


class LoadRun:
    """One run over some sources. A later run with the same ledger loads what this one has left."""

    def __init__(
        self,
        destination: Destination,
        ledger: Ledger,
        options: LoadOptions,
        report: LoadReport,
        rejects: RejectsFile,
        *,
        keep_attributes: bool = False,
    ) -> None:
        """Set what the run uses. Everything is open, and the ledger is bound to the destination's collection.

        `keep_attributes` keeps stored attributes also of items that the ledger does not know.
        """
        self._destination = destination
        self._options = options
        self._report = report
        self._rejects = rejects
        # Every reader can hold a file of unknown size.
        max_bytes = max(IN_FLIGHT_BYTES, options.readers * UNKNOWN_BYTES)
        self._in_flight_limit = InFlightLimit(max(options.in_flight, options.readers), max_bytes)
        self._ledger = AsyncLedger(ledger, is_dry_run=destination.is_dry_run)
        self._lister = SourceLister(options.retry_seconds, report.wait_for)
        self._reader = ImageReader(options.readers, options.retry_seconds, report.wait_for)
        self._item_loader = ItemLoader(
            destination, self._ledger, report, self._reader, dedup=options.dedup, keep_attributes=keep_attributes
        )
        self._pruner = Pruner(destination, self._ledger, report, self._lister.thread, options)
        self._id_conflicts = IdConflicts(self._ledger, self._reader.threads)
        self._in_flight: dict[str, ListedItem] = {}
        self._started_items = 0
        self._incomplete_sources: set[int] = set()
        self._item_counts: Counter[int] = Counter()
        self._began = time.time()
        self._stopping = False

    async def run(self, sources: Sequence[Source]) -> None:
        """Load all items, or as many as possible. The report says what happened."""
        began = time.perf_counter()
        count_in_background(sources, self._report)
        try:
            async with self._ledger:
                with self._handle_signals():
                    await self._run(sources)
        except (LoadStoppedError, ServiceError, LedgerError) as error:
            self._stop_for(error)
        except asyncio.CancelledError:
            # The grace period is over, or the second signal came. The next run repeats the items in flight.
            task = asyncio.current_task()
            if not self._report.interrupted or task is None:
                raise
            while task.cancelling():
                task.uncancel()
        finally:
            self._report.seconds = time.perf_counter() - began
            self._lister.close()
            self._reader.close()

    async def _run(self, sources: Sequence[Source]) -> None:
        numbered = [(source, await self._ledger.call(Ledger.source_number, source.name)) for source in sources]
        await self._load_sources(numbered)
        refusal = ""
        if self._options.prune and not self._stopping:
            refusal = await self._pruner.run(numbered, self._item_counts, self._incomplete_sources, self._began)
        if not self._stopping and not self._destination.is_dry_run:
            await self._finish(numbered)
        if refusal and not self._report.interrupted:
            self._stop(refusal)

    async def _finish(self, sources: Sequence[tuple[Source, int]]) -> None:
        """Do what needs the outcome of all items."""
        # Two files may have swapped their ids, so abandoned ids are not removed earlier.
        while not self._stopping and (abandoned := await self._ledger.call(Ledger.abandoned_ids)):
            others = await self._ledger.call(Ledger.ids_of_other_items, abandoned)
            if unused := [image_id for image_id in abandoned if image_id not in others]:
                await self._destination.delete(unused)
            await self._ledger.call(Ledger.forget_abandoned_ids, abandoned)
        if await self._ledger.call(Ledger.has_freed, [number for _, number in sources]):
            # Load the duplicates that were skipped before their originals changed or disappeared.
            await self._load_sources(sources, freed_only=True)
        due = await self._ledger.call(Ledger.duplicate_uris_due)
        while not self._stopping and (found := await self._ledger.next_of(due)):
            row, uris = found
            if row.state is ItemState.DONE:
                await self._destination.store_duplicate_uris(row.id, uris)
            await self._ledger.call(Ledger.mark_duplicate_uris_stored, row)

    async def _load_sources(self, sources: Sequence[tuple[Source, int]], *, freed_only: bool = False) -> None:
        """List all sources once, and load the items that need it."""
        await self._ledger.call(Ledger.start_run)
        async with asyncio.TaskGroup() as tasks:
            try:
                for source, number in sources:
                    await self._load_source(source, number, tasks, freed_only=freed_only)
            except Exception as error:  # noqa: BLE001 - items in flight are finished whatever happens here
                # Standard input cannot be listed again. The next run loads its freed items.
                if not (freed_only and isinstance(error, SourceError)):
                    self._stop_for(error)
            self._destination.flush()

    async def _load_source(self, source: Source, number: int, tasks: asyncio.TaskGroup, *, freed_only: bool) -> None:
        async with aclosing(self._lister.chunks(source)) as chunks:
            while not self._stopping and (entries := await anext(chunks, None)):
                self._item_counts[number] += sum(isinstance(entry, Item) for entry in entries)
                # The keys of skipped files too, so that images stored from them are not pruned.
                keys = [entry.key for entry in entries if not isinstance(entry, Fault) and entry.key]
                # Copied before the ledger is asked: the answer does not contain items that finish meanwhile.
                listed = dict(self._in_flight)
                known = await self._ledger.call(Ledger.look_up, keys) if keys else {}
                if freed_only:
                    entries = self._freed_items(entries, known)
                await self._load_entries(entries, known, listed, number, tasks)

    def _freed_items(self, entries: Sequence[SourceEntry], known: Mapping[str, LedgerRow]) -> list[SourceEntry]:
        """Return the freed items, and take back how the first pass has counted them."""
        freed = {key: row for key, row in known.items() if row.state is ItemState.FREED}
        items: list[SourceEntry] = []
        for entry in entries:
            if isinstance(entry, Item) and (row := freed.pop(entry.key, None)) is not None:
                items.append(entry)
                self._report.listed -= 1
                if row.last_time >= self._began:
                    self._report.duplicates -= 1
                else:
                    self._report.skipped -= 1
        return items

    async def _load_entries(
        self,
        entries: Sequence[SourceEntry],
        known: Mapping[str, LedgerRow],
        listed: dict[str, ListedItem],
        source: int,
        tasks: asyncio.TaskGroup,
    ) -> None:
        """Start the items, and count the other entries. `listed` has the items in flight, by key."""
        conflicts = {} if self._options.replace else await self._id_conflicts.find(entries, known, source)
        for entry in entries:
            if self._stopping:
                return
            if isinstance(entry, SkippedFile):
                self._report.add_skipped_file(entry)
                if entry.reason is SkipReason.UNSUPPORTED:
                    self._write_reject(entry, FORMAT_UNSUPPORTED, entry.message)
                continue
            self._report.listed += 1
            if isinstance(entry, Fault):
                self._reject_fault(entry, source)
                continue
            row = known.get(entry.key)
            if row is not None and row.run == self._ledger.run:
                listed.setdefault(entry.key, ListedItem.of_row(row, entry))
            if (before := listed.get(entry.key)) is not None:
                if (fault := conflict_within_run(entry, before)) is None:
                    self._report.skipped += 1
                else:
                    self._reject_fault(fault, source)
            elif (conflict := conflicts.get(entry.key)) is not None:
                self._reject_fault(conflict, source)
            else:
                listed[entry.key] = ListedItem.of(entry)
                await self._start_item(PendingItem(entry, row, source), tasks)

    async def _start_item(self, pending: PendingItem, tasks: asyncio.TaskGroup) -> None:
        """Decide what to do with an item, and start a task if the item is to be loaded."""
        options, item = self._options, pending.item
        action = decide(item, pending.known, options)
        if action is Action.SKIP:
            self._report.skipped += 1
        elif action is Action.SKIP_FAILED and pending.known is not None:
            self._report.failed_before += 1
            self._reject_item(item, pending.known.reason, pending.known.message)
        elif options.limit is not None and self._started_items >= options.limit:
            self._report.listed -= 1
            self._stop("")
        else:
            self._started_items += 1
            size = _size_in_memory(item)
            await self._in_flight_limit.acquire(size)
            if self._stopping:
                self._in_flight_limit.release(size)
                self._count_unfinished()
                return
            self._in_flight[item.key] = ListedItem.of(item)
            tasks.create_task(self._load_item(pending, action, size))

    async def _load_item(self, pending: PendingItem, action: Action, size: int) -> None:
        acquired = size

        def on_read(found: int) -> None:
            nonlocal acquired
            self._in_flight_limit.resize(found - acquired)
            acquired = found

        try:
            try:
                await self._item_loader.load(
                    pending, action, on_read, lambda: self._in_flight_limit.released_while_waiting(acquired)
                )
            except ServiceError as error:
                await self._item_loader.record_failure(pending, error)
                self._reject_item(pending.item, error.reason, error.message)
        except asyncio.CancelledError:
            self._count_unfinished()
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
        except Exception as error:  # noqa: BLE001 - the other items in flight are finished
            self._count_unfinished()
            self._stop_for(error)
        finally:
            self._in_flight.pop(pending.item.key, None)
            self._in_flight_limit.release(acquired)

    def _reject_fault(self, fault: Fault, source: int) -> None:
        if fault.may_hide_items:
            self._incomplete_sources.add(source)
        self._report.add_reject(Reject(fault.where, fault.reason, fault.message))
        self._write_reject(fault, fault.reason, fault.message)

    def _reject_item(self, item: Item, reason: str, message: str) -> None:
        self._report.add_reject(Reject(item.uri, reason, message))
        self._write_reject(item, reason, message)

    def _write_reject(self, entry: SourceEntry, reason: str, message: str) -> None:
        # The reject is counted before, so that the counts are right even if the write fails.
        try:
            self._rejects.write(entry, reason, message)
        except LoadStoppedError as error:
            self._stop_for(error)

    def _count_unfinished(self) -> None:
        self._report.listed -= 1
        self._report.unfinished += 1

    def _stop_for(self, error: Exception) -> None:
        """Stop because of an error."""
        match error:
            case LoadStoppedError() | ServiceError():
                self._stop(f"{error.reason}: {error.message}")
            case LedgerError():
                self._stop(f"LEDGER_UNUSABLE: {error}")
            case SourceError():
                self._stop(f"SOURCE_UNUSABLE: {error}")
            case _:
                self._stop(f"INTERNAL: {error!r}")

    def _stop(self, why: str) -> None:
        """Start no further item; `why` is empty if the load stops as planned."""
        self._stopping = True
        self._report.stopped = self._report.stopped or why
        if why:
            self._lister.stop()
            self._reader.stop()
        self._destination.flush()

    @contextmanager
    def _handle_signals(self) -> Iterator[None]:
        """Give calls in flight GRACE_SECONDS after the first signal, and cancel them after the second one."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        timers: list[asyncio.TimerHandle] = []

        def interrupt() -> None:
            if self._report.interrupted:
                task.cancel()
                return
            self._report.interrupted = True
            self._stop("interrupted")
            self._item_loader.cancel_pending()
            self._pruner.stop()
            timers.append(loop.call_later(GRACE_SECONDS, task.cancel))

        try:
            with interrupted_by_signals(interrupt):
                yield
        finally:
            for timer in timers:
                timer.cancel()


def _size_in_memory(item: Item) -> int:
    """Return the bytes that the item's file will need in memory, or an estimate."""
    if isinstance(item.content, Embedding):
        # A single vector is as small as the other parts of an item.
        return sum(region.embedding.values.nbytes for region in item.regions)
    return UNKNOWN_BYTES if item.size is None else item.size
