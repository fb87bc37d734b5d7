"""What the core needs and does not do itself."""

from typing import Protocol

from embedder_service.core.types import Lane, ModelInfo, Pixels, Vectors


class Model(Protocol):
    """A network that is ready to run."""

    @property
    def info(self) -> ModelInfo:
        """What the model does to an image."""
        ...

    def embed(self, pixels: Pixels) -> Vectors:
        """Embeds uint8[N, H, W, 3], N at most `info.max_batch_size`, as float32[N, D]. Blocks; one call at a time."""
        ...


class Observer(Protocol):
    """Is told what happens, for metrics. Times are in seconds."""

    def decoded(self, lane: Lane, seconds: float) -> None:
        """An image was decoded."""
        ...

    def waited(self, lane: Lane, seconds: float) -> None:
        """A decoded image's run began after it had waited for that."""
        ...

    def ran(self, images: int, seconds: float) -> None:
        """The network ran a batch."""
        ...

    def answered(self, lane: Lane, result: str) -> None:
        """An image was answered: "embedded", "shared" (with an equal one), "cached", or the reason of a refusal."""
        ...
