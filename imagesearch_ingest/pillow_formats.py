"""The image formats that Pillow may decode: those that the embedder accepts."""

import functools

# Pillow can read many other formats, some of them with the help of other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")


@functools.cache
def pillow_formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that the embedder accepts, with HEIF if its package is installed."""
    try:
        import pillow_heif  # noqa: PLC0415 - an extra
    except ImportError:
        return FORMATS
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return (*FORMATS, "HEIF")
