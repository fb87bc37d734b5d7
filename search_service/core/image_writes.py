"""The messages of a WriteImages stream: images to write, and the result for each."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from grpc_kit.errors import ServiceError
from search_service.core.types import (
    AttributeValue,
    Embedding,
    EncodedImage,
    KeptVector,
    Region,
    StoredImage,
    StoredRegion,
)


@dataclass(frozen=True)
class ImageToWrite:
    """An image to write."""

    request_id: str
    collection: str
    """Empty for the collection of the previous message."""
    id: str
    source: EncodedImage | Embedding | KeptVector
    uri: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    content_sha256: str = ""
    region: Region | None = None
    """Set only with an embedding, because an encoded image contains its own region."""
    regions: tuple[StoredRegion, ...] = ()
    """Set only with an embedding, because the embedder finds the regions of an encoded image."""
    size: int = 0
    """Size of the whole message in bytes."""
    keep_attributes: bool = False
    """Whether to keep the stored attributes that `attributes` does not name."""
    report_replaced: bool = False
    """Whether the result reports that the write replaced another image."""


@dataclass(frozen=True)
class InvalidMessage:
    """A message that could not be converted. Its result is sent in order, as for every other message."""

    request_id: str
    id: str
    collection: str
    error: ServiceError


@dataclass(frozen=True)
class WriteResult:
    """The result of one message."""

    request_id: str
    id: str
    outcome: StoredImage | ServiceError
    replaced: bool = False
    """Whether another image had the id. Set only if the message has `report_replaced`."""
