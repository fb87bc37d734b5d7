"""Lets Pillow decode AVIF, and HEIC if the optional package for it is installed."""

from PIL import AvifImagePlugin

# Many images are decoded at a time already, each in a thread of the embedder's.
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
    "pip install '.[embedder,heic]' in the folder of imagesearch's source brings it to the embedder, and "
    "--build-arg HEIC=yes to its container image"
)
