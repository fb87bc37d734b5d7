"""A budget of pixels that tells the hang watch which decoders only wait."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from embedder_service.core.batching import TimeLeft
from embedder_service.core.image_decoding import PixelBudget
from grpc_kit.hang_watch import HangWatch


class WatchedBudget(PixelBudget):
    """Does not count the time in which a thread waits for pixels as work."""

    def __init__(self, pixels: int, watch: HangWatch) -> None:
        """`pixels` is the maximum at a time."""
        super().__init__(pixels)
        self._watch = watch

    @contextmanager
    def hold(self, pixels: int, patience: TimeLeft) -> Iterator[None]:
        """Wait until this many pixels are free. Raises DeadlineExceededError."""
        with ExitStack() as stack:
            with self._watch.waiting():
                stack.enter_context(super().hold(pixels, patience))
            yield
