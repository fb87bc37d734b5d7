"""The values that the client takes and gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import TypeAlias, TypedDict

from grpc_kit.errors import ServiceError
from imagesearch_client.filters import Filter

AttributeValue: TypeAlias = str | bool | int | float | Sequence[str]


class Metric(Enum):
    """How vectors are compared; see the contract's Metric for the formulas."""

    COSINE = "cosine"
    L2 = "l2"
    IP = "ip"


@dataclass(frozen=True)
class Region:
    """A box in fractions of an upright image's width and height: (0, 0) is the top left corner."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Embedding:
    """A vector and the fingerprint of the space that it lives in."""

    values: Sequence[float]
    fingerprint: str


class Consistency(Enum):
    """How fresh the data is that a read sees; see the contract's Consistency."""

    STRONG = "strong"
    SESSION = "session"
    BOUNDED = "bounded"
    EVENTUALLY = "eventually"


class Index(Enum):
    """What answers the queries of a collection; Milvus Lite compares every vector whatever this says."""

    AUTOINDEX = "autoindex"
    FLAT = "flat"
    HNSW = "hnsw"
    IVF_FLAT = "ivf_flat"
    IVF_SQ8 = "ivf_sq8"
    DISKANN = "diskann"


@dataclass(frozen=True)
class ImageFile:
    """A query by an image's bytes, or by a region of it."""

    content: bytes
    region: Region | None = None


@dataclass(frozen=True)
class StoredImage:
    """A query by an image of the collection."""

    id: str


Example: TypeAlias = ImageFile | StoredImage | Embedding


@dataclass(frozen=True)
class Examples:
    """A query by images to be like, and images to be unlike."""

    positive: Sequence[Example]
    negative: Sequence[Example] = ()


Query: TypeAlias = Example | Examples


class SearchOptions(TypedDict, total=False):
    """What a search may be told beside its query; see the contract's SearchRequest."""

    limit: int
    """The most hits, 1 to 1,000; 10 where it is not said."""
    min_score: float | None
    """Leaves out hits that score less."""
    where: Filter | None
    """Only images that fit."""
    group_by: str
    """The attribute of whose values there are `group_size` hits at most."""
    group_size: int
    """1 where it is not said."""
    include_query: bool
    """Whether stored images of the query may be among the hits."""
    exact: bool
    """Compares every vector, whatever the index is."""
    strong: bool
    """Sees every write that was acknowledged before, which costs 0.2 s on a Milvus server."""
    ef: int | None
    """HNSW: candidates kept."""
    nprobe: int | None
    """IVF: clusters looked at."""


@dataclass(frozen=True)
class HnswParameters:
    """How an HNSW graph is built: the edges of a node, and the candidates looked at when a node is put in."""

    m: int = 16
    ef_construction: int = 200


@dataclass(frozen=True)
class IvfParameters:
    """How clusters are built: their number."""

    nlist: int = 128


IndexParameters: TypeAlias = HnswParameters | IvfParameters


@dataclass(frozen=True)
class Collection:
    """A set of images whose vectors can be compared with one another."""

    name: str
    model: str
    dimension: int
    fingerprint: str
    metric: Metric
    index: Index
    description: str
    labels: Mapping[str, str]
    create_time: datetime
    index_parameters: IndexParameters | None = None
    """None where the index has none."""
    consistency: Consistency = Consistency.BOUNDED
    ttl: timedelta | None = None
    """How long an image is kept after it was last written or changed; None is for ever."""


@dataclass(frozen=True)
class NewImage:
    """An image to write. Its source is the bytes of an image file, or a vector that was made before."""

    id: str
    source: bytes | Embedding
    uri: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    region: Region | None = None
    """The part of the image that the vector is of; None is the whole."""
    content_sha256: str = ""
    """Of the image file that a vector was made of; the service computes it of an image."""


@dataclass(frozen=True)
class WriteResult:
    """What came of an image to write: `error` is None where it is stored."""

    id: str
    error: ServiceError | None = None
    content_sha256: str = ""
    create_time: datetime | None = None
    """When it was stored, by the service's clock."""


@dataclass(frozen=True)
class Image:
    """A stored image; `embedding` only where it was asked for."""

    id: str
    uri: str
    attributes: Mapping[str, AttributeValue]
    content_sha256: str
    create_time: datetime
    update_time: datetime
    embedding: Embedding | None = None
    region: Region | None = None
    """The part of the original that the vector is of; None is the whole."""


@dataclass(frozen=True)
class Hit:
    """An image found: `score` is higher for a better match, `distance` lower."""

    image: Image
    score: float
    distance: float


@dataclass(frozen=True)
class Explanation:
    """How a search was answered: by which index, and where its time went in the service, in seconds."""

    index: Index
    index_parameters: IndexParameters | None
    embed_seconds: float
    """Of the query's images."""
    store_seconds: float
    """Of Milvus."""
    total_seconds: float
