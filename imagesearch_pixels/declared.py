"""What a file declares about its samples, and what Pillow makes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image, ImageChops
from PIL.GifImagePlugin import GifImageFile
from PIL.TiffImagePlugin import TiffImageFile

from imagesearch_pixels import bmp, declared_colours, gif, jpeg, png, tiff
from imagesearch_pixels.depths import Depth
from imagesearch_pixels.reading import Reading

OPAQUE = 255

Correction: TypeAlias = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True, slots=True)
class Declared:
    """What is to be done with a file's pixels."""

    depth: Depth
    corrected: Correction
    """Returns the loaded image with the declarations applied that Pillow ignores, or applies to the wrong numbers."""
    is_loaded: bool = True
    """Whether `corrected` takes a loaded image. Else it decodes the file itself, because Pillow would do it wrongly."""
    profile: bytes | None = None
    """A profile of the file's colours of which Pillow does not know."""


def check_variant(content: bytes) -> None:
    """Raise UnsupportedImageError for a sound file of a variant that is recognised before it is opened."""
    jpeg.check(content)
    png.check(content)


def check_unread(content: bytes) -> None:
    """Raise UnsupportedImageError for a file that Pillow does not read because of its variant."""
    bmp.check_unread(content)
    tiff.check_unread(content)


def declare(image: Image.Image, content: bytes, reading: Reading) -> Declared:
    """Return what an opened file declares, before it is loaded. Raises UnsupportedImageError."""
    if isinstance(image, TiffImageFile):
        with reading():
            depth = tiff.prepare(image)
        return Declared(depth, _without_empty_alpha if tiff.has_undeclared_alpha(image) else _as_it_is)
    if (facts := png.facts_of(content)) is not None:
        profile = declared_colours.png_profile(facts)
        return Declared(Depth(), lambda loaded: _with_transparency(loaded, facts, content, reading), profile=profile)
    header = bmp.facts_of(content)
    if header is not None and bmp.has_misread_palette(image, header):
        return Declared(Depth(), lambda _: _with_palette(image, header, content, reading), is_loaded=False)
    profile = bmp.profile_of(header, content) if header is not None else None
    return Declared(Depth(), _correction(image, content), profile=profile)


def _correction(image: Image.Image, content: bytes) -> Correction:
    if image.format in {"JPEG", "MPO"} and image.mode == "CMYK" and "adobe" not in image.info:
        return _inverted
    if image.format == "BMP":
        return _without_empty_alpha
    if isinstance(image, GifImageFile) and "transparency" not in image.info:
        box = image.tile[0].extents if image.tile else None
        if box is not None and box != (0, 0, *image.size):
            return lambda loaded: gif.on_background(loaded, box, content)
    return _as_it_is


def _as_it_is(image: Image.Image) -> Image.Image:
    return image


def _without_empty_alpha(image: Image.Image) -> Image.Image:
    """Make an image opaque if all of it is transparent: many programs leave samples zero that nobody reads."""
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        image.putalpha(OPAQUE)
    return image


def _inverted(image: Image.Image) -> Image.Image:
    """Undo Pillow's inversion, which is right for Adobe's files.

    ITU-T T.872, 6.1: without Adobe's marker zero is white in each of four components.
    """
    image.paste(ImageChops.invert(image))
    return image


def _with_transparency(image: Image.Image, facts: png.PngFacts, content: bytes, reading: Reading) -> Image.Image:
    png.mark_transparent(image, facts, content, reading)
    return image


def _with_palette(image: Image.Image, header: bmp.BmpFacts, content: bytes, reading: Reading) -> Image.Image:
    with reading():
        return bmp.with_palette(image, header, content)
