"""Has Pillow read in the client what the embedder takes."""

import functools

from PIL import PngImagePlugin

# Texts and profiles of a PNG file, decompressed. Pillow refuses an image with larger ones than 1 MiB; the embedder
# ignores them.
MAX_PNG_METADATA = 64 * 2**20
# What the embedder takes. Pillow reads many others, some with the help of other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")


def formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that the embedder takes, as far as they can be read here."""
    return (*FORMATS, "HEIF") if prepare() else FORMATS


@functools.cache
def prepare() -> bool:
    """Raise Pillow's limits on metadata, and add HEIC if its package is installed; return whether it is."""
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = MAX_PNG_METADATA
    try:
        import pillow_heif  # noqa: PLC0415 - an extra
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return True
