"""Has Pillow read in the client what the embedder takes."""

import functools

# What the embedder takes. Pillow reads many others, some with the help of other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")


@functools.cache
def pillow_formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that the embedder takes; of HEIC if its package is installed."""
    try:
        import pillow_heif  # noqa: PLC0415 - an extra
    except ImportError:
        return FORMATS
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return (*FORMATS, "HEIF")
