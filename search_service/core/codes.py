"""Binary codes of vectors: how they are computed, and which transforms are valid."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from grpc_kit.errors import FailedPreconditionError, InvalidArgumentError, UnimplementedError
from search_service.core.types import CodeSet, Collection, Metric, Vector

# uint8[N, bits / 8]. The first bit of a code is the highest bit of its first byte.
Codes: TypeAlias = NDArray[np.uint8]

MIN_BITS, MAX_BITS, BITS_STEP = 64, 512, 8
VERSION_DIGITS = 16


@dataclass(frozen=True)
class CodeTransform:
    """The map from a vector x to its code: bit k is 1 if w_k . x + b_k > 0.

    The hyperplanes may be random ones through the mean of the vectors (M. Charikar, Similarity Estimation Techniques
    from Rounding Algorithms, 2002).
    """

    hyperplanes: Vector
    """float32[bits, D + 1]: each row is the normal w_k, then the offset b_k."""

    @property
    def bits(self) -> int:
        """Return the number of bits of a code."""
        return len(self.hyperplanes)

    @cached_property
    def version(self) -> str:
        """Return the first 16 hexadecimal digits of the SHA-256 of the rows, as little-endian float32."""
        rows = np.ascontiguousarray(self.hyperplanes, "<f4").tobytes()
        return hashlib.sha256(rows).hexdigest()[:VERSION_DIGITS]

    def encode(self, vectors: Vector, metric: Metric) -> Codes:
        """Return the codes of vectors, float32[N, D]; with the metric COSINE, vectors are scaled to length 1 first."""
        if metric is Metric.COSINE:
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        # Products of large hyperplanes would overflow. A power of two changes no sign and loses no digit.
        largest = np.abs(self.hyperplanes).max(axis=1, keepdims=True)
        planes = np.ldexp(self.hyperplanes, -np.frexp(largest)[1])
        sides = vectors @ planes[:, :-1].T + planes[:, -1]
        return np.packbits(sides > 0, axis=1)


def check_transform(transform: CodeTransform, collection: Collection) -> None:
    """Raise InvalidArgumentError if a transform with D + 1 columns cannot encode the vectors of a collection."""
    most = min(MAX_BITS, collection.dimension)
    if transform.bits % BITS_STEP or not MIN_BITS <= transform.bits <= most:
        raise transform_invalid(
            f"transform.hyperplanes has {transform.bits} entries, one for each bit; it must have {MIN_BITS} to "
            f"{MAX_BITS}, a multiple of {BITS_STEP}, and at most {collection.dimension}, the dimension of the vectors",
            "transform.hyperplanes",
        )
    finite = np.isfinite(transform.hyperplanes).all(axis=1)
    if not finite.all():
        raise _row_invalid(int(np.argmin(finite)), "is not finite; every component must be finite")
    directed = transform.hyperplanes[:, :-1].any(axis=1)
    if not directed.all():
        raise _row_invalid(
            int(np.argmin(directed)), "has a normal of zeros, so its bit is the same for every vector; leave it out"
        )


def transform_invalid(problem: str, field: str) -> InvalidArgumentError:
    """Return the error for a transform that cannot encode vectors."""
    return InvalidArgumentError("CODE_TRANSFORM_INVALID", problem, field=field)


def _row_invalid(row: int, problem: str) -> InvalidArgumentError:
    field = f"transform.hyperplanes[{row}]"
    return transform_invalid(f"{field} {problem}", field)


def latest_set(collection: Collection) -> CodeSet:
    """Return the newest code set of a collection. Raises FailedPreconditionError if there is none."""
    if not collection.codes:
        raise codes_missing(collection.name)
    return max(collection.codes, key=lambda codes: codes.number)


def ready_set(collection: Collection, field: str) -> CodeSet:
    """Return the code set that searches use. Raises FailedPreconditionError if no set is ready."""
    ready = [codes for codes in collection.codes if codes.ready]
    if ready:
        return ready[-1]
    if not collection.codes:
        raise codes_missing(collection.name, field)
    raise FailedPreconditionError(
        "CODES_INCOMPLETE",
        f"some images of collection {collection.name} have no code yet; run `imagesearch codes update -c "
        f"{collection.name}` (EncodeImages) to finish",
        field=field,
        metadata={"collection": collection.name},
    )


def codes_missing(collection: str, field: str = "collection") -> FailedPreconditionError:
    """Return the error for a collection without codes."""
    return FailedPreconditionError(
        "CODES_MISSING",
        f"collection {collection} has no binary codes; create them with `imagesearch codes create -c {collection}`",
        field=field,
        metadata={"collection": collection},
    )


def codes_unsupported(field: str = "") -> UnimplementedError:
    """Return the error for a backend without an index of binary vectors."""
    return UnimplementedError(
        "CODES_UNSUPPORTED",
        "Milvus Lite has no index of binary vectors; binary codes need a Milvus server (SEARCH_MILVUS_URI)",
        field=field,
    )
