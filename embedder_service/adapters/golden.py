"""Golden vectors: a network that does not give them is not the network that it claims to be, and is not served."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedder_service.core.types import Pixels, Vectors

# The least cosine of a vector with its golden one, by precision. bfloat16 keeps eight bits of each number: measured
# 0.99998, so that these leave room for another processor's order of additions, and for no other mistake.
LEAST_COSINE = {"float32": 0.9999, "bfloat16": 0.999}


class GoldenError(Exception):
    """A network gives other vectors than it should."""


@dataclass(frozen=True)
class Golden:
    """Some images, and the vectors that Keras' own layers give for them in float32."""

    pixels: Pixels
    """uint8[N, S, S, 3]."""
    vectors: Vectors
    """float32[N, D]."""
    weights_sha256: str
    """The weights that the vectors were made with."""

    @classmethod
    def of(cls, model: str) -> "Golden":
        """Those that come with this package; for a network that has none, images without vectors."""
        known = path_of(model).exists()
        with np.load(path_of(model if known else "vgg16")) as file:
            if not known:
                return cls(file["pixels"], np.zeros((0, 0), np.float32), "")
            return cls(file["pixels"], file["vectors"], str(file["weights_sha256"]))

    def check(self, vectors: Vectors, precision: str) -> None:
        """Raises GoldenError where the vectors of `pixels` are not the golden ones."""
        least = float(cosines(vectors, self.vectors).min())
        # Not a number is not enough either.
        if not least >= LEAST_COSINE[precision]:
            raise GoldenError(
                f"the network gives wrong vectors on this machine: a cosine of {least:.6f} with the golden ones, "
                f"where {precision} should have {LEAST_COSINE[precision]}"
            )


def path_of(model: str) -> Path:
    """The file of a model's golden vectors."""
    return Path(__file__).parent / "golden" / f"{model}.npz"


def likeness(some: Vectors, others: Vectors) -> NDArray[np.float64]:
    """Return the likeness of each row to the same row of the other matrix, float64[N]: the cosine at unit length.

    It is lower if the rows also differ in length.
    """
    wide, other = some.astype(np.float64), others.astype(np.float64)
    found: NDArray[np.float64] = 1 - np.square(wide - other).sum(axis=1) / (2 * np.square(other).sum(axis=1))
    return found


def cosines(some: Vectors, others: Vectors) -> NDArray[np.float64]:
    """The cosine of each row with the same row of the other matrix, float64[N]."""
    wide, other = some.astype(np.float64), others.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1) * np.linalg.norm(other, axis=1)
    products: NDArray[np.float64] = (wide * other).sum(axis=1) / lengths
    return products
