"""Remove the images that the sources have no longer, unless a source seems to be unavailable."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor

from imagesearch_ingest.load.async_ledger import AsyncLedger
from imagesearch_ingest.load.destination import Destination, ImageMetadata
from imagesearch_ingest.load.ledger import Ledger
from imagesearch_ingest.load.ledger_rows import ItemState, LedgerRow
from imagesearch_ingest.load.load_options import Confirm, LoadOptions
from imagesearch_ingest.load.report import LoadReport, MissingImages
from imagesearch_ingest.sources.items import Source

# Tolerance for rounding when shares are compared.
EPSILON = 1e-9


class Pruner:
    """Removes the images that a run has not listed, if every source was listed completely."""

    def __init__(
        self,
        destination: Destination,
        ledger: AsyncLedger,
        report: LoadReport,
        pool: Executor,
        options: LoadOptions,
    ) -> None:
        """Set what the pruner uses. `options.confirm_prune` runs in `pool`."""
        self._destination = destination
        self._ledger = ledger
        self._report = report
        self._pool = pool
        self._prune_above = options.prune_above
        self._confirm = options.confirm_prune
        self._question: asyncio.Future[bool] | None = None
        self._stopped = False

    async def run(
        self,
        sources: Sequence[tuple[Source, int]],
        item_counts: Mapping[int, int],
        incomplete: set[int],
        began: float,
    ) -> str:
        """Remove the missing images. Return why they are not removed; an empty string if they are.

        Args:
            sources: the sources of the run with their numbers.
            item_counts: the number of listed items, by the number of the source.
            incomplete: the numbers of sources that could not be listed completely.
            began: when the run began, as in `time.time`.

        Raises LedgerError and LoadStoppedError.
        """
        for source, number in sources:
            if refusal := _unreliable_listing(source.name, bool(item_counts.get(number)), number in incomplete):
                return refusal
        names = {number: source.name for source, number in sources}
        found = [await self._ledger.call(Ledger.count_missing, number, name, began) for number, name in names.items()]
        self._report.missing = missing = [each for each in found if each.count]
        if self._destination.is_dry_run:
            self._report.removed = sum(each.count for each in missing)
            return ""
        if missing and (refusal := await self._refusal(missing)):
            return refusal
        for number in names:
            chunks = await self._ledger.call(Ledger.missing, number)
            while not self._stopped and (rows := await self._ledger.next_of(chunks)):
                await self._remove(rows)
        return ""

    def stop(self) -> None:
        """Remove nothing more, and do not wait for the answer of `confirm`."""
        self._stopped = True
        if self._question is not None:
            self._question.cancel()

    async def _refusal(self, missing: Sequence[MissingImages]) -> str:
        """Return why the images are not removed; an empty string if they are."""
        if self._confirm is not None:
            is_confirmed = await self._ask(self._confirm, missing)
            return "" if is_confirmed else "PRUNE_REFUSED: the answer was no; nothing was removed"
        large = [each for each in missing if each.count > self._prune_above * each.known + EPSILON]
        if not large:
            return ""
        allowed = f"{100 * self._prune_above:.4g} %"
        shares = "; ".join(
            f"{each.count} of the {each.known} images of {each.source} are missing from it ({100 * each.share:.3g} %)"
            for each in large
        )
        needed = math.ceil(100 * max(each.share for each in large) - EPSILON)
        return (
            f"PRUNE_REFUSED: {shares}; the limit is {allowed}, because a disk may be unavailable. Nothing was removed. "
            f"--prune --dry-run names the images, --max-pruned {needed}% removes them"
        )

    async def _ask(self, confirm: Confirm, missing: Sequence[MissingImages]) -> bool:
        self._question = asyncio.get_running_loop().run_in_executor(self._pool, confirm, missing)
        try:
            return await self._question
        except asyncio.CancelledError:
            if not self._stopped or ((task := asyncio.current_task()) is not None and task.cancelling()):
                raise
            return False

    async def _remove(self, rows: Sequence[LedgerRow]) -> None:
        """Remove images from the collection and the ledger. Images that another load has replaced since stay stored."""
        others = await self._ledger.call(Ledger.ids_of_other_items, [row.id for row in rows], rows)
        stored = [
            ImageMetadata(row.id, row.uri, None, row.sha256)
            for row in rows
            if row.id not in (others | {""})
            and row.state not in (ItemState.DUPLICATE, ItemState.FREED)
            and row.reason != "ID_INVALID"
        ]
        replaced = await self._destination.ids_of_other_images(stored) if stored else set()
        if ids := sorted({image.id for image in stored} - replaced):
            await self._destination.delete(ids)
        await self._ledger.call(Ledger.remove, rows)
        self._report.removed += len(rows) - len(replaced)


def _unreliable_listing(name: str, has_items: bool, is_incomplete: bool) -> str:
    """Return why the listing of a source cannot tell which images are missing; an empty string if it can."""
    if is_incomplete:
        return (
            f"PRUNE_REFUSED: {name} could not be listed completely, so its missing images are unknown; nothing was "
            "removed"
        )
    if not has_items:
        return (
            f"PRUNE_REFUSED: {name} has no images, so a disk may be unavailable; nothing was removed. "
            "`imagesearch images delete` removes images, whatever became of their files"
        )
    return ""
