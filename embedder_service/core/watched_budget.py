"""A budget of pixels whose queue is no sign of a decoder that hangs."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from embedder_service.core.batching import TimeLeft
from embedder_service.core.image_decoding import PixelBudget
from grpc_kit.hang_watch import HangWatch


class WatchedBudget(PixelBudget):
    """Tells the watch over the threads that decode which of them only wait for pixels."""

    def __init__(self, pixels: int, watch: HangWatch) -> None:
        """`pixels` is the most at a time."""
        super().__init__(pixels)
        self._watch = watch

    @contextmanager
    def hold(self, pixels: int, patience: TimeLeft) -> Iterator[None]:
        """Waits until so many pixels are free. Raises DeadlineExceededError."""
        with ExitStack() as stack:
            with self._watch.waiting():
                stack.enter_context(super().hold(pixels, patience))
            yield
