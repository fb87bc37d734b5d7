"""Enables AVIF in Pillow, and HEIC if the optional package pillow-heif is installed."""

from PIL import AvifImagePlugin

# The embedder already decodes many images at a time, each in its own thread.
THREADS = 1
AvifImagePlugin.DEFAULT_MAX_THREADS = THREADS

try:
    import pillow_heif
except ImportError:
    HEIC_FORMATS: tuple[str, ...] = ()
else:
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=THREADS)
    HEIC_FORMATS = ("HEIF",)

HOW_TO_INSTALL = (
    "run pip install '.[embedder,heic]' in the folder of imagesearch's source, or build the embedder's container "
    "image with --build-arg HEIC=yes"
)
