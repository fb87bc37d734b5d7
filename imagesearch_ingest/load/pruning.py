"""Removes the images of sources that these no longer have, unless that looks like a mistake."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import TypeAlias

from imagesearch_ingest.load.async_ledger import AsyncLedger
from imagesearch_ingest.load.destination import Destination, ImageMetadata
from imagesearch_ingest.load.ledger import ItemState, Ledger, LedgerRow
from imagesearch_ingest.load.report import LoadReport, MissingImages
from imagesearch_ingest.sources.items import Source

# The share of a source's images above which they are not removed without a question.
PRUNE_ABOVE = 0.2
# Guards the comparison of shares against rounding.
TINY = 1e-9

Confirm: TypeAlias = Callable[[Sequence[MissingImages]], bool]
"""Asks whether images are to be removed. It may block: it is called in a thread of its own."""


class Pruner:
    """Removes what was not met in a run, if everything that there is was met."""

    def __init__(
        self,
        destination: Destination,
        records: AsyncLedger,
        account: LoadReport,
        pool: Executor,
        *,
        above: float,
        confirm: Confirm | None,
    ) -> None:
        """Takes what it works with.

        Args:
            destination: where the images are.
            records: knows which images the sources had.
            account: counts them.
            pool: one of its threads waits for the answer.
            above: the share of a source's images that may be removed without a question.
            confirm: asks before anything is removed; None removes no more than `above`, and asks nobody.
        """
        self._destination = destination
        self._records = records
        self._account = account
        self._pool = pool
        self._above = above
        self._confirm = confirm
        self._asking: asyncio.Future[bool] | None = None
        self._given_up = False

    async def run(
        self,
        sources: Sequence[tuple[Source, int]],
        met: Mapping[int, int],
        incomplete: set[int],
        began: float,
    ) -> str:
        """Removes the images that are gone; returns why it does not, or the empty text.

        Args:
            sources: the sources of the run, each with its number.
            met: how many items each had, by number.
            incomplete: the numbers of those that could not be listed whole.
            began: when the run began, in seconds since 1970.

        Raises LedgerError and LoadStoppedError.
        """
        for source, number in sources:
            if refusal := _unlisted(source.name, bool(met.get(number)), number in incomplete):
                return refusal
        names = {number: source.name for source, number in sources}
        found = [await self._records.ask(Ledger.gone_of, number, name, began) for number, name in names.items()]
        self._account.gone = gone = [each for each in found if each.count]
        if not self._records.keeps:
            self._account.removed = sum(each.count for each in gone)
            return ""
        if gone and (refusal := await self._refusal(gone)):
            return refusal
        for number in names:
            pages = await self._records.ask(Ledger.gone, number)
            while not self._given_up and (rows := await self._records.next_of(pages)):
                await self._remove(rows)
        return ""

    def give_up(self) -> None:
        """Removes nothing more, and waits for no answer."""
        self._given_up = True
        if self._asking is not None:
            self._asking.cancel()

    async def _refusal(self, gone: Sequence[MissingImages]) -> str:
        """Return why the images are not to be removed; the empty text if they are."""
        if self._confirm is not None:
            return "" if await self._ask(self._confirm, gone) else "PRUNE_REFUSED: nothing was removed, as answered"
        large = [each for each in gone if each.count > self._above * each.known + TINY]
        if not large:
            return ""
        allowed = f"{100 * self._above:.4g} %"
        told = "; ".join(
            f"{each.count} of the {each.known} images of {each.source} are gone from it ({100 * each.share:.3g} %)"
            for each in large
        )
        needed = math.ceil(100 * max(each.share for each in large) - TINY)
        return (
            f"PRUNE_REFUSED: {told}, and more than {allowed} is often a disk that is not there; nothing "
            f"was removed. --prune --dry-run names them, --prune-above {needed}% removes them"
        )

    async def _ask(self, confirm: Confirm, gone: Sequence[MissingImages]) -> bool:
        self._asking = asyncio.get_running_loop().run_in_executor(self._pool, confirm, gone)
        try:
            return await self._asking
        except asyncio.CancelledError:
            if not self._given_up or ((task := asyncio.current_task()) is not None and task.cancelling()):
                raise
            return False

    async def _remove(self, rows: Sequence[LedgerRow]) -> None:
        """Removes images, except those that another load has replaced since, and forgets all of them."""
        others = await self._records.ask(Ledger.ids_of_others, [row.id for row in rows], rows)
        stored = [
            ImageMetadata(row.id, row.uri, None, row.sha256)
            for row in rows
            if row.id not in (others | {""})
            and row.state not in (ItemState.DUPLICATE, ItemState.FREED)
            and row.reason != "ID_INVALID"
        ]
        replaced = await self._destination.others(stored) if stored else set()
        if ids := sorted({image.id for image in stored} - replaced):
            await self._destination.delete(ids)
        await self._records.ask(Ledger.remove, rows)
        self._account.removed += len(rows) - len(replaced)


def _unlisted(name: str, has_images: bool, is_incomplete: bool) -> str:
    """Return why nobody knows what is gone from a source; the empty text if that is known."""
    if is_incomplete:
        return (
            f"PRUNE_REFUSED: {name} could not be listed whole, so that nobody knows what of it is gone; nothing was "
            "removed"
        )
    if not has_images:
        return (
            f"PRUNE_REFUSED: {name} has no image at all, which more often is a disk that is not there; nothing was "
            "removed. `imagesearch images delete` removes images whatever became of their files"
        )
    return ""
