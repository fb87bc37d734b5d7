"""A load: the items of some sources, each brought into a collection once, and accounted for."""

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from grpc_kit.errors import ServiceError
from imagesearch_client.bulk.accounts import Account, Reject, RejectsFile
from imagesearch_client.bulk.bringing import Bringer, Task
from imagesearch_client.bulk.decisions import Action, decide
from imagesearch_client.bulk.destinations import Destination
from imagesearch_client.bulk.ledger import Ledger, LedgerError, Row, State
from imagesearch_client.bulk.patience import LoadStoppedError
from imagesearch_client.bulk.records import Records
from imagesearch_client.bulk.window import Window
from imagesearch_client.sources.items import Fault, Found, Item, Passed, Source, SourceError, Why
from imagesearch_client.types import Embedding

# Items that are looked up in the ledger together; fewer where they hold bytes.
LOOKED_UP = 500
LOOKED_UP_BYTES = 32 * 1024 * 1024
# Bytes of the files under way, and what is reckoned for one whose size nobody knows.
WINDOW_BYTES = 256 * 1024 * 1024
UNKNOWN_BYTES = 8 * 1024 * 1024
# Seconds after which those that were found are gone on with, where a source is slow.
LISTING_SECONDS = 1.0


@dataclass(frozen=True)
class LoadOptions:
    """What a load does, and how much of it at a time."""

    window: int = 64
    """Items under way at a time: so many at most are done again when the process is killed."""
    readers: int = 8
    """Files that are read at a time."""
    limit: int | None = None
    """Loads so many items at most; those that are skipped do not count."""
    retry_failed: bool = False
    """Tries again what failed in runs before."""
    prune: bool = False
    """Removes from the collection what the sources no longer have."""
    dedup: bool = False
    """Stores equal content once."""
    compare_content: bool = False
    """Reads every file, to see whether it has changed."""
    keep_attributes: bool = False
    """Looks for attributes that the collection has of items that the ledger does not know."""


class Load:
    """One run over some sources. It can be begun again at any time, and does what is not done."""

    def __init__(
        self,
        destination: Destination,
        ledger: Ledger,
        options: LoadOptions,
        account: Account,
        rejects: RejectsFile,
    ) -> None:
        """Takes what it works with: all of it is open, and the ledger is bound to the destination's collection."""
        self._destination = destination
        self._options = options
        self._account = account
        self._rejects = rejects
        self._window = Window(options.window, WINDOW_BYTES)
        self._records = Records(ledger, keeps=destination.keeps)
        # A source's iterator is used by one thread at a time.
        self._listing = ThreadPoolExecutor(1, "listing")
        self._readers = ThreadPoolExecutor(options.readers, "reader")
        self._bringer = Bringer(
            destination,
            self._records,
            account,
            self._readers,
            dedup=options.dedup,
            keep_attributes=options.keep_attributes,
        )
        # The uri of each, by key.
        self._under_way: dict[str, str] = {}
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
            # The second signal: what is under way is given up, and done by the next run.
            task = asyncio.current_task()
            if not self._account.interrupted or task is None:
                raise
            task.uncancel()
        finally:
            self._account.seconds = time.perf_counter() - began
            for pool in (self._listing, self._readers):
                pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, sources: Sequence[Source]) -> None:
        numbered = [(source, await self._records.ask(Ledger.source, source.name)) for source in sources]
        await self._pass_over(numbered)
        if self._options.prune and not self._stopping:
            await self._prune(numbered)
        if self._stopping or not self._records.keeps:
            return
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
            if row.state is State.DONE:
                await self._destination.tell_other_uris(row.id, uris)
            await self._records.ask(Ledger.uris_told, row)

    @contextmanager
    def _signals_heard(self) -> Iterator[None]:
        """The first one ends the load when what is under way is done; the second one ends it now."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()

        def interrupt() -> None:
            if self._account.interrupted and task is not None:
                task.cancel()
            self._account.interrupted = True
            self._stop("interrupted")

        if threading.current_thread() is not threading.main_thread():
            # Only the main thread hears signals.
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            loop.add_signal_handler(number, interrupt)
        try:
            yield
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)

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
            keys = [each.key for each in named if isinstance(each, Item)]
            self._met[number] += len(keys)
            # As they are before the ledger is asked: what ends meanwhile is not in its answer.
            met = dict(self._under_way)
            known = await self._records.ask(Ledger.meet, keys) if keys else {}
            if freed_only:
                named = self._freed(named, known)
            await self._meet(named, known, met, number, tasks)

    def _freed(self, found: Sequence[Found], known: dict[str, Row]) -> list[Found]:
        """Those that are freed, which were counted as what they were when they were met before."""
        freed = {key: row for key, row in known.items() if row.state is State.FREED}
        named: list[Found] = []
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
        found: Sequence[Found],
        known: dict[str, Row],
        met: dict[str, str],
        source: int,
        tasks: asyncio.TaskGroup,
    ) -> None:
        """Begins with items; `met` has the uris of those that this run has met already, by key."""
        for each in found:
            if self._stopping:
                return
            if isinstance(each, Passed):
                self._account.pass_over(each)
                if each.why is Why.NOT_TAKEN:
                    self._rejects.write(each, "FORMAT_NOT_TAKEN", each.message)
                continue
            self._account.met += 1
            if isinstance(each, Fault):
                self._reject_fault(each, source)
                continue
            row = known.get(each.key)
            if row is not None and row.run == self._records.run:
                met.setdefault(each.key, row.uri)
            if (uri := met.get(each.key)) is not None:
                self._meet_again(each, uri, source)
                continue
            met[each.key] = each.uri
            await self._begin(Task(each, row, source), tasks)

    def _reject_fault(self, fault: Fault, source: int) -> None:
        if fault.hides:
            self._incomplete.add(source)
        self._account.reject(Reject(fault.where, fault.reason, fault.message))
        self._rejects.write(fault, fault.reason, fault.message)

    def _meet_again(self, item: Item, uri: str, source: int) -> None:
        """A key that this run has met before: a file that is listed twice, or two files of one id."""
        if uri == item.uri:
            self._account.skipped += 1
        else:
            message = f"its id {item.key!r} is that of {uri} as well; an id is of one image only"
            # In a file of rejects it is a remark: as a source it would take the other one's place.
            self._reject_fault(Fault(item.uri, "ID_TWICE", message, hides=False), source)

    def _reject(self, item: Item, reason: str, message: str) -> None:
        self._account.reject(Reject(item.uri, reason, message))
        self._rejects.write(item, reason, message)

    async def _begin(self, task: Task, tasks: asyncio.TaskGroup) -> None:
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
                return
            self._under_way[task.item.key] = task.item.uri
            tasks.create_task(self._bring(task, action, size))

    async def _bring(self, task: Task, action: Action, size: int) -> None:
        """Brings one item to its end, whatever that is."""
        held = size

        def sized(found: int) -> None:
            nonlocal held
            self._window.change(found - held)
            held = found

        try:
            try:
                await self._bringer.bring(task, action, sized)
            except ServiceError as error:
                await self._bringer.fail(task, error)
                self._reject(task.item, error.reason, error.message)
        except LoadStoppedError as stopped:
            self._stop(f"{stopped.reason}: {stopped.message}")
        except LedgerError as error:
            self._stop(f"LEDGER_UNUSABLE: {error}")
        except Exception as error:  # noqa: BLE001 - a fault of this program; the others come to their end
            self._stop(f"INTERNAL: {error!r}")
        finally:
            self._under_way.pop(task.item.key, None)
            self._window.leave(held)

    async def _prune(self, sources: Sequence[tuple[Source, int]]) -> None:
        """Removes what was not met, where all that there is was."""
        for source, number in sources:
            if number in self._incomplete:
                raise LoadStoppedError(
                    "PRUNE_REFUSED",
                    f"{source.name} could not be listed whole, so that nobody knows what of it is gone; nothing was "
                    "removed",
                )
            if not self._met[number]:
                raise LoadStoppedError(
                    "PRUNE_REFUSED",
                    f"{source.name} has no image at all, which more often is a disk that is not there; nothing was "
                    "removed. `imagesearch images delete` removes images whatever became of their files",
                )
        for _, number in sources:
            gone = await self._records.ask(Ledger.gone, number)
            while not self._stopping and (rows := await self._records.next_of(gone)):
                await self._remove(rows)

    async def _remove(self, rows: Sequence[Row]) -> None:
        others = await self._records.ask(Ledger.ids_of_others, [row.id for row in rows], rows)
        stored = {
            row.id for row in rows if row.state not in (State.DUPLICATE, State.FREED) and row.reason != "ID_INVALID"
        }
        if ids := sorted(stored - others - {""}):
            await self._destination.delete(ids)
        if self._records.keeps:
            await self._records.ask(Ledger.remove, rows)
        self._account.removed += len(rows)


def _some_of(listing: Iterator[Found]) -> list[Found]:
    """The next items of a source, not too many and not too large; none at its end."""
    found: list[Found] = []
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
        return Fault(shown, "NAME_NOT_UTF8", "its path is not UTF-8, and so can be no uri", hides=False)
    return item


def _size_of(item: Item) -> int:
    """Bytes of its file that will be in memory."""
    if isinstance(item.content, Embedding):
        return 0
    return UNKNOWN_BYTES if item.size is None else item.size
