"""Decide what to do with an item, from what the ledger knows of it."""

from enum import Enum

from imagesearch_client.types import Embedding
from imagesearch_ingest.load.ledger_rows import ItemState, LedgerRow, metadata_digest
from imagesearch_ingest.sources.items import Item

# Reasons of transient failures. Every run tries such images again.
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
    """What to do with an item."""

    SKIP = "skip"
    """The item has not changed."""
    UPDATE_METADATA = "update metadata"
    """The content has not changed, but the uri or the attributes have."""
    SKIP_FAILED = "skip failed"
    """The item failed in an earlier run, and has not changed."""
    LOAD = "load"


def decide(item: Item, known: LedgerRow | None, *, retry_failed: bool, dedup: bool, compare_content: bool) -> Action:
    """Return what to do with an item.

    Args:
        item: the item as the source lists it now.
        known: the item's row in the ledger; None if the item is new.
        retry_failed: try failed items again. Items that failed for one of TRANSIENT_REASONS are always tried again.
        dedup: do not load duplicates.
        compare_content: read every file, even if its size and modification time have not changed.
    """
    if known is None or known.state is ItemState.FREED or (known.state is ItemState.DUPLICATE and not dedup):
        return Action.LOAD
    # If the source knows neither size nor stamp, as of a URL in a list, the file counts as unchanged.
    is_same_file = item.size == known.size and item.stamp == known.stamp
    if known.state is ItemState.FAILED:
        retry = retry_failed or known.reason in TRANSIENT_REASONS
        return Action.SKIP_FAILED if is_same_file and has_same_metadata(item, known) and not retry else Action.LOAD
    if not is_same_file or (compare_content and not isinstance(item.content, Embedding)):
        return Action.LOAD
    return Action.SKIP if has_same_metadata(item, known) else Action.UPDATE_METADATA


def has_same_metadata(item: Item, known: LedgerRow) -> bool:
    """Return whether the id, the uri and the attributes of an item have not changed."""
    # The id of an item without one is the SHA-256 of its content, and changes only with the content.
    return known.metadata_digest == metadata_digest(item.id, item.uri, item.attributes)
