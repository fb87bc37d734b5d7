"""The progress of `imagesearch train-autoencoder` on the terminal, and how Ctrl-C ends it."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Self

from imagesearch_cli.console import NAMED, note
from imagesearch_cli.progress import Counter, show_progress

if TYPE_CHECKING:
    from imagesearch_training.checkpoints import Epoch
    from imagesearch_training.dataset import Photographs


class TrainingProgress:
    """Shows a progress bar while images are read, then a line for each epoch."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._open = ExitStack()
        self._bar: Counter | None = None
        self.done: list[Epoch] = []
        self._interrupted = False

    @contextmanager
    def catching_interrupts(self) -> Iterator[None]:
        """Make Ctrl-C end the training at the end of an epoch at the latest.

        Python drops a KeyboardInterrupt in a destructor, and TensorFlow has many of them.
        """

        def interrupt(_: int, __: object) -> None:
            self._interrupted = True
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the progress bar."""
        self._open.close()

    def decoding_started(self, total: int) -> None:
        """Show a progress bar for `total` files."""
        self._bar = self._open.enter_context(show_progress(total))

    def files_decoded(self, done: int) -> None:
        """Update the progress bar."""
        if self._bar is not None:
            self._bar.reach(done)

    def epochs_started(self, photographs: "Photographs", parameters: int, done: Sequence["Epoch"]) -> None:
        """Print the numbers of images and parameters, and the files that were skipped."""
        self.close()
        for skipped in photographs.skipped[:NAMED]:
            note(f"{skipped.name}: {skipped.message}", "red")
        if len(photographs.skipped) > NAMED:
            note(f"and {len(photographs.skipped) - NAMED} more; skipped.csv of the model lists all")
        note(
            f"{len(photographs.training)} images to train on, {len(photographs.validation)} for validation, "
            f"{len(photographs.skipped)} skipped; {parameters:,} parameters"
        )
        self.done = list(done)
        if done:
            note(f"resumes after epoch {done[-1].number}")

    def epoch_ended(self, epoch: "Epoch", *, best: bool) -> None:
        """Print the losses of an epoch."""
        self.done.append(epoch)
        width = len(str(self._epochs))
        note(
            f"epoch {epoch.number:{width}}/{self._epochs}  loss {epoch.loss:.5f}  "
            f"validation {epoch.validation_loss:.5f}  {epoch.seconds:.1f} s{'  best so far' if best else ''}"
        )
        if self._interrupted:
            raise KeyboardInterrupt
