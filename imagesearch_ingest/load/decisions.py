"""What is to be done about an item, by what the ledger knows of it."""

from enum import Enum

from imagesearch_client.types import Embedding
from imagesearch_ingest.load.ledger import ItemState, LedgerRow, metadata_digest
from imagesearch_ingest.sources.items import Item

# Reasons that pass and are not faults of the image. The next run tries such images again.
TRANSIENT_REASONS = frozenset({
    "COLLECTION_LOADING",
    "COLLECTION_MOVED",
    "COLLECTION_MOVING",
    "MILVUS_FULL",
    "MILVUS_RATE_LIMITED",
    "OUT_OF_MEMORY",
    "OVERLOADED",
    "STREAM_IDLE",
    "UNREADABLE_NOW",
})  # fmt: skip


class Action(Enum):
    """What is to be done about an item."""

    SKIP = "skip"
    """It is as it was."""
    DESCRIBE = "describe"
    """Its content is as it was, and what is stored beside it is not."""
    LEAVE = "leave"
    """It failed, and is as it was."""
    LOAD = "load"


def decide(item: Item, known: LedgerRow | None, *, retry_failed: bool, dedup: bool, compare_content: bool) -> Action:
    """What is to be done about an item.

    Args:
        item: as the source has it now.
        known: its row in the ledger; None where there is none.
        retry_failed: tries again what failed; what failed by PASSING_REASONS is tried again in any case.
        dedup: leaves duplicates be.
        compare_content: reads every file, whatever its size and time of change say.
    """
    if known is None or known.state is ItemState.FREED or (known.state is ItemState.DUPLICATE and not dedup):
        return Action.LOAD
    # Where the source can tell nothing of a file, as of a URL in a list, it is taken to be the same.
    same = item.size == known.size and item.stamp == known.stamp
    if known.state is ItemState.FAILED:
        retry = retry_failed or known.reason in TRANSIENT_REASONS
        return Action.LEAVE if same and has_same_metadata(item, known) and not retry else Action.LOAD
    if not same or (compare_content and not isinstance(item.content, Embedding)):
        return Action.LOAD
    return Action.SKIP if has_same_metadata(item, known) else Action.DESCRIBE


def has_same_metadata(item: Item, known: LedgerRow) -> bool:
    """Whether what is stored beside an item's content is as it was."""
    # An id that is made of the content is the same as long as the content is.
    return known.about == metadata_digest(item.id, item.uri, item.attributes)
