"""The plain values that the embedder's core speaks."""

import hashlib
import json
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

# An upright RGB image, uint8[height, width, 3]; a batch of them, uint8[N, height, width, 3].
Pixels = NDArray[np.uint8]
# One vector, float32[D]; a batch of them, float32[N, D].
Vectors = NDArray[np.float32]


Shape: TypeAlias = Literal["squash", "pad", "crop", "native"]


class Lane(Enum):
    """Who waits for an image: a caller with a deadline, or a load that only wants throughput."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


@dataclass(frozen=True)
class Region:
    """A box in fractions of an upright image's width and height."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class EncodedImage:
    """The bytes of an image file, and the part of the image that counts; None is the whole."""

    content: bytes
    region: Region | None = None


@dataclass(frozen=True)
class Embedding:
    """A vector, float32[D], and the fingerprint of the space that it lives in."""

    values: Vectors
    fingerprint: str


@dataclass(frozen=True)
class InputPolicy:
    """How an upright image becomes a network's input."""

    shape: Shape
    """`squash` stretches it to the square, `pad` keeps its aspect between black bars, `crop` takes the square in its
    middle, `native` keeps its aspect (each side a multiple of 32)."""
    side: int
    """Pixels: of the square, or the most that `native` leaves of the longer side."""
    least: int = 32
    """Pixels: the least that `native` makes of a side."""


@dataclass(frozen=True)
class ModelInfo:
    """A model: what it computes from an image, and how it runs."""

    name: str
    network: str
    dimension: int
    input: InputPolicy
    pooling: str
    preprocessing: str
    """A name with a version, which changes whenever the numbers do."""
    normalisation: str
    weights_sha256: str
    precision: str
    max_batch_size: int
    threads: int
    seconds_per_image: float = 0.0
    """Of a full batch, as measured at start; 0 where it was not."""
    memory_bytes: int = 0
    """What the process's memory grew by for it; what it shares with a model that was loaded before is not counted."""
    is_encoder: bool = False
    """Whether it is an encoder from a folder. The operator chooses its name; `weights_sha256` is of its file."""

    @property
    def seconds_per_batch(self) -> float:
        """Of a full batch."""
        return self.max_batch_size * self.seconds_per_image

    @cached_property
    def fingerprint(self) -> str:
        """Names the space of the vectors: vectors of equal fingerprints can be compared, others cannot.

        It depends on the network, its weights, the head, the preprocessing and the normalisation. It does not depend
        on the precision, on how the model runs, on the location of files, or on the name of an encoder.
        """
        parts = {
            "input_size": self.input.side,
            "normalisation": self.normalisation,
            "pooling": self.pooling,
            "preprocessing": self.preprocessing,
            "weights_sha256": self.weights_sha256,
        }
        if not self.is_encoder:
            # The name of a published network's model consists of its parts: operators cannot change it.
            parts["name"] = self.name
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return f"{'encoder' if self.is_encoder else self.network}-{self.pooling}-{digest[:16]}"


@dataclass(frozen=True)
class Limits:
    """The largest image that is taken."""

    max_image_bytes: int
    max_image_pixels: int
