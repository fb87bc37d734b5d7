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
    """HNSW, AUTOINDEX: candidates kept."""
    nprobe: int | None
    """IVF: clusters looked at."""
    search_list: int | None
    """DISKANN: candidates kept."""
    coarse: int | None
    """Searches from coarse to fine: so many candidates by their binary codes, compared by their vectors. From the limit
    to 10,000; None searches by vectors alone."""


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
    keep_attributes: bool = False
    """Whether stored attributes of this id stay; those of `attributes` are added or replace one of their name."""


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
    coarse: "CoarseExplanation | None" = None
    """Of a search from coarse to fine."""


@dataclass(frozen=True)
class CoarseExplanation:
    """How a search from coarse to fine was answered. Both times are parts of `store_seconds`."""

    version: str
    """Of the codes' transform."""
    bits: int
    candidates: int
    """That the codes gave."""
    coarse_seconds: float
    fine_seconds: float


@dataclass(frozen=True)
class CodeSet:
    """The binary codes of a collection's images by one transform."""

    version: str
    """Of the transform: a hash of its rows."""
    number: int
    """Counts the collection's transforms, from 1 on."""
    bits: int
    create_time: datetime
    ready: bool
    """Whether every image was encoded, so that searches can use them."""


@dataclass(frozen=True)
class CodeSetStatus:
    """A set of codes and its size."""

    codes: CodeSet
    code_count: int
    code_bytes: int
    """Of the codes alone."""


@dataclass(frozen=True)
class CodesStatus:
    """The codes of a collection: no set, one, or beside one that is ready one that is not; the oldest first."""

    collection: str
    sets: Sequence[CodeSetStatus]
    image_count: int


@dataclass(frozen=True)
class Encoding:
    """How far an encoding is."""

    image_count: int
    """At the beginning."""
    checked: int
    """Images looked at; more than once where some change meanwhile."""
    encoded: int
    removed: int
    """Codes without an image."""
    codes: CodeSet | None
    """At the end: the codes, which are ready."""
