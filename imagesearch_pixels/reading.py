"""What every module here needs to read a file."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """How a caller guards calls of Pillow that read a file: `with reading(): ...`."""

    guard: Callable[[], AbstractContextManager[None]]
    """Turns Pillow's errors into `refusal`; lets UnsupportedImageError, or what stands for it, and MemoryError pass."""
    refusal: type[Exception] | tuple[type[Exception], ...]

    def __call__(self) -> AbstractContextManager[None]:
        """Return a new guard."""
        return self.guard()


class UnsupportedImageError(ValueError):
    """A sound file of a variant that cannot be read rightly; the message names what the file declares."""


class TooManyPartsError(ValueError):
    """A file of so many parts that reading them takes far longer than usual."""
