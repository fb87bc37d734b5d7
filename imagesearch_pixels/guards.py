"""Guards for calls of Pillow, and the errors of this package."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PillowGuard:
    """Converts Pillow's errors while a file is read: `with guard(): ...`."""

    context: Callable[[], AbstractContextManager[None]]
    """Returns a context that converts Pillow's errors to `refusal`, but not UnsupportedImageError and MemoryError."""
    refusal: type[Exception] | tuple[type[Exception], ...]
    """The classes of the converted errors."""

    def __call__(self) -> AbstractContextManager[None]:
        """Return a new context."""
        return self.context()


class UnsupportedImageError(ValueError):
    """The file is valid, but of a variant that is not decoded correctly. The message says what the file declares."""


class TooManyPartsError(ValueError):
    """The file has so many parts that reading it takes much longer than usual."""
