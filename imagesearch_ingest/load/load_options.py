"""Options of a load."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from imagesearch_ingest.load.bulk_clients import Endpoint, image_batch_limits, vector_batch_limits
from imagesearch_ingest.load.limits import DEFAULT_READERS
from imagesearch_ingest.load.report import MissingImages

# The share of a source's images that a load removes without asking.
PRUNE_ABOVE = 0.2

Confirm: TypeAlias = Callable[[Sequence[MissingImages]], bool]
"""Ask whether missing images may be removed. It may block: the load calls it in a thread."""


@dataclass(frozen=True)
class LoadOptions:
    """What a load does."""

    in_flight: int = 64
    """Items in flight. A killed load repeats at most this many. A load into a collection sets it by its streams."""
    readers: int = DEFAULT_READERS
    """Files to read at a time."""
    retry_seconds: float = 300.0
    """Retry budget of a file, a listing or a service that fails with a transient error."""
    limit: int | None = None
    """Maximum number of items to load. Unchanged items do not count."""
    retry_failed: bool = False
    """Try images again that failed in earlier runs."""
    prune: bool = False
    """Remove images from the collection that the sources have no longer."""
    prune_above: float = PRUNE_ABOVE
    """The largest share of a source's images, from 0 to 1, that is removed if `confirm_prune` is None."""
    confirm_prune: Confirm | None = None
    """Asks before any image is removed; None never asks."""
    dedup: bool = False
    """Store only one image of those with equal content."""
    compare_content: bool = False
    """Read every file to see whether it has changed."""
    replace: bool = False
    """Store an image even if its id belongs to a file that another source still has."""

    def __post_init__(self) -> None:
        """Raise ValueError if a value is out of range."""
        if not 0 <= self.prune_above <= 1:
            raise ValueError(f"prune_above is {self.prune_above}; it must be between 0 and 1")


@dataclass(frozen=True)
class LocalFiles:
    """The local files of a load."""

    ledger: Path | None
    """None keeps the ledger in memory, so that other runs do not know this one."""
    rejects: Path | None = None
    """File for a line of JSON per image that is not stored; None writes no file."""
    restart: bool = False
    """Remove all items from the ledger before the load."""
    alias: str = ""
    """The alias by which the user named the collection, if any. The ledger remembers it."""


@dataclass(frozen=True)
class LoadServices:
    """The services that a load calls."""

    search: Endpoint
    embedder: Endpoint | None
    """None: the search service calls the embedder."""
    streams: int
    """Calls in flight that send images."""
    vectors_only: bool = False
    """Whether the sources have only ready vectors."""

    @property
    def in_flight(self) -> int:
        """The number of images in flight that keeps every stream busy."""
        if self.vectors_only:
            limits, factor = vector_batch_limits(ready=True), 2
        else:
            limits, factor = image_batch_limits(self.streams), 3 if self.embedder else 2
        return factor * limits.concurrency * limits.max_requests
