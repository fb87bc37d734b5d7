"""Reads what a file declares about its samples, and corrects what Pillow ignores."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image, ImageChops
from PIL.GifImagePlugin import GifImageFile
from PIL.TiffImagePlugin import TiffImageFile

from imagesearch_pixels import bmp, declared_colours, gif, jpeg, png, tiff
from imagesearch_pixels.guards import PillowGuard
from imagesearch_pixels.sample_depth import Depth

OPAQUE = 255

Correction: TypeAlias = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True, slots=True)
class Declarations:
    """What a file declares about its samples."""

    depth: Depth
    corrected: Correction
    """Returns the loaded image with the declarations that Pillow ignores or applies wrongly."""
    is_loaded: bool = True
    """Whether `corrected` requires a loaded image. Otherwise it decodes the file itself, because Pillow is wrong."""
    profile: bytes | None = None
    """A colour profile of the file that Pillow does not read."""


def check_variant(content: bytes) -> None:
    """Raise UnsupportedImageError for a valid file of an unsupported variant, before it is opened."""
    jpeg.check(content)
    png.check(content)


def check_unread(content: bytes) -> None:
    """Raise UnsupportedImageError for a valid file of a variant that Pillow cannot read."""
    bmp.check_unread(content)
    tiff.check_unread(content)


def declarations_of(image: Image.Image, content: bytes, guard: PillowGuard) -> Declarations:
    """Return the declarations of an opened file, before it is loaded. Raises UnsupportedImageError."""
    if isinstance(image, TiffImageFile):
        with guard():
            depth = tiff.prepare(image)
        return Declarations(depth, _without_empty_alpha if tiff.has_undeclared_alpha(image) else _unchanged)
    if (facts := png.facts_of(content)) is not None:
        profile = declared_colours.png_profile(facts)
        return Declarations(Depth(), lambda loaded: _with_transparency(loaded, facts, content, guard), profile=profile)
    header = bmp.facts_of(content)
    if header is not None and bmp.has_misread_palette(image, header):
        return Declarations(Depth(), lambda _: _with_palette(image, header, content, guard), is_loaded=False)
    profile = bmp.profile_of(header, content) if header is not None else None
    return Declarations(Depth(), _correction(image, content), profile=profile)


def _correction(image: Image.Image, content: bytes) -> Correction:
    if image.format in {"JPEG", "MPO"} and image.mode == "CMYK" and "adobe" not in image.info:
        return _inverted
    if image.format == "BMP":
        return _without_empty_alpha
    if isinstance(image, GifImageFile) and "transparency" not in image.info:
        box = image.tile[0].extents if image.tile else None
        if box is not None and box != (0, 0, *image.size):
            return lambda loaded: gif.on_background(loaded, box, content)
    return _unchanged


def _unchanged(image: Image.Image) -> Image.Image:
    return image


def _without_empty_alpha(image: Image.Image) -> Image.Image:
    """Make an image opaque if all of it is transparent: many programs write zeros for unused samples."""
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        image.putalpha(OPAQUE)
    return image


def _inverted(image: Image.Image) -> Image.Image:
    """Undo Pillow's inversion, which is only right for files with Adobe's marker.

    ITU-T T.872, 6.1: without this marker zero is white in each of four components.
    """
    image.paste(ImageChops.invert(image))
    return image


def _with_transparency(image: Image.Image, facts: png.PngFacts, content: bytes, guard: PillowGuard) -> Image.Image:
    png.mark_transparent(image, facts, content, guard)
    return image


def _with_palette(image: Image.Image, header: bmp.BmpFacts, content: bytes, guard: PillowGuard) -> Image.Image:
    with guard():
        return bmp.with_palette(image, header, content)
