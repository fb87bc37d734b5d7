"""Checks every vector before the embedder sends it."""

import numpy as np
import structlog

from embedder_service.core.decoding_faults import CONTENT
from embedder_service.core.types import ImageVectors, ModelInfo, RegionRequest, Vectors
from grpc_kit.errors import InternalError, InvalidArgumentError

log = structlog.stdlib.get_logger()

# Maximum difference of a vector's length from 1 if the model normalises its vectors. Rounding to float32
# causes far smaller differences.
LENGTH_TOLERANCE = 1e-3


def check_vectors(vectors: ImageVectors, info: ModelInfo, request: RegionRequest | None) -> None:
    """Raise an error if the vector of an image or of one of its regions is one that the API does not allow.

    Raises the errors of `check_vector`.
    """
    check_vector(vectors.values, info)
    if vectors.regions is None or request is None:
        return
    for region in vectors.regions.proposals:
        check_vector(region.values, info)
    for number, region in enumerate(vectors.regions.boxes):
        check_vector(region.values, info, request.path_of(number))


def check_vector(vector: Vectors, info: ModelInfo, field: str = CONTENT) -> None:
    """Raise an error for a vector that the API does not allow, and log the problem. A retry does not help.

    Raises InvalidArgumentError if the vector is zero: the image has no vector with this model. Raises InternalError if
    the vector is not float32[D] or not finite, or if the model normalises and the length is not 1.
    """
    problem = vector_problem(vector, info)
    if problem is not None:
        log.error("a vector is not sent", model=info.name, problem=problem)
        raise InternalError(
            "VECTOR_INVALID",
            f"model {info.name} computed an invalid vector: {problem}. A retry computes the same vector; use another "
            "model, and report this to the operator of the embedder",
            metadata={"model": info.name},
        )
    if not vector.any():
        log.warning("an image has no vector", model=info.name)
        raise InvalidArgumentError(
            "IMAGE_WITHOUT_VECTOR",
            f"the vector of {field} is all zero with model {info.name}, and cannot be compared; use another "
            "image or another model",
            field=field,
            metadata={"model": info.name},
        )


def vector_problem(vector: Vectors, info: ModelInfo) -> str | None:
    """Return the problem of an invalid vector, or None. Only a faulty network or head computes such vectors."""
    if vector.dtype != np.float32 or vector.shape != (info.dimension,):
        return f"it is {vector.dtype}{list(vector.shape)}; it must be float32[{info.dimension}]"
    finite = np.isfinite(vector)
    if not finite.all():
        position = int(np.argmin(finite))
        return f"component {position} is {vector[position]}; it must be finite"
    if info.normalisation == "l2" and vector.any():
        length = float(np.linalg.norm(vector.astype(np.float64)))
        if abs(length - 1) > LENGTH_TOLERANCE:
            return f"its length is {length:.6g}; it must be 1"
    return None
