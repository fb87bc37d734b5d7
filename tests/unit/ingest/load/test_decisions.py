"""What a load does with an item."""

from dataclasses import replace
from pathlib import Path

import pytest

from imagesearch_ingest.load.decisions import Action, decide
from imagesearch_ingest.load.ledger_rows import ItemState, LedgerRow, row_of_item
from imagesearch_ingest.load.load_options import LoadOptions
from imagesearch_ingest.sources.items import Item


def item(**changes: object) -> Item:
    path = Path("/photos/a.jpg")
    return replace(Item("a.jpg", str(path), lambda _: b"", None, 10, "1"), **changes)  # type: ignore[arg-type]


DONE = replace(row_of_item(item(), ItemState.DONE), sha256="a" * 64)
FAILED = replace(DONE, state=ItemState.FAILED)
DUPLICATE = replace(DONE, state=ItemState.DUPLICATE, original="b.jpg")


@pytest.mark.parametrize(
    ("new", "known", "options", "action"),
    [
        (item(), None, {}, Action.LOAD),
        (item(), DONE, {}, Action.SKIP),
        (item(size=11), DONE, {}, Action.LOAD),
        (item(stamp="2"), DONE, {}, Action.LOAD),
        (item(), DONE, {"compare_content": True}, Action.LOAD),
        (item(attributes={"price": 1}), DONE, {}, Action.UPDATE_METADATA),
        (item(attributes={}), DONE, {}, Action.UPDATE_METADATA),
        (item(uri="/elsewhere/a.jpg"), DONE, {}, Action.UPDATE_METADATA),
        (item(size=11, attributes={"price": 1}), DONE, {}, Action.LOAD),
        (item(), FAILED, {}, Action.SKIP_FAILED),
        (item(), FAILED, {"retry_failed": True}, Action.LOAD),
        (item(stamp="2"), FAILED, {}, Action.LOAD),
        (item(), replace(FAILED, reason="IMAGE_CORRUPT"), {}, Action.SKIP_FAILED),
        (item(), replace(FAILED, reason="IMAGE_TOO_COSTLY"), {}, Action.SKIP_FAILED),
        (item(), replace(FAILED, reason="OUT_OF_MEMORY"), {}, Action.LOAD),
        (item(), replace(FAILED, reason="OVERLOADED"), {}, Action.LOAD),
        (item(), DUPLICATE, {"dedup": True}, Action.SKIP),
        (item(), DUPLICATE, {}, Action.LOAD),
        (item(), replace(DONE, state=ItemState.FREED), {}, Action.LOAD),
    ],
)
def test_decide_returns_the_expected_action(
    new: Item, known: LedgerRow | None, options: dict[str, bool], action: Action
) -> None:
    assert decide(new, known, LoadOptions(**options)) is action  # type: ignore[arg-type]


def test_same_number_of_another_type_is_a_changed_attribute() -> None:
    known = replace(row_of_item(item(attributes={"n": 1}), ItemState.DONE), sha256="a" * 64)
    for value in (1.0, True, "1", ["1"]):
        assert decide(item(attributes={"n": value}), known, LoadOptions()) is Action.UPDATE_METADATA
    assert decide(item(attributes={"n": 1}), known, LoadOptions()) is Action.SKIP
