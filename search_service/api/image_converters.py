"""Convert messages of images to plain values and back."""

from collections.abc import Mapping

from imagesearch.search.v1 import image_pb2

from grpc_kit.errors import InvalidArgumentError
from search_service.api.converters import (
    consistency_from,
    embedding_from,
    encoded_image_from,
    fill_timestamp,
    region_from,
    region_to,
    stored_region_from,
    unknown_enum,
)
from search_service.api.filter_converters import filter_from
from search_service.core import page_tokens as tokens
from search_service.core.change_images import ImageUpdate
from search_service.core.checks import shown
from search_service.core.image_writes import ImageToWrite
from search_service.core.read_images import DEFAULT_PAGE, EPOCH, TICK, Listing, Order, Position
from search_service.core.types import (
    AttributeValue,
    Embedding,
    EncodedImage,
    KeptVector,
    StoredImage,
    View,
)

VIEWS = {
    image_pb2.IMAGE_VIEW_UNSPECIFIED: View.BASIC,
    image_pb2.IMAGE_VIEW_ID: View.ID,
    image_pb2.IMAGE_VIEW_BASIC: View.BASIC,
    image_pb2.IMAGE_VIEW_FULL: View.FULL,
    image_pb2.IMAGE_VIEW_VECTOR: View.VECTOR,
}
ORDERS = {
    image_pb2.IMAGE_ORDER_UNSPECIFIED: Order.ID,
    image_pb2.IMAGE_ORDER_ID: Order.ID,
    image_pb2.IMAGE_ORDER_UPDATE_TIME_DESC: Order.UPDATE_TIME_DESC,
}


def view_from(number: int, field: str) -> View:
    """Return a view. Raises InvalidArgumentError for an unknown number."""
    if number not in VIEWS:
        raise unknown_enum(number, field, image_pb2.ImageView.keys())
    return VIEWS[image_pb2.ImageView.ValueType(number)]


def attributes_from(message: Mapping[str, image_pb2.AttributeValue]) -> dict[str, AttributeValue]:
    """Return attributes. Raises InvalidArgumentError for an attribute without a value."""
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
    # In Python, a bool is an int, so bool comes first.
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, int):
        message.integer_value = value
    elif isinstance(value, float):
        message.number_value = value
    else:
        # An empty list is also a value.
        message.string_list_value.SetInParent()
        message.string_list_value.values.extend(value)


def image_to_write_from(message: image_pb2.WriteImagesRequest) -> ImageToWrite:
    """Return the image of a WriteImagesRequest. Raises InvalidArgumentError."""
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
                "source is missing; it must be an image, an embedding or stored_vector",
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
        regions=tuple(map(stored_region_from, message.regions)),
        size=message.ByteSize(),
        keep_attributes=message.keep_attributes,
        report_replaced=message.report_replaced,
    )


def image_to(image: StoredImage, fingerprint: str) -> image_pb2.Image:
    """Return the message of a stored image; `fingerprint` is that of its collection."""
    message = image_pb2.Image()
    fill_image(message, image, fingerprint)
    return message


def fill_image(message: image_pb2.Image, image: StoredImage, fingerprint: str) -> None:
    """Write a stored image into an empty message. A message that is added to another one would be copied."""
    message.id, message.uri, message.content_sha256 = image.id, image.uri, image.content_sha256
    for name, value in image.attributes.items():
        _fill_attribute(message.attributes[name], value)
    if image.create_time is not None:
        fill_timestamp(message.create_time, image.create_time)
    if image.update_time is not None:
        fill_timestamp(message.update_time, image.update_time)
    if image.vector is not None:
        message.embedding.values.extend(image.vector.tolist())
        message.embedding.fingerprint = fingerprint
    if image.region is not None:
        message.region.CopyFrom(region_to(image.region))
    for region in image.regions:
        added = message.regions.add(values=region.vector.tolist(), saliency=region.saliency)
        added.box.CopyFrom(region_to(region.box))


def position_to(end: Position) -> tokens.Position:
    """Return the end of a page for a page token."""
    return [end.id, round((end.update_time - EPOCH) / TICK)]


def position_from(position: tokens.Position | None) -> Position | None:
    """Return the end of the previous page; None for the first page."""
    return Position(str(position[0]), EPOCH + int(position[1]) * TICK) if position else None


def listing_from(request: image_pb2.ListImagesRequest, after: Position | None) -> Listing:
    """Return the listing of a ListImagesRequest. Raises InvalidArgumentError."""
    if request.order not in ORDERS:
        raise unknown_enum(request.order, "order", image_pb2.ImageOrder.keys())
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
    """Return the update of an UpdateImageRequest. Raises InvalidArgumentError."""
    return ImageUpdate(
        collection=request.collection,
        id=request.image.id,
        paths=list(request.update_mask.paths),
        uri=request.image.uri,
        attributes=attributes_from(request.image.attributes),
    )
