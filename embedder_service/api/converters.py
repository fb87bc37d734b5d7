"""Converts protobuf messages to plain values, and back."""

from imagesearch.embedder.v1 import embedder_pb2
from imagesearch.types.v1 import embedding_pb2, encoded_image_pb2, region_embedding_pb2

from embedder_service.core.types import (
    Embedding,
    EncodedImage,
    Limits,
    ModelInfo,
    Region,
    RegionRequest,
    RegionVector,
)


def image_from(message: encoded_image_pb2.EncodedImage) -> EncodedImage:
    """Return the image of a request."""
    if not message.HasField("region"):
        return EncodedImage(message.content)
    return EncodedImage(message.content, region_from(message.region))


def region_from(message: encoded_image_pb2.Region) -> Region:
    """Return the box of a request."""
    return Region(message.x0, message.y0, message.x1, message.y1)


def request_from(message: embedder_pb2.RegionOptions, path: str) -> RegionRequest:
    """Return the regions of a request; `path` is the name of the field."""
    return RegionRequest(message.max_regions, tuple(map(region_from, message.boxes)), path)


def region_to(box: Region) -> encoded_image_pb2.Region:
    """Return the message of a box."""
    return encoded_image_pb2.Region(x0=box.x0, y0=box.y0, x1=box.x1, y1=box.y1)


def region_embedding_to(region: RegionVector) -> region_embedding_pb2.RegionEmbedding:
    """Return the message of a region with its vector."""
    return region_embedding_pb2.RegionEmbedding(
        box=region_to(region.box), values=region.values.tolist(), saliency=region.saliency
    )


def image_regions_to(embedding: Embedding) -> embedder_pb2.ImageRegions:
    """Return the message of an embedding that has regions."""
    regions = embedding.regions
    if regions is None:
        raise ValueError("the embedding has no regions")
    return embedder_pb2.ImageRegions(
        image=embedding_to(embedding),
        proposals=map(region_embedding_to, regions.proposals),
        boxes=map(region_embedding_to, regions.boxes),
        salient_box=region_to(regions.salient_box),
    )


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
        region_fingerprint=info.region_fingerprint,
        limits=embedder_pb2.Limits(max_image_bytes=limits.max_image_bytes, max_image_pixels=limits.max_image_pixels),
        execution=embedder_pb2.Execution(
            max_batch_size=info.max_batch_size,
            threads=info.threads,
            seconds_per_image=info.seconds_per_image,
            memory_bytes=info.memory_bytes,
        ),
    )
