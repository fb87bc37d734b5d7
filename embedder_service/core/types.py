"""Plain values of the embedder's core."""

import hashlib
import json
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

# An upright RGB image, uint8[height, width, 3]; or a batch of images, uint8[N, height, width, 3].
Pixels = NDArray[np.uint8]
# A vector, float32[D]; or the vectors of a batch, float32[N, D].
Vectors = NDArray[np.float32]

# The heads that pool each cell of a feature map alike, so that they can pool a part of it.
POOLABLE_HEADS = ("avg", "max", "gem")
# The version of the rules for regions: how regions are proposed, and which cells of the map belong to a box.
REGIONS_VERSION = 1
# Maximum number of images in a batch, whatever the settings say.
MAX_BATCH_SIZE = 32
# Limits of one request.
MAX_REGIONS, MAX_BOXES = 64, 64

Shape: TypeAlias = Literal["squash", "pad", "crop", "native", "config"]


class Lane(Enum):
    """Who waits for an image: a caller with a deadline, or a bulk load."""

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
    """The bytes of an image file, and the region to embed; None is the whole image."""

    content: bytes
    region: Region | None = None


@dataclass(frozen=True)
class Embedding:
    """A vector, float32[D], its fingerprint, and the image's regions if they were requested."""

    values: Vectors
    fingerprint: str
    regions: "Regions | None" = None


@dataclass(frozen=True)
class RegionRequest:
    """The regions of an image to embed: at most `max_regions` proposals, and boxes that the caller chose."""

    max_regions: int = 0
    boxes: tuple[Region, ...] = ()
    path: str = field(default="options", compare=False)
    """Where the caller's message has this request, for errors."""

    def path_of(self, box: int) -> str:
        """Return the path of a box in the caller's message."""
        return f"{self.path}.boxes[{box}]"

    @property
    def max_vectors(self) -> int:
        """The maximum number of vectors in the response."""
        return 1 + min(max(self.max_regions, 0), MAX_REGIONS) + min(len(self.boxes), MAX_BOXES)


@dataclass(frozen=True)
class RegionVector:
    """A region with its vector, float32[D], and how much it stands out; 0 for a box that the caller chose."""

    box: Region
    values: Vectors
    saliency: float = 0.0


@dataclass(frozen=True)
class Regions:
    """The regions of an image with their vectors."""

    proposals: tuple[RegionVector, ...]
    """The most salient first."""
    boxes: tuple[RegionVector, ...]
    """In the order of the request."""
    salient_box: Region


@dataclass(frozen=True)
class ImageVectors:
    """The vector of an image, float32[D], and its regions if they were requested."""

    values: Vectors
    regions: Regions | None = None

    @property
    def count(self) -> int:
        """The number of vectors."""
        return 1 if self.regions is None else 1 + len(self.regions.proposals) + len(self.regions.boxes)


@dataclass(frozen=True)
class InputPolicy:
    """How an upright image is resized to a network's input."""

    shape: Shape
    """`squash` stretches the image to a square. `pad` keeps its aspect ratio and adds black bars. `crop` takes the
    square in the middle. `native` keeps the aspect ratio, with sides that are multiples of 32. `config` follows the
    `preprocessor_config.json` of an encoder."""
    side: int
    """Side of the square in pixels; with `native`, the maximum of the longer side."""
    min_side: int = 32
    """Minimum of a side in pixels, with `native`."""
    preparation: Hashable | None = None
    """What the file says, with `config`: a `core.image_preparation.Preparation`."""


@dataclass(frozen=True)
class ModelInfo:
    """Describes a model: what it computes from an image, and how it runs."""

    name: str
    network: str
    dimension: int
    input: InputPolicy
    head: str
    preprocessing: str
    """A name with a version. It changes whenever the values of the network's input change."""
    normalisation: str
    weights_sha256: str
    precision: str
    max_batch_size: int
    threads: int
    seconds_per_image: float = 0.0
    """Seconds per image of a full batch, measured at start; 0 before that."""
    memory_bytes: int = 0
    """Growth of the process's memory when the model was loaded, without what it shares with earlier models."""
    is_encoder: bool = False
    """Whether it is an encoder from a folder: the operator chooses its name, and `weights_sha256` is of its file."""

    @property
    def embeds_regions(self) -> bool:
        """Whether boxes of its feature map can be pooled as the whole map is, at the image's aspect ratio."""
        return self.input.shape == "native" and self.head in POOLABLE_HEADS

    @cached_property
    def region_fingerprint(self) -> str:
        """Names the vector space of images with regions; empty if the model cannot embed regions."""
        if not self.embeds_regions:
            return ""
        digest = hashlib.sha256(f"{self.fingerprint} regions {REGIONS_VERSION}".encode()).hexdigest()
        return f"{self.network}-{self.head}-regions-{digest[:16]}"

    @property
    def seconds_per_batch(self) -> float:
        """Seconds of a full batch."""
        return self.max_batch_size * self.seconds_per_image

    @cached_property
    def fingerprint(self) -> str:
        """Names the vector space. Only vectors of the same fingerprint can be compared.

        It depends on the network, the weights, the head, the preprocessing and the normalisation. It does not depend
        on the precision, on how the model runs, on the location of files, or on the name of an encoder.
        """
        parts = {
            "input_size": self.input.side,
            "normalisation": self.normalisation,
            # Collections store fingerprints, so this key must not change.
            "pooling": self.head,
            "preprocessing": self.preprocessing,
            "weights_sha256": self.weights_sha256,
        }
        if not self.is_encoder:
            # Operators cannot change the name of a published network's model.
            parts["name"] = self.name
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return f"{'encoder' if self.is_encoder else self.network}-{self.head}-{digest[:16]}"


@dataclass(frozen=True)
class Limits:
    """The limits of an image."""

    max_image_bytes: int
    max_image_pixels: int
