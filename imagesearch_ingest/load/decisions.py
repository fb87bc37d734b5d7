"""Decide what to do with an item, from what the ledger knows of it."""

from enum import Enum

from imagesearch_client.types import Embedding
from imagesearch_ingest.load.ledger_rows import ItemState, LedgerRow, metadata_digest
from imagesearch_ingest.load.load_options import LoadOptions
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


def decide(item: Item, known: LedgerRow | None, options: LoadOptions) -> Action:
    """Return what to do with an item. `known` is its row in the ledger; None if the item is new."""
    if known is None or known.state is ItemState.FREED or (known.state is ItemState.DUPLICATE and not options.dedup):
        return Action.LOAD
    # If the source knows neither size nor stamp, as of a URL in a list, the file counts as unchanged.
    is_same_file = item.size == known.size and item.stamp == known.stamp
    if known.state is ItemState.FAILED:
        retry = options.retry_failed or known.reason in TRANSIENT_REASONS
        return Action.SKIP_FAILED if is_same_file and has_same_metadata(item, known) and not retry else Action.LOAD
    if not is_same_file or (options.compare_content and not isinstance(item.content, Embedding)):
        return Action.LOAD
    return Action.SKIP if has_same_metadata(item, known) else Action.UPDATE_METADATA


def has_same_metadata(item: Item, known: LedgerRow) -> bool:
    """Return whether the id, the uri and the attributes of an item have not changed."""
    # The id of an item without one is the SHA-256 of its content, and changes only with the content.
    return known.metadata_digest == metadata_digest(item.id, item.uri, item.attributes)
