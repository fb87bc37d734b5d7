"""Convert the embedder's messages."""

import numpy as np
from imagesearch.types.v1 import embedding_pb2, encoded_image_pb2

from search_service.core.types import Embedding, EncodedImage


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
