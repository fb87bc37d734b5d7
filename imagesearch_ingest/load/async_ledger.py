"""The ledger as a load uses it: in a thread of its own, many records at a time."""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from imagesearch_ingest.load.batcher import Batcher, BatchLimits, PendingRequest
from imagesearch_ingest.load.ledger import Ledger, LedgerRow

TOGETHER = 1000

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class AsyncLedger:
    """A ledger, for the event loop; begins with `async with`. Every method raises LedgerError."""

    def __init__(self, ledger: Ledger, *, keeps: bool) -> None:
        """`keeps` is whether anything is written."""
        self._ledger = ledger
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._recording = Batcher[tuple[LedgerRow, int], None](self._record_all, BatchLimits(1, TOGETHER, 1))
        self.keeps = keeps

    async def __aenter__(self) -> Self:
        """Begins."""
        await self._recording.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends when what was begun is written; the ledger stays open."""
        await self._recording.__aexit__(kind, error, trace)
        self._thread.shutdown()

    @property
    def run(self) -> int:
        """The number of this run."""
        return self._ledger.run

    async def ask(
        self,
        method: Callable[Concatenate[Ledger, Arguments], Result],
        *arguments: Arguments.args,
        **options: Arguments.kwargs,
    ) -> Result:
        """What a method of the ledger says."""
        return await self._in_thread(lambda: method(self._ledger, *arguments, **options))

    async def next_of(self, some: Iterator[Result]) -> Result | None:
        """The next of what a method of the ledger gives one by one; None at its end."""
        return await self._in_thread(lambda: next(some, None))

    async def record(self, row: LedgerRow, source: int) -> None:
        """Keeps what has become of an item; it is kept when this returns, also if the caller is cancelled once."""
        recording = asyncio.ensure_future(self._recording.ask((row, source)))
        try:
            await asyncio.shield(recording)
        except asyncio.CancelledError:
            if recording.cancelled():
                raise
            await recording

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _record_all(self, batch: Sequence[PendingRequest[tuple[LedgerRow, int], None]]) -> None:
        if self.keeps:
            for source, entries in itertools.groupby(batch, lambda entry: entry.asked[1]):
                rows = [entry.asked[0] for entry in entries]
                await self._in_thread(partial(self._ledger.record, rows, source))
        for entry in batch:
            entry.give(None)
