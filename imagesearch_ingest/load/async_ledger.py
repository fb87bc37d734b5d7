"""The ledger for the event loop: its calls run in one thread, and rows are recorded in batches."""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Concatenate, ParamSpec, Self, TypeVar

from imagesearch_ingest.load.batcher import Batcher, BatchLimits, PendingRequest
from imagesearch_ingest.load.ledger import Ledger
from imagesearch_ingest.load.ledger_rows import LedgerRow

MAX_BATCH_ROWS = 1000

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class AsyncLedger:
    """A ledger for coroutines. Use it with `async with`. Every method raises LedgerError."""

    def __init__(self, ledger: Ledger, *, is_dry_run: bool) -> None:
        """Wrap a ledger. A dry run records nothing."""
        self._ledger = ledger
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._batcher = Batcher[tuple[LedgerRow, int], None](self._record_batch, BatchLimits(1, MAX_BATCH_ROWS, 1))
        self.is_dry_run = is_dry_run

    async def __aenter__(self) -> Self:
        """Start recording."""
        await self._batcher.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Wait until the current batch is written. The ledger stays open."""
        await self._batcher.__aexit__()
        self._thread.shutdown()

    @property
    def run(self) -> int:
        """The number of the current run."""
        return self._ledger.run

    async def call(
        self,
        method: Callable[Concatenate[Ledger, Arguments], Result],
        *arguments: Arguments.args,
        **options: Arguments.kwargs,
    ) -> Result:
        """Call a method of the ledger in its thread, and return the result."""
        return await self._in_thread(lambda: method(self._ledger, *arguments, **options))

    async def next_of(self, iterator: Iterator[Result]) -> Result | None:
        """Return the next element of an iterator over the ledger; None at its end."""
        return await self._in_thread(lambda: next(iterator, None))

    async def record(self, row: LedgerRow, source: int) -> None:
        """Record the outcome of an item, and return when it is written.

        A single cancellation of the caller does not interrupt the write.
        """
        recording = asyncio.ensure_future(self._batcher.submit((row, source)))
        try:
            await asyncio.shield(recording)
        except asyncio.CancelledError:
            if recording.cancelled():
                raise
            await recording

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _record_batch(self, batch: Sequence[PendingRequest[tuple[LedgerRow, int], None]]) -> None:
        if not self.is_dry_run:
            for source, pending in itertools.groupby(batch, lambda pending: pending.request[1]):
                rows = [each.request[0] for each in pending]
                await self._in_thread(partial(self._ledger.record, rows, source))
        for each in batch:
            each.set_result(None)
