"""Turn regions into the messages of the contracts. Errors name the argument that is wrong."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from google.protobuf.message import Message
from imagesearch.embedder.v1 import embedder_pb2
from imagesearch.types.v1 import encoded_image_pb2, region_embedding_pb2

from imagesearch_client.defaults import MAX_REGIONS
from imagesearch_client.types import Embedding, Region, RegionEmbedding

ALLOWED_MAX_REGIONS = f"a whole number from 0 to {MAX_REGIONS}"

Value = TypeVar("Value")


def region_to(region: Region, name: str = "region") -> encoded_image_pb2.Region:
    """Return the message of a region. Raises TypeError, which names the argument."""
    if not isinstance(region, Region):
        raise TypeError(f"{name} must be a Region(x0, y0, x1, y1), and no {type(region).__name__}")
    message = encoded_image_pb2.Region()
    for edge in ("x0", "y0", "x1", "y1"):
        set_field(message, edge, getattr(region, edge), f"{name}.{edge}", "a number from 0 to 1")
    return message


def region_embeddings_to(
    regions: Iterable[RegionEmbedding], image: Embedding
) -> list[region_embedding_pb2.RegionEmbedding]:
    """Return the messages of the regions of an image. Raises TypeError, and ValueError for another fingerprint."""
    return [_region_embedding_to(each, image, name) for name, each in _named("regions", regions, "RegionEmbedding")]


def _region_embedding_to(region: RegionEmbedding, image: Embedding, name: str) -> region_embedding_pb2.RegionEmbedding:
    if not isinstance(region, RegionEmbedding):
        raise TypeError(f"{name} must be a RegionEmbedding(box, embedding), and no {type(region).__name__}")
    if not isinstance(region.embedding, Embedding):
        raise TypeError(f"{name}.embedding must be an Embedding, and no {type(region.embedding).__name__}")
    if region.embedding.fingerprint != image.fingerprint:
        raise ValueError(
            f"{name} has the fingerprint {region.embedding.fingerprint!r:.80}; it must have that of its image, "
            f"{image.fingerprint!r:.80}"
        )
    message = region_embedding_pb2.RegionEmbedding(
        box=region_to(region.box, f"{name}.box"), values=region.embedding.values.tolist()
    )
    set_field(message, "saliency", region.saliency, f"{name}.saliency", "a number")
    return message


def region_options_to(max_regions: int, boxes: Iterable[Region] = ()) -> embedder_pb2.RegionOptions:
    """Return the message of the regions to embed. Raises TypeError and ValueError, which name the argument."""
    message = embedder_pb2.RegionOptions(boxes=[region_to(box, name) for name, box in _named("boxes", boxes, "Region")])
    set_field(message, "max_regions", max_regions, "max_regions", ALLOWED_MAX_REGIONS)
    return message


def _named(name: str, values: Iterable[Value], kind: str) -> Iterator[tuple[str, Value]]:
    """Yield the values of a list with their names in errors, such as boxes[2]. Raises TypeError for another type."""
    if not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list of {kind} values, and no {type(values).__name__}")
    for number, value in enumerate(values):
        yield f"{name}[{number}]", value


def set_field(message: Message, field: str, value: object, name: str, allowed: str) -> None:
    """Set a field of a message. Raises TypeError and ValueError, which name the argument: those of protobuf do not."""
    try:
        setattr(message, field, value)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name} is {value!r:.60}; it must be {allowed}") from None
