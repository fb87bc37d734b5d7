"""A load: the items of some sources, each brought into a collection once, and accounted for."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from grpc_kit.errors import ServiceError
from imagesearch_client.types import Embedding
from imagesearch_ingest.event_loop import interrupted_by_signals
from imagesearch_ingest.load.async_ledger import AsyncLedger
from imagesearch_ingest.load.decisions import Action, decide
from imagesearch_ingest.load.destination import Destination
from imagesearch_ingest.load.id_conflicts import IdConflicts, ListedItem, conflict_within_run
from imagesearch_ingest.load.image_reader import DEFAULT_READERS, ImageReader
from imagesearch_ingest.load.in_flight_limit import InFlightLimit
from imagesearch_ingest.load.item_loader import ItemLoader, PendingItem
from imagesearch_ingest.load.ledger import ItemState, Ledger, LedgerError, LedgerRow
from imagesearch_ingest.load.pruning import PRUNE_ABOVE, Confirm, Pruner
from imagesearch_ingest.load.report import FORMAT_NOT_TAKEN, LoadReport, Reject, RejectsFile
from imagesearch_ingest.load.service_retries import LoadStoppedError
from imagesearch_ingest.sources.items import Fault, Item, SkippedFile, SkipReason, Source, SourceEntry, SourceError
from imagesearch_ingest.sources.retries import Retries, current

# Items that are looked up in the ledger together; fewer where they hold bytes.
LOOKED_UP = 500
LOOKED_UP_BYTES = 32 * 1024 * 1024
# Bytes of the files under way, and what is reckoned for one whose size nobody knows.
WINDOW_BYTES = 256 * 1024 * 1024
UNKNOWN_BYTES = 8 * 1024 * 1024
# Seconds after which those that were found are gone on with, where a source is slow.
LISTING_SECONDS = 1.0
# Seconds that calls in flight have left after the first signal.
GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class LoadOptions:
    """What a load does, and how much of it at a time."""

    window: int = 64
    """Items under way at a time: so many at most are done again when the process is killed."""
    readers: int = DEFAULT_READERS
    """Files that are read at a time."""
    patience: float = 300.0
    """Seconds that a file or a listing is tried again which cannot be read at the moment."""
    limit: int | None = None
    """Loads so many items at most; those that are skipped do not count."""
    retry_failed: bool = False
    """Tries again what failed in runs before."""
    prune: bool = False
    """Removes from the collection what the sources no longer have."""
    prune_above: float = PRUNE_ABOVE
    """The share of a source's images, from 0 to 1, above which nothing is removed if nobody is asked."""
    confirm_prune: Confirm | None = None
    """Asks whether images are to be removed; None asks nobody."""
    dedup: bool = False
    """Stores equal content once."""
    compare_content: bool = False
    """Reads every file, to see whether it has changed."""
    keep_attributes: bool = False
    """Looks for attributes that the collection has of items that the ledger does not know."""
    replace: bool = False
    """Stores an image also if its id is that of a file which another source has still."""

    def __post_init__(self) -> None:
        """Raises ValueError if a number is out of its bounds."""
        if not 0 <= self.prune_above <= 1:
            raise ValueError(f"prune_above is {self.prune_above}; it must be between 0 and 1")


class LoadRun:
    """One run over some sources. It can be begun again at any time, and does what is not done."""

    def __init__(
        self,
        destination: Destination,
        ledger: Ledger,
        options: LoadOptions,
        account: LoadReport,
        rejects: RejectsFile,
    ) -> None:
        """Takes what it works with: all of it is open, and the ledger is bound to the destination's collection."""
        self._destination = destination
        self._options = options
        self._account = account
        self._rejects = rejects
        # Every reader has room for a file.
        room = max(WINDOW_BYTES, options.readers * UNKNOWN_BYTES)
        self._window = InFlightLimit(max(options.window, options.readers), room)
        self._records = AsyncLedger(ledger, keeps=destination.keeps)
        # A source's iterator is used by one thread at a time.
        self._retries = Retries(options.patience, account.wait_for)
        self._listing = ThreadPoolExecutor(1, "listing", initializer=current.set, initargs=(self._retries,))
        self._readers = ImageReader(options.readers, options.patience, account.wait_for)
        self._bringer = ItemLoader(
            destination,
            self._records,
            account,
            self._readers,
            dedup=options.dedup,
            keep_attributes=options.keep_attributes,
        )
        self._pruner = Pruner(
            destination,
            self._records,
            account,
            self._listing,
            above=options.prune_above,
            confirm=options.confirm_prune,
        )
        self._twins = IdConflicts(self._records, self._readers.threads)
        # By key.
        self._under_way: dict[str, ListedItem] = {}
        self._begun = 0
        self._incomplete: set[int] = set()
        # Items of each source.
        self._met: Counter[int] = Counter()
        self._began = time.time()
        self._stopping = False

    async def run(self, sources: Sequence[Source]) -> None:
        """Loads all items, or as many as can be; the account says what came of it."""
        began = time.perf_counter()
        self._count(sources)
        try:
            async with self._records:
                with self._signals_heard():
                    await self._run(sources)
        except (LoadStoppedError, ServiceError) as stopped:
            self._stop(f"{stopped.reason}: {stopped.message}")
        except LedgerError as error:
            self._stop(f"LEDGER_UNUSABLE: {error}")
        except asyncio.CancelledError:
            # The grace period is over, or the second signal came: the next run does what is in flight.
            task = asyncio.current_task()
            if not self._account.interrupted or task is None:
                raise
            while task.cancelling():
                task.uncancel()
        finally:
            self._account.seconds = time.perf_counter() - began
            self._retries.stop()
            self._listing.shutdown(wait=False, cancel_futures=True)
            self._readers.close()

    async def _run(self, sources: Sequence[Source]) -> None:
        numbered = [(source, await self._records.ask(Ledger.source, source.name)) for source in sources]
        await self._pass_over(numbered)
        refusal = ""
        if self._options.prune and not self._stopping:
            refusal = await self._pruner.run(numbered, self._met, self._incomplete, self._began)
        if not self._stopping and self._records.keeps:
            await self._finish(numbered)
        if refusal and not self._account.interrupted:
            self._stop(refusal)

    async def _finish(self, numbered: Sequence[tuple[Source, int]]) -> None:
        """Does what can only be done when all items are recorded."""
        # Not before all is recorded: two files may have changed places.
        while not self._stopping and (left := await self._records.ask(Ledger.left_ids)):
            others = await self._records.ask(Ledger.ids_of_others, left)
            if gone := [image_id for image_id in left if image_id not in others]:
                await self._destination.delete(gone)
            await self._records.ask(Ledger.left_ids_removed, left)
        if await self._records.ask(Ledger.has_freed, [number for _, number in numbered]):
            # Duplicates whose originals have changed or are gone, and that were passed by then.
            await self._pass_over(numbered, freed_only=True)
        due = await self._records.ask(Ledger.uris_due)
        while not self._stopping and (found := await self._records.next_of(due)):
            row, uris = found
            if row.state is ItemState.DONE:
                await self._destination.tell_other_uris(row.id, uris)
            await self._records.ask(Ledger.uris_told, row)

    @contextmanager
    def _signals_heard(self) -> Iterator[None]:
        """The first one leaves calls in flight GRACE_SECONDS, and gives up the rest; the second one ends it now."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        ends: list[asyncio.TimerHandle] = []

        def interrupt() -> None:
            if self._account.interrupted:
                task.cancel()
                return
            self._account.interrupted = True
            self._stop("interrupted")
            self._bringer.give_up()
            self._pruner.give_up()
            ends.append(loop.call_later(GRACE_SECONDS, task.cancel))

        try:
            with interrupted_by_signals(interrupt):
                yield
        finally:
            for end in ends:
                end.cancel()

    def _count(self, sources: Sequence[Source]) -> None:
        """Counts the items beside the load, which does not wait for it."""

        def count() -> None:
            # What is wrong with a source is told where it is listed.
            with suppress(OSError, SourceError):
                counts = [source.count() for source in sources]
                if None not in counts:
                    self._account.expected = sum(filter(None, counts))

        threading.Thread(target=count, name="counting", daemon=True).start()

    def _stop(self, why: str) -> None:
        """Begins with no further item; `why` is empty where that is as it should be."""
        self._stopping = True
        self._account.stopped = self._account.stopped or why
        if why:
            self._retries.stop()
            self._readers.stop()
        self._destination.hurry()

    async def _pass_over(self, sources: Sequence[tuple[Source, int]], *, freed_only: bool = False) -> None:
        """Meets every item once, and loads those that are to be loaded."""
        await self._records.ask(Ledger.begin_run)
        async with asyncio.TaskGroup() as tasks:
            try:
                for source, number in sources:
                    await self._pass_over_one(source, number, tasks, freed_only=freed_only)
            except LoadStoppedError as stopped:
                self._stop(f"{stopped.reason}: {stopped.message}")
            except LedgerError as error:
                self._stop(f"LEDGER_UNUSABLE: {error}")
            except SourceError as error:
                # Standard input can be listed once only; the next run loads what is left.
                if not freed_only:
                    self._stop(f"SOURCE_UNUSABLE: {error}")
            except Exception as error:  # noqa: BLE001 - what is under way comes to its end whatever happens here
                self._stop(f"INTERNAL: {error!r}")
            self._destination.hurry()

    async def _pass_over_one(self, source: Source, number: int, tasks: asyncio.TaskGroup, *, freed_only: bool) -> None:
        loop = asyncio.get_running_loop()
        listing = iter(source)
        while not self._stopping and (found := await loop.run_in_executor(self._listing, _some_of, listing)):
            named = [_with_a_name(each) if isinstance(each, Item) else each for each in found]
            self._met[number] += sum(isinstance(each, Item) for each in named)
            # The files that are passed over too: the images that were stored from them are not gone.
            keys = [each.key for each in named if not isinstance(each, Fault) and each.key]
            # As they are before the ledger is asked: what ends meanwhile is not in its answer.
            met = dict(self._under_way)
            known = await self._records.ask(Ledger.meet, keys) if keys else {}
            if freed_only:
                named = self._freed(named, known)
            await self._meet(named, known, met, number, tasks)

    def _freed(self, found: Sequence[SourceEntry], known: dict[str, LedgerRow]) -> list[SourceEntry]:
        """Those that are freed, which were counted as what they were when they were met before."""
        freed = {key: row for key, row in known.items() if row.state is ItemState.FREED}
        named: list[SourceEntry] = []
        for each in found:
            if isinstance(each, Item) and (row := freed.pop(each.key, None)) is not None:
                named.append(each)
                self._account.met -= 1
                if row.last_time >= self._began:
                    self._account.duplicates -= 1
                else:
                    self._account.skipped -= 1
        return named

    async def _meet(
        self,
        found: Sequence[SourceEntry],
        known: dict[str, LedgerRow],
        met: dict[str, ListedItem],
        source: int,
        tasks: asyncio.TaskGroup,
    ) -> None:
        """Begins with items; `met` has those that this run has met already, by key."""
        twins = {} if self._options.replace else await self._twins.find(found, known, source)
        for each in found:
            if self._stopping:
                return
            if isinstance(each, SkippedFile):
                self._account.pass_over(each)
                if each.why is SkipReason.UNSUPPORTED:
                    self._write_reject(each, FORMAT_NOT_TAKEN, each.message)
                continue
            self._account.met += 1
            if isinstance(each, Fault):
                self._reject_fault(each, source)
                continue
            row = known.get(each.key)
            if row is not None and row.run == self._records.run:
                met.setdefault(each.key, ListedItem.of_row(row, each))
            if (seen := met.get(each.key)) is not None:
                self._meet_again(each, seen, source)
            elif (twin := twins.get(each.key)) is not None:
                self._reject_fault(twin, source)
            else:
                met[each.key] = ListedItem.of(each)
                await self._begin(PendingItem(each, row, source), tasks)

    def _reject_fault(self, fault: Fault, source: int) -> None:
        if fault.may_hide_items:
            self._incomplete.add(source)
        self._account.reject(Reject(fault.where, fault.reason, fault.message))
        self._write_reject(fault, fault.reason, fault.message)

    def _meet_again(self, item: Item, seen: ListedItem, source: int) -> None:
        """A key that this run has met before: an item that is listed twice, or two of one id."""
        if (fault := conflict_within_run(item, seen)) is None:
            self._account.skipped += 1
        else:
            self._reject_fault(fault, source)

    def _reject(self, item: Item, reason: str, message: str) -> None:
        self._account.reject(Reject(item.uri, reason, message))
        self._write_reject(item, reason, message)

    def _write_reject(self, rejected: SourceEntry, reason: str, message: str) -> None:
        """Write what is counted already; if that is not possible, the load stops, and the counts stay true."""
        try:
            self._rejects.write(rejected, reason, message)
        except LoadStoppedError as stopped:
            self._stop(f"{stopped.reason}: {stopped.message}")

    def _leave(self) -> None:
        """Counts an item that the next run does."""
        self._account.met -= 1
        self._account.left += 1

    async def _begin(self, task: PendingItem, tasks: asyncio.TaskGroup) -> None:
        """Decides on an item, and begins with it where there is something to do."""
        options = self._options
        action = decide(
            task.item,
            task.known,
            retry_failed=options.retry_failed,
            dedup=options.dedup,
            compare_content=options.compare_content,
        )
        if action is Action.SKIP:
            self._account.skipped += 1
        elif action is Action.LEAVE and task.known is not None:
            self._account.failed_before += 1
            self._reject(task.item, task.known.reason, task.known.message)
        elif options.limit is not None and self._begun >= options.limit:
            self._account.met -= 1
            self._stop("")
        else:
            self._begun += 1
            size = _size_of(task.item)
            await self._window.enter(size)
            if self._stopping:
                self._window.leave(size)
                self._leave()
                return
            self._under_way[task.item.key] = ListedItem.of(task.item)
            tasks.create_task(self._bring(task, action, size))

    async def _bring(self, task: PendingItem, action: Action, size: int) -> None:
        """Brings one item to its end, whatever that is."""
        held = size

        def sized(found: int) -> None:
            nonlocal held
            self._window.change(found - held)
            held = found

        try:
            try:
                await self._bringer.bring(task, action, sized, lambda: self._window.aside(held))
            except ServiceError as error:
                await self._bringer.fail(task, error)
                self._reject(task.item, error.reason, error.message)
        except asyncio.CancelledError:
            self._leave()
            if (running := asyncio.current_task()) is not None and running.cancelling():
                raise
        except LoadStoppedError as stopped:
            self._leave()
            self._stop(f"{stopped.reason}: {stopped.message}")
        except LedgerError as error:
            self._leave()
            self._stop(f"LEDGER_UNUSABLE: {error}")
        except Exception as error:  # noqa: BLE001 - a fault of this program; the others come to their end
            self._leave()
            self._stop(f"INTERNAL: {error!r}")
        finally:
            self._under_way.pop(task.item.key, None)
            self._window.leave(held)


def _some_of(listing: Iterator[SourceEntry]) -> list[SourceEntry]:
    """The next items of a source, not too many and not too large; none at its end."""
    found: list[SourceEntry] = []
    held = 0
    until = time.monotonic() + LISTING_SECONDS
    for each in listing:
        found.append(each)
        held += each.held if isinstance(each, Item) else 0
        if len(found) >= LOOKED_UP or held >= LOOKED_UP_BYTES or time.monotonic() > until:
            break
    return found


def _with_a_name(item: Item) -> Item | Fault:
    """The item, where all its names can be written down."""
    try:
        f"{item.id}{item.uri}".encode()
    except UnicodeEncodeError:
        shown = item.uri.encode(errors="backslashreplace").decode()
        return Fault(shown, "NAME_NOT_UTF8", "its path is not UTF-8, and so can be no uri", may_hide_items=False)
    return item


def _size_of(item: Item) -> int:
    """Bytes of its file that will be in memory."""
    if isinstance(item.content, Embedding):
        return 0
    return UNKNOWN_BYTES if item.size is None else item.size
