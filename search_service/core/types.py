"""The plain values that the search service's core speaks."""

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
    """How fresh the data is that a read sees; the names are Milvus' own."""

    STRONG = "Strong"
    SESSION = "Session"
    BOUNDED = "Bounded"
    EVENTUALLY = "Eventually"


class View(Enum):
    """How much of an image is read."""

    ID = "id"
    TIMES = "times"
    """The id and when it was written and changed; the service's own."""
    BASIC = "basic"
    FULL = "full"


@dataclass(frozen=True)
class Region:
    """A box in fractions of an upright image's width and height."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class EncodedImage:
    """The bytes of an image file, and the part of the image that counts; None is the whole."""

    content: bytes
    region: Region | None = None


@dataclass(frozen=True)
class Embedding:
    """A vector, float32[D], and the fingerprint of the space that it lives in."""

    values: Vector
    fingerprint: str


@dataclass(frozen=True)
class KeptVector:
    """Stands for the vector that is stored under an image's id already."""


@dataclass(frozen=True)
class EmbedderModel:
    """What a collection must know of a model."""

    name: str
    dimension: int
    fingerprint: str


class IndexType(Enum):
    """What structure answers nearest-neighbour queries; the names are Milvus' own."""

    AUTOINDEX = "AUTOINDEX"
    FLAT = "FLAT"
    HNSW = "HNSW"
    IVF_FLAT = "IVF_FLAT"
    IVF_SQ8 = "IVF_SQ8"
    DISKANN = "DISKANN"


@dataclass(frozen=True)
class HnswParameters:
    """How an HNSW graph is built."""

    m: int = 16
    ef_construction: int = 200


@dataclass(frozen=True)
class IvfParameters:
    """How clusters are built."""

    nlist: int = 128


@dataclass(frozen=True)
class Index:
    """An index; the parameters are those of its type."""

    type: IndexType
    hnsw: HnswParameters | None = None
    ivf: IvfParameters | None = None


# What AUTOINDEX builds, and how well it finds neighbours, differs between releases of Milvus.
DEFAULT_INDEX = Index(IndexType.HNSW, hnsw=HnswParameters())


@dataclass(frozen=True)
class SearchParameters:
    """How an index is searched; None is its own default."""

    ef: int | None = None
    nprobe: int | None = None
    search_list: int | None = None
    exact: bool = False
    """Compare every vector."""


@dataclass(frozen=True)
class CodeSet:
    """The binary codes of a collection's images by one transform."""

    version: str
    """Of the transform."""
    number: int
    """Counts the collection's transforms, from 1 on."""
    bits: int
    create_time: datetime
    ready: bool = False
    """Whether every image was encoded."""

    @property
    def identity(self) -> tuple[str, datetime]:
        """What tells it from any other one, also from one of the same transform that was removed."""
        return self.version, self.create_time


@dataclass(frozen=True)
class Reindex:
    """A copy of a collection that is being built, and what writers of the collection do for it."""

    target: str
    """The copy. Deletes are applied to it as well."""
    target_create_time: datetime
    """Tells the copy from a later collection of the same name, which nobody may delete from."""
    begin_time: datetime
    hold_until: datetime | None = None
    """Until then writers wait, because the aliases are about to move; None lets them write."""
    moving: bool = False
    """The aliases move now: deletes are no longer applied to the copy, which may be in use by then."""

    def holds(self, now: datetime) -> bool:
        """Return whether writers wait."""
        return self.hold_until is not None and now < self.hold_until


@dataclass(frozen=True)
class Collection:
    """A set of images whose vectors can be compared with one another."""

    name: str
    dimension: int
    fingerprint: str
    create_time: datetime
    model: str = ""
    """The embedder's model that makes the vectors; empty where they are made elsewhere."""
    metric: Metric = Metric.COSINE
    index: Index = DEFAULT_INDEX
    consistency: Consistency = Consistency.BOUNDED
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    ttl: timedelta | None = None
    """How long an image is seen after its last change; None is for ever."""
    codes: Sequence[CodeSet] = ()
    """Those that every write keeps in step, the oldest first; the last one may not be ready yet."""
    reindex: Reindex | None = None
    """The copy that is being built of it; None if there is none."""

    @property
    def identity(self) -> tuple[str, datetime]:
        """What tells it from any other collection, also from a later one of the same name."""
        return self.name, self.create_time


@dataclass(frozen=True)
class Alias:
    """A second name of a collection."""

    name: str
    collection: str


@dataclass(frozen=True)
class StoredImage:
    """What is kept of an image. A field that a view leaves out has its default."""

    id: str
    uri: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    content_sha256: str = ""
    create_time: datetime | None = None
    update_time: datetime | None = None
    vector: Vector | None = None
    region: Region | None = None
    """The part of the original that the vector is of; None is the whole."""


@dataclass(frozen=True)
class Hit:
    """An image found. `score` is higher for a better match, `distance` lower; both by the collection's metric."""

    image: StoredImage
    score: float
    distance: float
