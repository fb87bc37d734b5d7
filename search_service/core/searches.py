"""The values of a search: its request, its result, and the end of a page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from search_service.core.coarse_search import CoarseExplanation
from search_service.core.filters import Filter
from search_service.core.ports import After, RegionTally
from search_service.core.types import (
    Consistency,
    Embedding,
    EncodedImage,
    Hit,
    Index,
    Match,
    Region,
    SearchParameters,
    Vector,
    View,
)


@dataclass(frozen=True)
class StoredImageQuery:
    """A query by an image of the collection."""

    image_id: str


Example = EncodedImage | StoredImageQuery | Embedding


@dataclass(frozen=True)
class Examples:
    """A query by images that hits should be similar to, and images that hits should differ from."""

    positive: Sequence[Example]
    negative: Sequence[Example] = ()


@dataclass(frozen=True)
class GroupBy:
    """Return at most `size` hits with the same value of an attribute."""

    attribute: str
    size: int = 1


@dataclass(frozen=True)
class PageEnd:
    """The end of a page: the last hit, the query vector and the collection.

    The next pages come from the same collection, even if the request names an alias and the alias has moved.
    """

    after: After
    vector: Vector
    collection: str
    create_time: datetime
    """Creation time of the collection: distinguishes it from a later collection of the same name."""


@dataclass(frozen=True)
class Search:
    """A search request."""

    collection: str
    query: Example | Examples
    limit: int = 10
    min_score: float | None = None
    condition: Filter | None = None
    """Only images that meet the condition; None for all images."""
    group_by: GroupBy | None = None
    include_query: bool = False
    view: View = View.BASIC
    parameters: SearchParameters = field(default_factory=SearchParameters)
    coarse: int | None = None
    """Number of candidates that binary codes select; None to search by vectors alone."""
    consistency: Consistency | None = None
    """None for the consistency of the collection."""
    page: PageEnd | None = None
    """The end of the previous page; its vector replaces the query."""
    paged: bool = False
    """Whether the caller wants more pages."""
    match: Match = Match.IMAGES
    """What to compare with the query."""
    auto_crop: bool = False
    """Whether the query is the most salient part of its image."""


@dataclass(frozen=True)
class Explanation:
    """Where the time of a search went, in seconds."""

    index: Index
    embed_seconds: float
    store_seconds: float
    total_seconds: float
    coarse: CoarseExplanation | None = None
    """Only for a search with binary codes."""
    regions: RegionTally | None = None
    """Only for a search of regions."""


@dataclass(frozen=True)
class SearchResult:
    """The result of a search."""

    hits: list[Hit]
    """Ordered by score, best first; equal scores by distance, and then by id."""
    fingerprint: str
    """Fingerprint of the collection's vectors."""
    end: PageEnd | None
    """The end of this page; None if no hit follows, if the caller wants one page, or if hits are grouped."""
    explanation: Explanation
    query_region: Region | None = None
    """The part of the query image that was used; None if the query is no image, and on later pages."""
