"""The rows of a ledger: what is known of each item."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Self

from imagesearch_client.types import AttributeValue, Collection
from imagesearch_ingest.sources.items import Item


class ItemState(Enum):
    """The outcome of an item."""

    DONE = "done"
    """The search service has acknowledged the image."""
    FAILED = "failed"
    DUPLICATE = "duplicate"
    """Another item with the same content is stored instead."""
    FREED = "freed"
    """It was a duplicate of an item that is missing now or has changed. The next pass loads it."""


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What the ledger knows of an item."""

    key: str
    id: str
    uri: str
    size: int | None
    stamp: str
    sha256: str
    """SHA-256 of the content, 64 hexadecimal digits; empty if the item was never read."""
    metadata_digest: str
    """Digest of the id, the uri and the attributes."""
    state: ItemState
    reason: str = ""
    message: str = ""
    original: str = ""
    """The key of the stored item with the same content, if this one is a duplicate."""
    run: int = 0
    """The last run that listed the item. Set by the ledger."""
    last_time: float = 0.0
    """When the item was last recorded, in seconds since 1970. Set by the ledger."""
    source: int = 0
    """The number of the item's source. Set by the ledger."""


@dataclass(frozen=True)
class CollectionIdentity:
    """Identifies one collection, also among collections that had the same name at other times."""

    collection: str
    create_time: str
    """ISO 8601; empty if the collection does not exist yet."""
    fingerprint: str

    @classmethod
    def of(cls, collection: Collection) -> Self:
        """Return the identity of a collection."""
        return cls(collection.name, collection.create_time.isoformat(), collection.fingerprint)


def metadata_digest(image_id: str, uri: str, attributes: Mapping[str, AttributeValue] | None) -> str:
    """Return a digest of what is stored with an image besides its content; 32 hexadecimal digits."""
    text = json.dumps([image_id, uri, attributes], sort_keys=True, default=list)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def row_of_item(item: Item, state: ItemState, reason: str = "", message: str = "") -> LedgerRow:
    """Return the row of an item that was not read."""
    return LedgerRow(
        key=item.key,
        id=item.id,
        uri=item.uri,
        size=item.size,
        stamp=item.stamp,
        sha256=item.content_sha256,
        metadata_digest=metadata_digest(item.id, item.uri, item.attributes),
        state=state,
        reason=reason,
        message=message,
    )
