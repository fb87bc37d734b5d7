"""The rules for vectors."""

import math

import numpy as np
import structlog

from grpc_kit.errors import FailedPreconditionError, InternalError, InvalidArgumentError
from search_service.core.checks import check_fingerprint, shown
from search_service.core.types import Collection, Embedding, Vector

log = structlog.stdlib.get_logger()

# Stores compute squares in float32, which holds 1.2e-38 to 3.4e38. Each square of a short vector may lose up to
# 1.2e-38, and the loss must be below a millionth of the sum of squares. With longer vectors, the square of a distance
# would overflow. One of the two vectors may be a combination of examples, which may be 1.5 times as long.
SHORTEST_SQUARE, LONGEST = 1.2e-32, 7e18


def check_embedding(embedding: Embedding, collection: Collection, field: str) -> None:
    """Raise ServiceError if the collection cannot store a vector of a caller."""
    check_fingerprint(embedding.fingerprint, f"{field}.fingerprint")
    if embedding.fingerprint != collection.fingerprint:
        raise embedding_mismatch(collection, embedding.fingerprint, field)
    check_values(embedding.values, collection, field)


def check_embedded(embedding: Embedding, collection: Collection, field: str) -> None:
    """Raise ServiceError if the collection cannot store the embedder's vector of the image in `field`.

    Another implementation of the embedder may return any vector. Its errors are no errors of the caller.
    """
    if embedding.fingerprint != collection.fingerprint:
        raise embedding_mismatch(collection, embedding.fingerprint, field)
    try:
        check_values(embedding.values, collection, field)
    except InvalidArgumentError as error:
        if error.reason == "VECTOR_ZERO":
            raise InvalidArgumentError(
                "IMAGE_WITHOUT_VECTOR",
                f"the vector of {field} with model {collection.model} is zero, which cannot be compared; use another "
                "image or another model",
                field=field,
                metadata={"model": collection.model},
            ) from None
        log.warning("the embedder returned an invalid vector", collection=collection.name, problem=error.message)
        raise InternalError(
            "VECTOR_INVALID",
            f"the embedder returned an invalid vector for model {collection.model}: {error.message}",
            metadata={"model": collection.model},
        ) from None


def check_values(values: Vector, collection: Collection, field: str) -> None:
    """Raise InvalidArgumentError for an invalid vector. Milvus accepts NaN, and later returns wrong hits."""
    if len(values) != collection.dimension:
        raise dimension_mismatch(values, collection, field)
    finite = np.isfinite(values)
    if not finite.all():
        position = int(np.argmin(finite))
        raise InvalidArgumentError(
            "VECTOR_NOT_FINITE",
            f"{field}.values[{position}] is {values[position]}; every component must be finite",
            field=f"{field}.values",
        )
    if not values.any():
        raise InvalidArgumentError(
            "VECTOR_ZERO",
            f"{field}.values is all zero; at least one component must not be zero",
            field=f"{field}.values",
        )
    length, shortest = length_of(values), shortest_length(len(values))
    if not shortest <= length <= LONGEST:
        raise InvalidArgumentError(
            "VECTOR_LENGTH_INVALID",
            f"{field}.values has length {length:.2g}; it must be between {shortest:.2g} and {LONGEST:.2g}, "
            "because its square is computed in float32. Scale all vectors of the collection by the same factor",
            field=f"{field}.values",
            metadata={"min_length": f"{shortest:.2g}", "max_length": f"{LONGEST:.2g}"},
        )


def length_of(vector: Vector) -> float:
    """Return the Euclidean length of a vector, float32[D]; its squares are computed in float64."""
    return float(np.linalg.norm(vector.astype(np.float64)))


def shortest_length(dimension: int) -> float:
    """Return the minimum length of a vector with this dimension."""
    return math.sqrt(dimension * SHORTEST_SQUARE)


def dimension_mismatch(values: Vector, collection: Collection, field: str) -> InvalidArgumentError:
    """Return the error for a vector with another dimension than the collection."""
    return InvalidArgumentError(
        "VECTOR_DIMENSION_MISMATCH",
        f"{field}.values has {len(values)} components; it must have {collection.dimension}, the dimension of "
        f"collection {collection.name}",
        field=f"{field}.values",
        metadata={"dimension": str(collection.dimension)},
    )


def embedding_mismatch(collection: Collection, fingerprint: str, field: str) -> FailedPreconditionError:
    """Return the error for a vector with another fingerprint than the collection."""
    return FailedPreconditionError(
        "EMBEDDING_MISMATCH",
        f"{field} has the fingerprint {shown(fingerprint)}; collection {collection.name} has "
        f"{collection.fingerprint!r}. For a new model, create a new collection, as `imagesearch reindex` does",
        field=field,
        metadata={"collection_fingerprint": collection.fingerprint, "fingerprint": fingerprint},
    )
