"""The values that the clients accept and return."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple, TypeAlias, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grpc_kit.errors import ServiceError
from imagesearch_client.filters import Filter
from imagesearch_client.notebook import collection_html, hits_html, images_html

AttributeValue: TypeAlias = str | bool | int | float | Sequence[str]
ImageContent: TypeAlias = bytes | bytearray | memoryview | NDArray[np.uint8] | os.PathLike[str]
"""The bytes of an image file, or its path."""


class Metric(Enum):
    """How vectors are compared; the contract's Metric has the formulas."""

    COSINE = "cosine"
    L2 = "l2"
    IP = "ip"


@dataclass(frozen=True)
class Region:
    """A box in fractions of the width and height of the upright image: (0, 0) is the top left corner."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, init=False, eq=False)
class Embedding:
    """A vector and the fingerprint of its vector space. Two embeddings are equal if both are."""

    values: NDArray[np.float32]
    """Shape [dimension], read-only."""
    fingerprint: str

    def __init__(self, values: ArrayLike, fingerprint: str) -> None:
        """Accept any sequence of numbers. A float32 array is not copied. Raises TypeError, ValueError."""
        given = np.asarray(values)
        if given.dtype.kind not in "fiu":
            raise TypeError(f"the values of an embedding must be numbers, and no {given.dtype}")
        if given.ndim != 1:
            raise ValueError(f"the values of an embedding must have one dimension; the shape is {given.shape}")
        # The service names a value that is too large for a float32.
        with np.errstate(over="ignore"):
            vector = given.astype(np.float32, copy=False).view()
        vector.flags.writeable = False
        object.__setattr__(self, "values", vector)
        object.__setattr__(self, "fingerprint", fingerprint)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Embedding):
            return NotImplemented
        return self.fingerprint == other.fingerprint and np.array_equal(self.values, other.values)

    def __hash__(self) -> int:
        # -0.0 equals 0.0 and has other bytes; the sum is 0.0 for both.
        return hash((self.fingerprint, (self.values + np.float32(0)).tobytes()))


@dataclass(frozen=True)
class RegionEmbedding:
    """A region of an image with its vector."""

    box: Region
    """The box in the whole image."""
    embedding: Embedding
    saliency: float = 0.0
    """How much the region stands out from the rest of the image; higher stands out more."""


@dataclass(frozen=True)
class ImageRegions:
    """The vectors of an image and its regions."""

    embedding: Embedding
    """The vector of the whole image."""
    proposals: tuple[RegionEmbedding, ...]
    """The regions that the embedder proposes, the most salient first."""
    boxes: tuple[RegionEmbedding, ...]
    """The boxes of the call, in its order."""
    salient_box: Region
    """The box round the most salient part of the image."""


class Match(Enum):
    """What a search compares with the query."""

    IMAGES = "images"
    REGIONS = "regions"
    ALL = "all"
    """Whole images and their regions."""


class Consistency(Enum):
    """How fresh the data of a read is; see the contract's Consistency."""

    STRONG = "strong"
    SESSION = "session"
    BOUNDED = "bounded"
    EVENTUALLY = "eventually"


class Index(Enum):
    """The structure that answers searches. Milvus Lite compares every vector, whatever the index is."""

    AUTOINDEX = "autoindex"
    FLAT = "flat"
    HNSW = "hnsw"
    IVF_FLAT = "ivf_flat"
    IVF_SQ8 = "ivf_sq8"
    DISKANN = "diskann"


@dataclass(frozen=True)
class ImageFile:
    """A query by an image file, or by a region of it."""

    content: ImageContent
    region: Region | None = None


@dataclass(frozen=True)
class StoredImage:
    """A query by a stored image of the collection."""

    id: str


Example: TypeAlias = ImageFile | StoredImage | Embedding


@dataclass(frozen=True)
class Examples:
    """A query by images that hits should be similar to, and images that they should not be similar to."""

    positive: Sequence[Example]
    negative: Sequence[Example] = ()


Query: TypeAlias = Example | Examples


class SearchOptions(TypedDict, total=False):
    """The options of a search; see the contract's SearchRequest."""

    limit: int
    """Maximum number of hits, 1 to 1,000. Default: 10."""
    min_score: float | None
    """Minimum score of a hit."""
    where: Filter | None
    """Return only images that match."""
    group_by: str
    """Return at most `group_size` hits for each value of this attribute."""
    group_size: int
    """1 to 100. Default: 1."""
    include_query: bool
    """Whether stored images of the query can be hits."""
    exact: bool
    """Whether to compare every vector, whatever the index is."""
    strong: bool
    """Whether to see every write that was acknowledged before. It costs 0.2 s on a Milvus server."""
    ef: int | None
    """HNSW, AUTOINDEX: number of candidates, from the limit to 32,768."""
    nprobe: int | None
    """IVF: number of clusters to search."""
    search_list: int | None
    """DISKANN: number of candidates."""
    coarse: int | None
    """Number of candidates that binary codes choose, from the limit to 10,000; their vectors are then re-ranked. None
    compares vectors only. It needs a Milvus server."""
    match: Match | str
    """What to compare: "images" (the default), "regions" or "all". Each image is at most one hit."""
    auto_crop: bool
    """Whether the query is the most salient part of its image. It needs a collection with regions."""


@dataclass(frozen=True)
class HnswParameters:
    """How an HNSW graph is built: the edges of a node, and the candidates when a node is inserted."""

    m: int = 16
    ef_construction: int = 200


@dataclass(frozen=True)
class IvfParameters:
    """How the clusters of an IVF index are built: their number."""

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
    """None if the index has no parameters."""
    consistency: Consistency = Consistency.BOUNDED
    ttl: timedelta | None = None
    """How long an image is kept after its last change; None keeps it for ever."""
    max_regions: int = 0
    """Maximum number of regions of an image; 0 without regions."""

    def _repr_html_(self) -> str:
        return collection_html(self)


@dataclass(frozen=True)
class NewImage:
    """An image to write. `source` is an image file, or a vector."""

    id: str
    source: ImageContent | Embedding
    uri: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    region: Region | None = None
    """The part of the image to embed; None embeds the whole image."""
    content_sha256: str = ""
    """SHA-256 of the image file of a vector. For an image file the service computes it."""
    keep_attributes: bool = False
    """Whether the stored attributes of this id stay. `attributes` then adds to them; equal names are replaced."""
    regions: Sequence[RegionEmbedding] = ()
    """The regions of a vector. For an image file the embedder proposes them."""


@dataclass(frozen=True)
class WriteResult:
    """The result of an image to write. If `error` is None, the image is stored."""

    id: str
    error: ServiceError | None = None
    content_sha256: str = ""
    create_time: datetime | None = None
    """When the image was stored, by the service's clock."""


@dataclass(frozen=True)
class Image:
    """A stored image. `embedding` is None unless the call asked for vectors."""

    id: str
    uri: str
    attributes: Mapping[str, AttributeValue]
    content_sha256: str
    create_time: datetime
    update_time: datetime
    embedding: Embedding | None = None
    region: Region | None = None
    """The part of the original that was embedded; None means the whole."""
    regions: tuple[RegionEmbedding, ...] = ()
    """The regions that searches can match; empty unless the call asked for vectors."""

    def _repr_html_(self) -> str:
        return images_html([self])


@dataclass(frozen=True)
class Hit:
    """A result of a search: a better match has a higher `score` and a lower `distance`."""

    image: Image
    score: float
    distance: float
    region: Region | None = None
    """The part of the image that matched; None means the whole."""

    def _repr_html_(self) -> str:
        return hits_html([self])


class Hits(list[Hit]):
    """The hits of a search, best first. A notebook shows them as a table."""

    query_region: Region | None = None
    """The part of the query image that was used; None if the query was no image."""

    def _repr_html_(self) -> str:
        return hits_html(self)


class Images(list[Image]):
    """Images. A notebook shows them as a table."""

    def _repr_html_(self) -> str:
        return images_html(self)


class Page(NamedTuple):
    """A page of images."""

    images: Images
    next_page_token: str
    """Reads the next page; empty after the last page."""

    def _repr_html_(self) -> str:
        return images_html(self.images)


@dataclass(frozen=True)
class Model:
    """A model of the embedder: what it does to an image, and its limits."""

    name: str
    is_default: bool
    """Whether it embeds images of calls that name no model."""
    network: str
    dimension: int
    fingerprint: str
    """Identifies the space of its vectors."""
    input: str
    """How an image becomes the input of the network: squash, pad, crop or native."""
    input_size: int
    """Pixels of a side of the input."""
    head: str
    """How the last feature map becomes a vector."""
    preprocessing: str
    normalisation: str
    precision: str
    weights_sha256: str
    max_image_bytes: int
    max_image_pixels: int
    max_batch_size: int
    seconds_per_image: float
    """Measured at start in a full batch; 0 if it was not measured."""
    region_fingerprint: str = ""
    """Identifies the space of the vectors of images with regions; empty if the model cannot embed regions."""


@dataclass(frozen=True)
class Explanation:
    """How a search was answered: the index, and the seconds in the service."""

    index: Index
    index_parameters: IndexParameters | None
    embed_seconds: float
    """Embedding of the query images."""
    store_seconds: float
    """Milvus."""
    total_seconds: float
    coarse: "CoarseExplanation | None" = None
    """Set if the search had `coarse`."""
    regions: "RegionsExplanation | None" = None
    """Set if the search compared regions."""


@dataclass(frozen=True)
class CoarseExplanation:
    """How a search by binary codes was answered. Both times are parts of `store_seconds`."""

    version: str
    """The version of the transform of the codes."""
    bits: int
    candidates: int
    """Number of candidates that the codes chose."""
    coarse_seconds: float
    fine_seconds: float


@dataclass(frozen=True)
class RegionsExplanation:
    """How a search of regions was answered."""

    regions: int
    """Number of regions that were read."""
    searches: int
    """Number of searches in the vector store."""


@dataclass(frozen=True)
class CodeSet:
    """The binary codes of a collection's images, made with one transform."""

    version: str
    """A hash of the rows of the transform."""
    number: int
    """Number of the set among the sets of its collection, from 1."""
    bits: int
    create_time: datetime
    ready: bool
    """Whether every image was encoded, so that searches can use the codes."""


@dataclass(frozen=True)
class CodeSetStatus:
    """A set of codes and its size."""

    codes: CodeSet
    code_count: int
    code_bytes: int
    """Size of the codes without ids."""


@dataclass(frozen=True)
class CodesStatus:
    """The codes of a collection: none, one set, or a ready set and a newer one that is not ready."""

    collection: str
    sets: Sequence[CodeSetStatus]
    image_count: int


@dataclass(frozen=True)
class Encoding:
    """The progress of an encoding."""

    image_count: int
    """Images at the beginning."""
    checked: int
    """Images that were checked. An image that changes meanwhile counts more than once."""
    encoded: int
    removed: int
    """Codes that were removed because their image is gone."""
    codes: CodeSet | None
    """The codes, which are ready; None before the end."""
