"""Messages to plain values and back."""

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from imagesearch.search.v1 import collection_pb2, image_pb2
from imagesearch.types.v1 import embedding_pb2, encoded_image_pb2

from grpc_kit.errors import InvalidArgumentError
from search_service.api.filter_converters import filter_from
from search_service.core import page_tokens as tokens
from search_service.core.change_images import ImageUpdate
from search_service.core.checks import shown
from search_service.core.collections import NewCollection
from search_service.core.image_writes import ImageToWrite
from search_service.core.read_images import DEFAULT_PAGE, EPOCH, TICK, Listing, Order, Position
from search_service.core.types import (
    DEFAULT_INDEX,
    AttributeValue,
    Collection,
    Consistency,
    Embedding,
    EncodedImage,
    HnswParameters,
    Index,
    IndexType,
    IvfParameters,
    KeptVector,
    Metric,
    Region,
    StoredImage,
    View,
)

METRICS = {
    collection_pb2.METRIC_UNSPECIFIED: Metric.COSINE,
    collection_pb2.METRIC_COSINE: Metric.COSINE,
    collection_pb2.METRIC_L2: Metric.L2,
    collection_pb2.METRIC_IP: Metric.IP,
}
CONSISTENCIES = {
    collection_pb2.CONSISTENCY_STRONG: Consistency.STRONG,
    collection_pb2.CONSISTENCY_SESSION: Consistency.SESSION,
    collection_pb2.CONSISTENCY_BOUNDED: Consistency.BOUNDED,
    collection_pb2.CONSISTENCY_EVENTUALLY: Consistency.EVENTUALLY,
}
VIEWS = {
    image_pb2.IMAGE_VIEW_UNSPECIFIED: View.BASIC,
    image_pb2.IMAGE_VIEW_ID: View.ID,
    image_pb2.IMAGE_VIEW_BASIC: View.BASIC,
    image_pb2.IMAGE_VIEW_FULL: View.FULL,
}
ORDERS = {
    image_pb2.IMAGE_ORDER_UNSPECIFIED: Order.ID,
    image_pb2.IMAGE_ORDER_ID: Order.ID,
    image_pb2.IMAGE_ORDER_UPDATE_TIME_DESC: Order.UPDATE_TIME_DESC,
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
    """A metric. Raises InvalidArgumentError for a number that is none."""
    if number not in METRICS:
        raise _unknown_enum(number, field, collection_pb2.Metric.keys())
    return METRICS[collection_pb2.Metric.ValueType(number)]


def consistency_from(number: int, field: str) -> Consistency | None:
    """A consistency, None where it is unspecified. Raises InvalidArgumentError for a number that is none."""
    if number == collection_pb2.CONSISTENCY_UNSPECIFIED:
        return None
    if number not in CONSISTENCIES:
        raise _unknown_enum(number, field, collection_pb2.Consistency.keys())
    return CONSISTENCIES[collection_pb2.Consistency.ValueType(number)]


def view_from(number: int, field: str) -> View:
    """A view. Raises InvalidArgumentError for a number that is none."""
    if number not in VIEWS:
        raise _unknown_enum(number, field, image_pb2.ImageView.keys())
    return VIEWS[image_pb2.ImageView.ValueType(number)]


def _unknown_enum(number: int, field: str, names: list[str]) -> InvalidArgumentError:
    return InvalidArgumentError(
        "ENUM_INVALID", f"{field} is {number}; it should be one of {', '.join(names)}", field=field
    )


def new_collection_from(message: collection_pb2.Collection) -> NewCollection:
    """The collection of a CreateCollectionRequest."""
    return NewCollection(
        name=message.name,
        # A name of spaces only is empty: it means the embedder's default model, or no model.
        model=message.model.strip(),
        dimension=message.dimension,
        fingerprint=message.fingerprint,
        metric=metric_from(message.metric, "collection.metric"),
        index=index_from(message.index, "collection.index"),
        consistency=consistency_from(message.consistency, "collection.consistency") or Consistency.BOUNDED,
        description=message.description,
        labels=dict(message.labels),
        ttl=duration_from(message.ttl) if message.HasField("ttl") else None,
    )


def duration_from(message: Duration) -> timedelta:
    """Return a duration; the longest one of Python for one that Python or the message itself cannot hold."""
    try:
        return message.ToTimedelta()
    except (ValueError, OverflowError):
        return timedelta.max


def index_from(message: collection_pb2.Index, field: str) -> Index:
    """An index with the defaults of its type. Raises InvalidArgumentError."""
    if message.type not in INDEX_TYPES:
        raise _unknown_enum(message.type, f"{field}.type", collection_pb2.IndexType.keys())
    kind = INDEX_TYPES[message.type]
    stated = message.WhichOneof("parameters")
    fitting = {IndexType.HNSW: "hnsw", IndexType.IVF_FLAT: "ivf", IndexType.IVF_SQ8: "ivf"}.get(kind)
    if stated is not None and stated != fitting:
        raise InvalidArgumentError(
            "INDEX_INVALID",
            f"{field}.{stated} is set beside {field}.type {kind.value}; {fitting or 'no parameter'} fits that (hnsw is "
            "for HNSW, ivf for IVF_FLAT and IVF_SQ8)",
            field=f"{field}.{stated}",
        )
    # 0 is the default.
    if fitting == "hnsw":
        default = HnswParameters()
        hnsw = HnswParameters(message.hnsw.m or default.m, message.hnsw.ef_construction or default.ef_construction)
        return Index(kind, hnsw=hnsw)
    if fitting == "ivf":
        return Index(kind, ivf=IvfParameters(message.ivf.nlist or IvfParameters().nlist))
    return Index(kind)


def index_to(index: Index) -> collection_pb2.Index:
    """The message of an index."""
    message = collection_pb2.Index(type=INDEX_NUMBERS[index.type])
    if index.hnsw is not None:
        message.hnsw.m, message.hnsw.ef_construction = index.hnsw.m, index.hnsw.ef_construction
    if index.ivf is not None:
        message.ivf.nlist = index.ivf.nlist
    return message


def collection_to(collection: Collection) -> collection_pb2.Collection:
    """The message of a collection."""
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
    )
    if collection.ttl is not None:
        message.ttl.FromTimedelta(collection.ttl)
    return message


def timestamp_to(moment: datetime | None) -> Timestamp | None:
    """The message of a moment."""
    if moment is None:
        return None
    message = Timestamp()
    _fill_timestamp(message, moment)
    return message


def _fill_timestamp(message: Timestamp, moment: datetime) -> None:
    # Timestamp's own way is ten times as slow.
    message.seconds, micros = divmod((moment - EPOCH) // TICK, 1_000_000)
    message.nanos = 1000 * micros


def encoded_image_from(message: encoded_image_pb2.EncodedImage) -> EncodedImage:
    """An image with its region."""
    if not message.HasField("region"):
        return EncodedImage(message.content)
    return EncodedImage(message.content, region_from(message.region))


def region_from(message: encoded_image_pb2.Region) -> Region:
    """A region."""
    return Region(message.x0, message.y0, message.x1, message.y1)


def region_to(region: Region) -> encoded_image_pb2.Region:
    """The message of a region."""
    return encoded_image_pb2.Region(x0=region.x0, y0=region.y0, x1=region.x1, y1=region.y1)


def embedding_from(message: embedding_pb2.Embedding) -> Embedding:
    """A vector with its fingerprint."""
    return Embedding(np.array(message.values, dtype=np.float32), message.fingerprint)


def attributes_from(message: Mapping[str, image_pb2.AttributeValue]) -> dict[str, AttributeValue]:
    """The attributes of an image. Raises InvalidArgumentError for one without a value."""
    attributes: dict[str, AttributeValue] = {}
    for name, value in message.items():
        kind = value.WhichOneof("kind")
        if kind is None:
            raise InvalidArgumentError(
                "ATTRIBUTE_INVALID", f"attributes has {shown(name)} without a value", field="attributes"
            )
        attributes[name] = list(value.string_list_value.values) if kind == "string_list_value" else getattr(value, kind)
    return attributes


def _fill_attribute(message: image_pb2.AttributeValue, value: AttributeValue) -> None:
    if isinstance(value, str):
        message.string_value = value
    # A bool is an int to Python, so it is asked for first.
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, int):
        message.integer_value = value
    elif isinstance(value, float):
        message.number_value = value
    else:
        # An empty list is one too.
        message.string_list_value.SetInParent()
        message.string_list_value.values.extend(value)


def image_to_write_from(message: image_pb2.WriteImagesRequest) -> ImageToWrite:
    """The image of a WriteImagesRequest. Raises InvalidArgumentError."""
    source: EncodedImage | Embedding | KeptVector
    match message.WhichOneof("source"):
        case "image":
            source = encoded_image_from(message.image)
        case "embedding":
            source = embedding_from(message.embedding)
        case "stored_vector" if message.stored_vector:
            source = KeptVector()
        case _:
            raise InvalidArgumentError(
                "SOURCE_MISSING",
                "source is missing; it should be an image, an embedding or stored_vector",
                field="source",
            )
    return ImageToWrite(
        request_id=message.request_id,
        collection=message.collection,
        id=message.id,
        uri=message.uri,
        attributes=attributes_from(message.attributes),
        source=source,
        content_sha256=message.content_sha256,
        region=region_from(message.region) if message.HasField("region") else None,
        size=message.ByteSize(),
        keep_attributes=message.keep_attributes,
        report_replaced=message.report_replaced,
    )


def image_to(image: StoredImage, fingerprint: str) -> image_pb2.Image:
    """The message of a stored image; `fingerprint` is its collection's."""
    message = image_pb2.Image()
    fill_image(message, image, fingerprint)
    return message


def fill_image(message: image_pb2.Image, image: StoredImage, fingerprint: str) -> None:
    """Writes a stored image into an empty message: in place, because a message that is put into another is copied."""
    message.id, message.uri, message.content_sha256 = image.id, image.uri, image.content_sha256
    for name, value in image.attributes.items():
        _fill_attribute(message.attributes[name], value)
    if image.create_time is not None:
        _fill_timestamp(message.create_time, image.create_time)
    if image.update_time is not None:
        _fill_timestamp(message.update_time, image.update_time)
    if image.vector is not None:
        message.embedding.values.extend(image.vector.tolist())
        message.embedding.fingerprint = fingerprint
    if image.region is not None:
        message.region.CopyFrom(region_to(image.region))


def paged_request(message: Message) -> bytes:
    """The SHA-256 of what all pages of one answer are asked for with: the request less its paging.

    A digest, because the request may hold an image, and is needed for the token when the answer is there.
    """
    known = message.DESCRIPTOR.fields_by_name
    paging = [field for field in ("page_token", "page_size", "limit", "with_next_page") if field in known]
    kept = {field: getattr(message, field) for field in paging}
    for field in paging:
        message.ClearField(field)
    digest = hashlib.sha256(message.DESCRIPTOR.full_name.encode())
    digest.update(message.SerializeToString(deterministic=True))
    for field, value in kept.items():
        setattr(message, field, value)
    return digest.digest()


def position_to(end: Position) -> tokens.Position:
    """What a page token holds of the last image of a page."""
    return [end.id, round((end.update_time - EPOCH) / TICK)]


def position_from(position: tokens.Position | None) -> Position | None:
    """The last image of a page; None where there was none."""
    return Position(str(position[0]), EPOCH + int(position[1]) * TICK) if position else None


def listing_from(request: image_pb2.ListImagesRequest, after: Position | None) -> Listing:
    """What a ListImagesRequest asks for. Raises InvalidArgumentError."""
    if request.order not in ORDERS:
        raise _unknown_enum(request.order, "order", image_pb2.ImageOrder.keys())
    return Listing(
        collection=request.collection,
        condition=filter_from(request.filter) if request.HasField("filter") else None,
        order=ORDERS[request.order],
        page_size=request.page_size or DEFAULT_PAGE,
        after=after,
        view=view_from(request.view, "view"),
        consistency=consistency_from(request.consistency, "consistency"),
    )


def update_from(request: image_pb2.UpdateImageRequest) -> ImageUpdate:
    """What an UpdateImageRequest asks for. Raises InvalidArgumentError."""
    return ImageUpdate(
        collection=request.collection,
        id=request.image.id,
        paths=list(request.update_mask.paths),
        uri=request.image.uri,
        attributes=attributes_from(request.image.attributes),
    )
