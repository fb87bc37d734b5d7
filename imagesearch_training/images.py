"""Image files as pixels, the way the embedder makes them."""

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
# The embedder's default.
MAX_IMAGE_PIXELS = 50_000_000
# A large JPEG is decoded at a part of its size, but never below this many times the result's.
DRAFT_MARGIN = 2
NO_IMAGE = f"it is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"


class UnusableError(ValueError):
    """A file that cannot be used for training; the message says why."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file, before it is read."""

    name: str
    """What it is known by, such as its path below its folder."""
    stamp: str
    """Another one when the file has changed, such as its size and its time of change."""
    read: Callable[[], bytes]
    """Gives its content; it may be called in any thread. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that could not be used."""

    name: str
    message: str


def decode(content: bytes, size: int) -> Pixels:
    """An image file's content as uint8[size, size, 3].

    The first frame, turned as its EXIF orientation says, in sRGB with transparency over white, stretched to the square
    by Pillow's bilinear filter: pixel for pixel what the embedder makes of the same file. Raises UnusableError.
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
                f"{opened.width} x {opened.height} = {pixels} pixels; at most {MAX_IMAGE_PIXELS} are taken"
            )
        declared = declarations_of(opened, picture, GUARD)
        with _blaming_the_file():
            opened.draft(opened.mode, (DRAFT_MARGIN * size, DRAFT_MARGIN * size))
        image, conversion = to_upright_rgb(opened, declared, GUARD)
        resized = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized if conversion is None else conversion(resized), dtype=np.uint8)


@contextmanager
def _blaming_the_file() -> Iterator[None]:
    """Turn errors of Pillow on invalid bytes into UnusableError, and its lack of memory into MemoryError."""
    try:
        yield
    except (MemoryError, UnsupportedImageError):
        raise
    except UnidentifiedImageError:
        raise UnusableError(NO_IMAGE) from None
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise whatever they stumble on
        if PillowImageFile.ERRORS[-9] in str(error):
            raise MemoryError from None
        raise UnusableError(str(error) or type(error).__name__) from None


GUARD = PillowGuard(_blaming_the_file, UnusableError)
