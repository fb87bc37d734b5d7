"""The plain values of the search service's core."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

# float32[D]
Vector: TypeAlias = NDArray[np.float32]
AttributeValue: TypeAlias = str | bool | int | float | Sequence[str]


class Metric(Enum):
    """How two vectors are compared."""

    COSINE = "COSINE"
    L2 = "L2"
    IP = "IP"


class Consistency(Enum):
    """Which writes a read sees; the names are those of Milvus."""

    STRONG = "Strong"
    SESSION = "Session"
    BOUNDED = "Bounded"
    EVENTUALLY = "Eventually"


class Match(Enum):
    """What a search compares with the query."""

    IMAGES = "images"
    REGIONS = "regions"
    ALL = "all"
    """Whole images and their regions."""


class View(Enum):
    """Which fields of an image are read."""

    ID = "id"
    TIMES = "times"
    """The id and both times. Only for the service; callers cannot ask for it."""
    BASIC = "basic"
    VECTOR = "vector"
    """All fields but the regions."""
    FULL = "full"


@dataclass(frozen=True)
class Region:
    """A box in fractions of the width and the height of an upright image."""

    x0: float
    y0: float
    x1: float
    y1: float


WHOLE_IMAGE = Region(0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class EncodedImage:
    """The bytes of an image file, and the part of the image to embed; None for the whole image."""

    content: bytes
    region: Region | None = None


@dataclass(frozen=True)
class Embedding:
    """A vector, float32[D], and its fingerprint."""

    values: Vector
    fingerprint: str


@dataclass(frozen=True)
class StoredRegion:
    """A region of an image: its box, its vector, float32[D], and how much it stands out."""

    box: Region
    vector: Vector
    saliency: float = 0.0


@dataclass(frozen=True)
class EmbeddedRegions:
    """The embedding of an image, its regions, most salient first, and the box round its most salient part."""

    embedding: Embedding
    regions: tuple[StoredRegion, ...]
    salient_box: Region


@dataclass(frozen=True)
class KeptVector:
    """The vector that is already stored under the id of the image."""


@dataclass(frozen=True)
class EmbedderModel:
    """The properties of a model that a collection records."""

    name: str
    dimension: int
    fingerprint: str
    region_fingerprint: str = ""
    """The fingerprint of vectors of regions; empty if the model cannot embed regions."""
    head: str = ""
    input: str = ""


class IndexType(Enum):
    """The structure that answers searches; the names are those of Milvus."""

    AUTOINDEX = "AUTOINDEX"
    FLAT = "FLAT"
    HNSW = "HNSW"
    IVF_FLAT = "IVF_FLAT"
    IVF_SQ8 = "IVF_SQ8"
    DISKANN = "DISKANN"


@dataclass(frozen=True)
class HnswParameters:
    """Build parameters of an HNSW graph."""

    m: int = 16
    ef_construction: int = 200


@dataclass(frozen=True)
class IvfParameters:
    """Build parameters of clusters."""

    nlist: int = 128


@dataclass(frozen=True)
class Index:
    """An index with the build parameters of its type."""

    type: IndexType
    hnsw: HnswParameters | None = None
    ivf: IvfParameters | None = None


# Not AUTOINDEX: its structure and its recall differ between releases of Milvus.
DEFAULT_INDEX = Index(IndexType.HNSW, hnsw=HnswParameters())


@dataclass(frozen=True)
class SearchParameters:
    """Search parameters of an index; None for its default."""

    ef: int | None = None
    nprobe: int | None = None
    search_list: int | None = None
    exact: bool = False
    """Compare every vector."""


@dataclass(frozen=True)
class CodeSet:
    """The binary codes of the images of a collection, made with one transform."""

    version: str
    """Version of the transform."""
    number: int
    """Number among the sets of the collection, from 1."""
    bits: int
    create_time: datetime
    ready: bool = False
    """Whether every image is encoded."""

    @property
    def identity(self) -> tuple[str, datetime]:
        """Return what distinguishes this set from all others, including a deleted set of the same transform."""
        return self.version, self.create_time


@dataclass(frozen=True)
class Reindex:
    """A reindex that runs: the copy that is being built, and what writers must do."""

    target: str
    """Name of the copy. Deletions are also applied to it."""
    target_create_time: datetime
    """Distinguishes the copy from a later collection of the same name."""
    begin_time: datetime
    hold_until: datetime | None = None
    """Writers wait until this time, because the aliases are about to move; None if they do not wait."""
    moving: bool = False
    """Whether the aliases move now. Then deletions are no longer applied to the copy, which may be in use."""

    def holds(self, now: datetime) -> bool:
        """Return whether writers must wait at a time."""
        return self.hold_until is not None and now < self.hold_until


@dataclass(frozen=True)
class Collection:
    """Images with vectors of one fingerprint."""

    name: str
    dimension: int
    fingerprint: str
    create_time: datetime
    model: str = ""
    """The embedder's model for the vectors; empty if they come from elsewhere."""
    metric: Metric = Metric.COSINE
    index: Index = DEFAULT_INDEX
    consistency: Consistency = Consistency.BOUNDED
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    ttl: timedelta | None = None
    """How long an image is kept after its last change; None forever."""
    codes: Sequence[CodeSet] = ()
    """The code sets that every write updates, oldest first. The last one may not be ready."""
    reindex: Reindex | None = None
    """The reindex that runs; None if none does."""
    max_regions: int = 0
    """Maximum number of regions of an image; 0 without regions."""

    @property
    def identity(self) -> tuple[str, datetime]:
        """Return what distinguishes this collection from all others, including a later one of the same name."""
        return self.name, self.create_time


@dataclass(frozen=True)
class Alias:
    """A second name of a collection."""

    name: str
    collection: str


@dataclass(frozen=True)
class StoredImage:
    """A stored image. Fields that a view leaves out have their defaults."""

    id: str
    uri: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    content_sha256: str = ""
    create_time: datetime | None = None
    update_time: datetime | None = None
    vector: Vector | None = None
    region: Region | None = None
    """The part of the image that the vector describes; None for the whole image."""
    regions: tuple[StoredRegion, ...] = ()
    """The regions with their vectors; only in collections with regions."""
    generation: int = 0
    """The write that the regions belong to; only in collections with regions. The store sets it."""
    region_count: int = 0
    """Number of regions of the generation. The store sets it."""


@dataclass(frozen=True)
class Hit:
    """An image that a search found. A better match has a higher score and a lower distance."""

    image: StoredImage
    score: float
    distance: float
    region: Region | None = None
    """The region that matched; None if whole images were compared."""


@dataclass(frozen=True)
class RegionHit:
    """A region that a search found, with its image and its generation."""

    image_id: str
    generation: int
    box: Region
    score: float
    distance: float
