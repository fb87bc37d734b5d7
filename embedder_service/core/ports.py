"""What the core needs and does not do itself."""

from typing import Protocol

from embedder_service.core.types import ModelInfo, Pixels, Vectors


class Model(Protocol):
    """A network that is ready to run."""

    @property
    def info(self) -> ModelInfo:
        """What the model does to an image."""
        ...

    def embed(self, pixels: Pixels) -> Vectors:
        """Embeds uint8[N, S, S, 3], N at most `info.max_batch_size`, as float32[N, D]. Blocks; one call at a time."""
        ...
