"""Converts protobuf messages to plain values, and back."""

from imagesearch.embedder.v1 import embedder_pb2
from imagesearch.types.v1 import embedding_pb2, encoded_image_pb2

from embedder_service.core.types import Embedding, EncodedImage, Limits, ModelInfo, Region


def image_from(message: encoded_image_pb2.EncodedImage) -> EncodedImage:
    """Return the image of a request."""
    if not message.HasField("region"):
        return EncodedImage(message.content)
    region = message.region
    return EncodedImage(message.content, Region(region.x0, region.y0, region.x1, region.y1))


def embedding_to(embedding: Embedding) -> embedding_pb2.Embedding:
    """Return the message of an embedding."""
    return embedding_pb2.Embedding(values=embedding.values.tolist(), fingerprint=embedding.fingerprint)


def model_to(info: ModelInfo, limits: Limits, default: str) -> embedder_pb2.Model:
    """Return the message that describes a model."""
    return embedder_pb2.Model(
        name=info.name,
        default=info.name == default,
        dimension=info.dimension,
        network=info.network,
        input=info.input.shape,
        input_size=info.input.side,
        head=info.head,
        preprocessing=info.preprocessing,
        normalisation=info.normalisation,
        precision=info.precision,
        weights_sha256=info.weights_sha256,
        fingerprint=info.fingerprint,
        limits=embedder_pb2.Limits(max_image_bytes=limits.max_image_bytes, max_image_pixels=limits.max_image_pixels),
        execution=embedder_pb2.Execution(
            max_batch_size=info.max_batch_size,
            threads=info.threads,
            seconds_per_image=info.seconds_per_image,
            memory_bytes=info.memory_bytes,
        ),
    )
