"""Convert values that several services use."""

import hashlib
from datetime import datetime, timedelta

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from imagesearch.search.v1 import collection_pb2
from imagesearch.types.v1 import embedding_pb2, encoded_image_pb2, region_embedding_pb2

from grpc_kit.errors import InvalidArgumentError
from search_service.core.read_images import EPOCH, TICK
from search_service.core.types import (
    Consistency,
    Embedding,
    EncodedImage,
    Region,
    StoredRegion,
)

CONSISTENCIES = {
    collection_pb2.CONSISTENCY_STRONG: Consistency.STRONG,
    collection_pb2.CONSISTENCY_SESSION: Consistency.SESSION,
    collection_pb2.CONSISTENCY_BOUNDED: Consistency.BOUNDED,
    collection_pb2.CONSISTENCY_EVENTUALLY: Consistency.EVENTUALLY,
}


def consistency_from(number: int, field: str) -> Consistency | None:
    """Return a consistency; None if it is unspecified. Raises InvalidArgumentError for an unknown number."""
    if number == collection_pb2.CONSISTENCY_UNSPECIFIED:
        return None
    if number not in CONSISTENCIES:
        raise unknown_enum(number, field, collection_pb2.Consistency.keys())
    return CONSISTENCIES[collection_pb2.Consistency.ValueType(number)]


def unknown_enum(number: int, field: str, names: list[str]) -> InvalidArgumentError:
    """Return the error for an unknown number of an enum."""
    return InvalidArgumentError(
        "ENUM_INVALID", f"{field} is {number}; it must be one of {', '.join(names)}", field=field
    )


def duration_from(message: Duration) -> timedelta:
    """Return a duration; the longest duration of Python if the message has a longer or an invalid one."""
    try:
        return message.ToTimedelta()
    except (ValueError, OverflowError):
        return timedelta.max


def timestamp_to(moment: datetime | None) -> Timestamp | None:
    """Return the message of a time."""
    if moment is None:
        return None
    message = Timestamp()
    fill_timestamp(message, moment)
    return message


def fill_timestamp(message: Timestamp, moment: datetime) -> None:
    """Write a time into a message."""
    # Timestamp.FromDatetime is ten times as slow.
    message.seconds, micros = divmod((moment - EPOCH) // TICK, 1_000_000)
    message.nanos = 1000 * micros


def embedding_from(message: embedding_pb2.Embedding) -> Embedding:
    """Return a vector, float32[D], with its fingerprint."""
    return Embedding(np.array(message.values, dtype=np.float32), message.fingerprint)


def encoded_image_from(message: encoded_image_pb2.EncodedImage) -> EncodedImage:
    """Return an image file with its region."""
    if not message.HasField("region"):
        return EncodedImage(message.content)
    return EncodedImage(message.content, region_from(message.region))


def region_from(message: encoded_image_pb2.Region) -> Region:
    """Return a region."""
    return Region(message.x0, message.y0, message.x1, message.y1)


def stored_region_from(message: region_embedding_pb2.RegionEmbedding) -> StoredRegion:
    """Return a region with its vector."""
    return StoredRegion(region_from(message.box), np.array(message.values, dtype=np.float32), message.saliency)


def region_to(region: Region) -> encoded_image_pb2.Region:
    """Return the message of a region."""
    return encoded_image_pb2.Region(x0=region.x0, y0=region.y0, x1=region.x1, y1=region.y1)


def paged_request(message: Message) -> bytes:
    """Return the SHA-256 of a request without its paging, which is the same for all pages of one result.

    The request may hold an image, and the digest is needed for the token after the image was released.
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
