"""The client's values to messages and back."""

from datetime import UTC

from imagesearch.search.v1 import collection_pb2, image_pb2, search_pb2
from imagesearch.types.v1 import embedding_pb2
from imagesearch.types.v1 import image_pb2 as types_image_pb2

from grpc_kit.status import from_status
from imagesearch_client.types import (
    AttributeValue,
    Collection,
    Embedding,
    Hit,
    Image,
    Metric,
    NewImage,
    Region,
    WriteResult,
)

METRIC_NUMBERS = {
    Metric.COSINE: collection_pb2.METRIC_COSINE,
    Metric.L2: collection_pb2.METRIC_L2,
    Metric.IP: collection_pb2.METRIC_IP,
}
METRICS = {number: metric for metric, number in METRIC_NUMBERS.items()}


def encoded_image(content: bytes, region: Region | None) -> types_image_pb2.EncodedImage:
    """The message of an image file."""
    message = types_image_pb2.EncodedImage(content=content)
    if region is not None:
        message.region.CopyFrom(types_image_pb2.Region(x0=region.x0, y0=region.y0, x1=region.x1, y1=region.y1))
    return message


def embedding_to(embedding: Embedding) -> embedding_pb2.Embedding:
    """The message of a vector."""
    return embedding_pb2.Embedding(values=embedding.values, fingerprint=embedding.fingerprint)


def attribute_to(value: AttributeValue) -> image_pb2.AttributeValue:
    """The message of an attribute's value."""
    match value:
        case bool():
            return image_pb2.AttributeValue(bool_value=value)
        case int():
            return image_pb2.AttributeValue(integer_value=value)
        case float():
            return image_pb2.AttributeValue(number_value=value)
        case str():
            return image_pb2.AttributeValue(string_value=value)
        case _:
            return image_pb2.AttributeValue(string_list_value=image_pb2.StringList(values=value))


def attribute_from(message: image_pb2.AttributeValue) -> AttributeValue:
    """An attribute's value."""
    kind = message.WhichOneof("kind") or "string_value"
    if kind == "string_list_value":
        return list(message.string_list_value.values)
    value: AttributeValue = getattr(message, kind)
    return value


def write_request(image: NewImage, collection: str) -> image_pb2.WriteImagesRequest:
    """The message that writes an image."""
    request = image_pb2.WriteImagesRequest(
        collection=collection,
        id=image.id,
        uri=image.uri,
        attributes={name: attribute_to(value) for name, value in image.attributes.items()},
    )
    if isinstance(image.source, Embedding):
        request.embedding.CopyFrom(embedding_to(image.source))
    else:
        request.image.CopyFrom(encoded_image(image.source, image.region))
    return request


def write_result(response: image_pb2.WriteImagesResponse) -> WriteResult:
    """What came of an image to write."""
    if response.WhichOneof("result") == "error":
        return WriteResult(response.id, from_status(response.error))
    return WriteResult(response.id, content_sha256=response.written.content_sha256)


def collection_from(message: collection_pb2.Collection) -> Collection:
    """A collection."""
    return Collection(
        name=message.name,
        model=message.model,
        dimension=message.dimension,
        fingerprint=message.fingerprint,
        metric=METRICS[message.metric],
        description=message.description,
        labels=dict(message.labels),
        create_time=message.create_time.ToDatetime(UTC),
    )


def image_from(message: image_pb2.Image) -> Image:
    """A stored image."""
    embedding = None
    if message.HasField("embedding"):
        embedding = Embedding(list(message.embedding.values), message.embedding.fingerprint)
    return Image(
        id=message.id,
        uri=message.uri,
        attributes={name: attribute_from(value) for name, value in message.attributes.items()},
        content_sha256=message.content_sha256,
        create_time=message.create_time.ToDatetime(UTC),
        update_time=message.update_time.ToDatetime(UTC),
        embedding=embedding,
    )


def hit_from(message: search_pb2.Hit) -> Hit:
    """An image found."""
    return Hit(image_from(message.image), message.score, message.distance)
