"""Binary codes of vectors: the maths, and the rules for what makes them."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from grpc_kit.errors import FailedPreconditionError, InvalidArgumentError, UnimplementedError
from search_service.core.types import CodeSet, Collection, Metric, Vector

# uint8[N, bits / 8], the first bit of a code the highest of its first byte.
Codes: TypeAlias = NDArray[np.uint8]

MIN_BITS, MAX_BITS, BITS_STEP = 64, 512, 8
VERSION_DIGITS = 16


@dataclass(frozen=True)
class CodeTransform:
    """What makes a code of a vector: bit k of x is 1 where w_k . x + b_k > 0.

    A rotation of principal components round the mean, which is how ITQ makes codes (Gong and Lazebnik, "Iterative
    Quantization: A Procrustean Approach to Learning Binary Codes", CVPR 2011), is such a map.
    """

    hyperplanes: Vector
    """float32[bits, D + 1]: a row is the normal w_k and then the offset b_k."""

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return len(self.hyperplanes)

    @cached_property
    def version(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 over the rows, little-endian and one after the other."""
        rows = np.ascontiguousarray(self.hyperplanes, "<f4").tobytes()
        return hashlib.sha256(rows).hexdigest()[:VERSION_DIGITS]

    def encode(self, vectors: Vector, metric: Metric) -> Codes:
        """The codes of float32[N, D], which are scaled to length 1 first where the metric is COSINE."""
        if metric is Metric.COSINE:
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        # Scaled by powers of two, which change no side: products of large hyperplanes would be infinite.
        largest = np.abs(self.hyperplanes).max(axis=1, keepdims=True)
        planes = np.ldexp(self.hyperplanes, -np.frexp(largest)[1])
        sides = vectors @ planes[:, :-1].T + planes[:, -1]
        return np.packbits(sides > 0, axis=1)


def check_transform(transform: CodeTransform, collection: Collection) -> None:
    """A transform makes good codes of the collection's vectors; all its rows have the right number of columns."""
    most = min(MAX_BITS, collection.dimension)
    if transform.bits % BITS_STEP or not MIN_BITS <= transform.bits <= most:
        raise transform_invalid(
            f"transform.hyperplanes has {transform.bits}, one for each bit; it should have {MIN_BITS} to {MAX_BITS}, a "
            f"multiple of {BITS_STEP}, and at most the {collection.dimension} of the vectors' dimension",
            "transform.hyperplanes",
        )
    finite = np.isfinite(transform.hyperplanes).all(axis=1)
    if not finite.all():
        raise _row_invalid(int(np.argmin(finite)), "is not finite; every component should be")
    directed = transform.hyperplanes[:, :-1].any(axis=1)
    if not directed.all():
        raise _row_invalid(int(np.argmin(directed)), "has a normal of zeros; such a bit is the same for every vector")


def transform_invalid(problem: str, field: str) -> InvalidArgumentError:
    """A transform that makes no codes."""
    return InvalidArgumentError("CODE_TRANSFORM_INVALID", problem, field=field)


def _row_invalid(row: int, problem: str) -> InvalidArgumentError:
    field = f"transform.hyperplanes[{row}]"
    return transform_invalid(f"{field} {problem}", field)


def latest_of(collection: Collection) -> CodeSet:
    """The set of codes that was made last. Raises FailedPreconditionError where there is none."""
    if not collection.codes:
        raise codes_missing(collection.name)
    return max(collection.codes, key=lambda codes: codes.number)


def ready_of(collection: Collection, field: str) -> CodeSet:
    """The set of codes that a search may use. Raises FailedPreconditionError where there is none."""
    ready = [codes for codes in collection.codes if codes.ready]
    if ready:
        return ready[-1]
    if not collection.codes:
        raise codes_missing(collection.name, field)
    raise FailedPreconditionError(
        "CODES_INCOMPLETE",
        f"not every image of collection {collection.name} has a code yet; `imagesearch codes encode {collection.name}` "
        "(EncodeImages) goes on with that",
        field=field,
        metadata={"collection": collection.name},
    )


def codes_missing(collection: str, field: str = "collection") -> FailedPreconditionError:
    """The collection has no codes."""
    return FailedPreconditionError(
        "CODES_MISSING",
        f"collection {collection} has no binary codes; `imagesearch codes create {collection}` makes them",
        field=field,
        metadata={"collection": collection},
    )


def codes_unsupported(field: str = "") -> UnimplementedError:
    """The backend has no index of binary vectors."""
    return UnimplementedError(
        "CODES_UNSUPPORTED",
        "Milvus Lite has no index of binary vectors; binary codes need a Milvus server (SEARCH_MILVUS_URI)",
        field=field,
    )
