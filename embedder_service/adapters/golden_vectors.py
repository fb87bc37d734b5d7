"""Golden vectors: a backbone must reproduce these vectors; otherwise it is not served."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedder_service.core.image_decoding import fit
from embedder_service.core.types import InputPolicy, Pixels, Vectors

# Minimum cosine of a vector and its golden vector, by precision. bfloat16 keeps eight bits of each number; its measured
# cosine is 0.99998. The limits only allow for the order of additions of other processors.
MIN_COSINE = {"float32": 0.9999, "bfloat16": 0.999}

# Models that need other inputs than the golden vectors get only every third image, because large inputs are slow.
PROBED_IMAGES = slice(None, None, 3)


class GoldenError(Exception):
    """A model computes wrong vectors."""


@dataclass(frozen=True)
class GoldenVectors:
    """Images, and the vectors that Keras' own layers compute for them in float32."""

    pixels: Pixels
    """uint8[N, S, S, 3]."""
    vectors: Vectors
    """float32[N, D]."""
    weights_sha256: str
    """The digest of the weights that computed the vectors."""

    @classmethod
    def of(cls, weights: str) -> "GoldenVectors":
        """Return the golden vectors of these weights; if the package has none, images without vectors."""
        known = path_of(weights).exists()
        with np.load(path_of(weights if known else "vgg16")) as file:
            if not known:
                return cls(file["pixels"], np.zeros((0, 0), np.float32), "")
            return cls(file["pixels"], file["vectors"], str(file["weights_sha256"]))

    def check(self, vectors: Vectors, precision: str) -> None:
        """Raise GoldenError if the vectors of `pixels` are not the golden vectors."""
        lowest = float(cosines(vectors, self.vectors).min())
        # Written so that NaN fails.
        if not lowest >= MIN_COSINE[precision]:
            raise GoldenError(
                f"wrong vectors on this machine: their cosine with the golden vectors is {lowest:.6f}; in "
                f"{precision} it must be at least {MIN_COSINE[precision]}"
            )


def golden_batches(golden: GoldenVectors, policy: InputPolicy) -> list[Pixels]:
    """Return batches of golden images, uint8[N, H, W, 3]: stretched to 4:3, then resized by the decoder's code."""
    size = (policy.side, max(1, policy.side * 3 // 4))
    images = [
        np.asarray(fit(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), None, policy), np.uint8)
        for pixels in golden.pixels[PROBED_IMAGES]
    ]
    return [image[np.newaxis] for image in images] if policy.shape == "native" else [np.stack(images)]


def path_of(weights: str) -> Path:
    """Return the file of the golden vectors of these weights."""
    return Path(__file__).parent / "golden" / f"{weights}.npz"


def similarity(vectors: Vectors, expected: Vectors) -> NDArray[np.float64]:
    """Return the similarity of each row and the same expected row, float64[N].

    It is the cosine if the rows have unit length, and lower if the rows differ in length.
    """
    left, right = vectors.astype(np.float64), expected.astype(np.float64)
    found: NDArray[np.float64] = 1 - np.square(left - right).sum(axis=1) / (2 * np.square(right).sum(axis=1))
    return found


def cosines(vectors: Vectors, expected: Vectors) -> NDArray[np.float64]:
    """Return the cosine of each row and the same expected row, float64[N]."""
    left, right = vectors.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    found: NDArray[np.float64] = (left * right).sum(axis=1) / lengths
    return found
