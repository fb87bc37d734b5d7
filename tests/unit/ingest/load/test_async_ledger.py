"""The ledger for the event loop."""

import asyncio

import pytest

from imagesearch_ingest.load.async_ledger import AsyncLedger
from imagesearch_ingest.load.ledger import Ledger
from imagesearch_ingest.load.ledger_rows import ItemState, LedgerRow
from tests.unit.ingest.load.test_ledger import COLLECTION, row


async def test_cancelled_loads_finish_recording() -> None:
    """The search service has acknowledged the images already."""
    ledger = Ledger(None)
    ledger.bind(COLLECTION)
    ledger.source_number("/photos")
    ledger.start_run()
    stored: list[str] = []

    async def record_one(records: AsyncLedger, image: LedgerRow) -> None:
        await records.record(image, 1)
        stored.append(image.key)

    async with AsyncLedger(ledger, is_dry_run=False) as records:
        tasks = [asyncio.create_task(record_one(records, row(f"{number}.jpg"))) for number in range(10)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)
    assert len(stored) == 10
    assert ledger.counts() == {ItemState.DONE: 10}


@pytest.mark.parametrize("known", [False, True])
def test_read_only_ledger_counts_missing_items_and_writes_nothing(
    known: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "of.ledger"
    with Ledger(path) as ledger:
        ledger.bind(COLLECTION)
        ledger.start_run()
        ledger.record([row("a.jpg"), row("b.jpg")], ledger.source_number("/photos"))
    before = path.read_bytes()
    with Ledger(path, read_only=True) as ledger:
        number = ledger.source_number("/photos" if known else "/elsewhere")
        assert (number, ledger.source_name(number)) == ((1, "/photos") if known else (0, ""))
        ledger.start_run()
        assert ledger.look_up(["a.jpg", "c.jpg"]).keys() == {"a.jpg"}
        gone = ledger.count_missing(number, "/photos", began=2e10)
        assert (gone.count, gone.known, list(gone.names)) == ((1, 2, ["b.jpg"]) if known else (0, 0, []))
    assert path.read_bytes() == before
