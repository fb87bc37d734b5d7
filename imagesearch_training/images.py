"""Image files as pixels, the way the embedder makes them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL import ImageFile as PillowImageFile

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

    The first frame, turned as its EXIF orientation says, in RGB with transparency over white, stretched to the square
    by Pillow's bilinear filter: pixel for pixel what the embedder makes of the same file. Raises UnusableError.
    """
    with _blaming_the_file():
        image = Image.open(BytesIO(content), formats=FORMATS)
    with image as opened:
        pixels = opened.width * opened.height
        if pixels > MAX_IMAGE_PIXELS:
            raise UnusableError(
                f"{opened.width} x {opened.height} = {pixels} pixels; at most {MAX_IMAGE_PIXELS} are taken"
            )
        with _blaming_the_file():
            opened.draft(opened.mode, (DRAFT_MARGIN * size, DRAFT_MARGIN * size))
        resized = _to_rgb(_upright(opened)).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.uint8)


@contextmanager
def _blaming_the_file() -> Iterator[None]:
    """Turn errors of Pillow on invalid bytes into UnusableError, and its lack of memory into MemoryError."""
    try:
        yield
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise UnusableError(NO_IMAGE) from None
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise whatever they stumble on
        if PillowImageFile.ERRORS[-9] in str(error):
            raise MemoryError from None
        raise UnusableError(str(error) or type(error).__name__) from None


def _upright(image: Image.Image) -> Image.Image:
    # First: reading EXIF data may load too, and Pillow turns a TIFF file while it loads it.
    with _blaming_the_file():
        image.load()
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - Pillow's reader raises whatever it stumbles on, and the pixels may be fine
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits in 0..65535; Pillow's own conversion would clip at 255.
        image = Image.fromarray((np.asarray(image).clip(0, 0xFFFF) >> 8).astype(np.uint8))
    elif image.mode in {"F", "LAB"}:
        raise UnusableError(f"images of mode {image.mode} are not trained on; RGB, grey and palette images are")
    if image.has_transparency_data:
        with _blaming_the_file():
            layers = image.convert("RGBA")
        white = Image.new("RGB", layers.size, (255, 255, 255))
        white.paste(layers, mask=layers.getchannel("A"))
        return white
    with _blaming_the_file():
        return image.convert("RGB")
