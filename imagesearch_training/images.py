"""Decodes image files to the same pixels as the embedder."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL import ImageFile as PillowImageFile

from imagesearch_pixels.colours import to_upright_rgb
from imagesearch_pixels.declarations import declarations_of
from imagesearch_pixels.guards import PillowGuard, TooManyPartsError, UnsupportedImageError
from imagesearch_pixels.opening import open_image

Pixels: TypeAlias = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
# The default of EMBEDDER_MAX_IMAGE_PIXELS.
MAX_IMAGE_PIXELS = 50_000_000
# A large JPEG is scaled while it is decoded, to at least this many times the result's side.
DRAFT_MARGIN = 2
NOT_AN_IMAGE = f"the file is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"


class UnusableError(ValueError):
    """A file cannot be used for training. The message says why."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file that is not read yet."""

    name: str
    """A name for messages, such as the path below its folder."""
    stamp: str
    """A text that changes when the file changes, such as its size and modification time."""
    read: Callable[[], bytes]
    """Returns the content of the file. Any thread may call this function. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that cannot be used, and the reason."""

    name: str
    message: str


def decode(content: bytes, size: int) -> Pixels:
    """Return the pixels of an image file, uint8[size, size, 3].

    The pixels equal the embedder's pixels of the same file: the first frame, rotated by its EXIF orientation, in sRGB.
    Transparent parts are blended with white. Pillow's bilinear filter stretches the image to a square.

    Raises UnusableError.
    """
    try:
        return _decode(content, size)
    except (UnsupportedImageError, TooManyPartsError) as error:
        raise UnusableError(str(error)) from None


def _decode(content: bytes, size: int) -> Pixels:
    opened, picture = open_image(content, FORMATS, GUARD)
    with opened:
        pixels = opened.width * opened.height
        if pixels > MAX_IMAGE_PIXELS:
            raise UnusableError(
                f"{opened.width} x {opened.height} = {pixels} pixels; the maximum is {MAX_IMAGE_PIXELS}"
            )
        declared = declarations_of(opened, picture, GUARD)
        with _converted_errors():
            opened.draft(opened.mode, (DRAFT_MARGIN * size, DRAFT_MARGIN * size))
        image, conversion = to_upright_rgb(opened, declared, GUARD)
        resized = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized if conversion is None else conversion(resized), dtype=np.uint8)


@contextmanager
def _converted_errors() -> Iterator[None]:
    """Convert Pillow's errors on invalid bytes to UnusableError, and a lack of memory to MemoryError."""
    try:
        yield
    except (MemoryError, UnsupportedImageError):
        raise
    except UnidentifiedImageError:
        raise UnusableError(NOT_AN_IMAGE) from None
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise errors of any class
        if PillowImageFile.ERRORS[-9] in str(error):
            raise MemoryError from None
        raise UnusableError(str(error) or type(error).__name__) from None


GUARD = PillowGuard(_converted_errors, UnusableError)
