"""Convert the embedder's messages."""

import numpy as np
from imagesearch.embedder.v1 import embedder_pb2
from imagesearch.types.v1 import embedding_pb2, encoded_image_pb2, region_embedding_pb2

from search_service.core.types import EmbeddedRegions, Embedding, EncodedImage, Region, StoredRegion


def image_to(image: EncodedImage) -> encoded_image_pb2.EncodedImage:
    """Return the message of an image."""
    message = encoded_image_pb2.EncodedImage(content=image.content)
    if image.region is not None:
        region = image.region
        message.region.CopyFrom(encoded_image_pb2.Region(x0=region.x0, y0=region.y0, x1=region.x1, y1=region.y1))
    return message


def embedding_from(message: embedding_pb2.Embedding) -> Embedding:
    """Return the vector in a message, float32[D], with its fingerprint."""
    return Embedding(np.array(message.values, dtype=np.float32), message.fingerprint)


def regions_from(message: embedder_pb2.ImageRegions) -> EmbeddedRegions:
    """Return the vectors in a message: those of the image and of the proposed regions."""
    return EmbeddedRegions(
        embedding_from(message.image), tuple(map(_region_from, message.proposals)), _box_from(message.salient_box)
    )


def _region_from(message: region_embedding_pb2.RegionEmbedding) -> StoredRegion:
    return StoredRegion(_box_from(message.box), np.array(message.values, dtype=np.float32), message.saliency)


def _box_from(message: encoded_image_pb2.Region) -> Region:
    return Region(message.x0, message.y0, message.x1, message.y1)
