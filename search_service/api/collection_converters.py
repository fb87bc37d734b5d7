"""Convert messages of collections to plain values and back."""

from imagesearch.search.v1 import collection_pb2

from grpc_kit.errors import InvalidArgumentError
from search_service.api.converters import CONSISTENCIES, consistency_from, duration_from, timestamp_to, unknown_enum
from search_service.core.collections import NewCollection
from search_service.core.types import (
    DEFAULT_INDEX,
    Collection,
    Consistency,
    HnswParameters,
    Index,
    IndexType,
    IvfParameters,
    Metric,
)

METRICS = {
    collection_pb2.METRIC_UNSPECIFIED: Metric.COSINE,
    collection_pb2.METRIC_COSINE: Metric.COSINE,
    collection_pb2.METRIC_L2: Metric.L2,
    collection_pb2.METRIC_IP: Metric.IP,
}
INDEX_NUMBERS = {
    IndexType.AUTOINDEX: collection_pb2.INDEX_TYPE_AUTOINDEX,
    IndexType.FLAT: collection_pb2.INDEX_TYPE_FLAT,
    IndexType.HNSW: collection_pb2.INDEX_TYPE_HNSW,
    IndexType.IVF_FLAT: collection_pb2.INDEX_TYPE_IVF_FLAT,
    IndexType.IVF_SQ8: collection_pb2.INDEX_TYPE_IVF_SQ8,
    IndexType.DISKANN: collection_pb2.INDEX_TYPE_DISKANN,
}
INDEX_TYPES = {
    collection_pb2.INDEX_TYPE_UNSPECIFIED: DEFAULT_INDEX.type,
    **{number: kind for kind, number in INDEX_NUMBERS.items()},
}
METRIC_NUMBERS = {
    Metric.COSINE: collection_pb2.METRIC_COSINE,
    Metric.L2: collection_pb2.METRIC_L2,
    Metric.IP: collection_pb2.METRIC_IP,
}
CONSISTENCY_NUMBERS = {meaning: number for number, meaning in CONSISTENCIES.items()}


def metric_from(number: int, field: str) -> Metric:
    """Return a metric. Raises InvalidArgumentError for an unknown number."""
    if number not in METRICS:
        raise unknown_enum(number, field, collection_pb2.Metric.keys())
    return METRICS[collection_pb2.Metric.ValueType(number)]


def new_collection_from(message: collection_pb2.Collection) -> NewCollection:
    """Return the collection of a CreateCollectionRequest. Raises InvalidArgumentError."""
    return NewCollection(
        name=message.name,
        # Only spaces count as empty: the default model of the embedder, or no model.
        model=message.model.strip(),
        dimension=message.dimension,
        fingerprint=message.fingerprint,
        metric=metric_from(message.metric, "collection.metric"),
        index=index_from(message.index, "collection.index"),
        consistency=consistency_from(message.consistency, "collection.consistency") or Consistency.BOUNDED,
        description=message.description,
        labels=dict(message.labels),
        ttl=duration_from(message.ttl) if message.HasField("ttl") else None,
        max_regions=message.max_regions,
    )


def index_from(message: collection_pb2.Index, field: str) -> Index:
    """Return an index with the defaults of its type. Raises InvalidArgumentError."""
    if message.type not in INDEX_TYPES:
        raise unknown_enum(message.type, f"{field}.type", collection_pb2.IndexType.keys())
    kind = INDEX_TYPES[message.type]
    stated = message.WhichOneof("parameters")
    fitting = {IndexType.HNSW: "hnsw", IndexType.IVF_FLAT: "ivf", IndexType.IVF_SQ8: "ivf"}.get(kind)
    if stated is not None and stated != fitting:
        raise InvalidArgumentError(
            "INDEX_INVALID",
            f"{field}.{stated} is set, and {field}.type is {kind.value}, which uses {fitting or 'no parameters'}; hnsw "
            "is for HNSW, and ivf for IVF_FLAT and IVF_SQ8",
            field=f"{field}.{stated}",
        )
    # 0 means the default.
    if fitting == "hnsw":
        default = HnswParameters()
        hnsw = HnswParameters(message.hnsw.m or default.m, message.hnsw.ef_construction or default.ef_construction)
        return Index(kind, hnsw=hnsw)
    if fitting == "ivf":
        return Index(kind, ivf=IvfParameters(message.ivf.nlist or IvfParameters().nlist))
    return Index(kind)


def index_to(index: Index) -> collection_pb2.Index:
    """Return the message of an index."""
    message = collection_pb2.Index(type=INDEX_NUMBERS[index.type])
    if index.hnsw is not None:
        message.hnsw.m, message.hnsw.ef_construction = index.hnsw.m, index.hnsw.ef_construction
    if index.ivf is not None:
        message.ivf.nlist = index.ivf.nlist
    return message


def collection_to(collection: Collection) -> collection_pb2.Collection:
    """Return the message of a collection."""
    message = collection_pb2.Collection(
        name=collection.name,
        description=collection.description,
        labels=collection.labels,
        model=collection.model,
        dimension=collection.dimension,
        fingerprint=collection.fingerprint,
        metric=METRIC_NUMBERS[collection.metric],
        index=index_to(collection.index),
        consistency=CONSISTENCY_NUMBERS[collection.consistency],
        create_time=timestamp_to(collection.create_time),
        max_regions=collection.max_regions,
    )
    if collection.ttl is not None:
        message.ttl.FromTimedelta(collection.ttl)
    return message
