"""The interfaces that the core needs from outside."""

from collections.abc import Sequence
from typing import Protocol

from embedder_service.core.types import ImageVectors, Lane, ModelInfo, Pixels, RegionRequest


class Model(Protocol):
    """A loaded model."""

    @property
    def info(self) -> ModelInfo:
        """Describes the model."""
        ...

    def run(self, pixels: Pixels, requests: Sequence[RegionRequest | None], /) -> list[ImageVectors]:
        """Embed uint8[N, H, W, 3], N at most `info.max_batch_size`. Blocks; one call at a time.

        `requests` has the regions to embed for each image; None for no regions.
        """
        ...


class Observer(Protocol):
    """Receives events, for metrics. Times are in seconds."""

    def decoded(self, lane: Lane, seconds: float) -> None:
        """An image was decoded in this time."""
        ...

    def queued(self, lane: Lane, seconds: float) -> None:
        """A decoded image waited this time for its run."""
        ...

    def batch_ran(self, images: int, seconds: float) -> None:
        """The model ran a batch."""
        ...

    def answered(self, lane: Lane, result: str) -> None:
        """An image was answered: "embedded", "shared" (with an equal image), "cached", or the reason of an error."""
        ...
