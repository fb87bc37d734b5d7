"""Converts an opened image to upright RGB over white."""

from PIL import ExifTags, Image, ImageCms

from imagesearch_pixels.declarations import Declarations
from imagesearch_pixels.guards import PillowGuard
from imagesearch_pixels.sample_depth import Depth

# The operation that makes an image upright, by its EXIF orientation (Exif 2.32, tag 0x0112).
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WHITE = (255, 255, 255)
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


def upright(image: Image.Image, declared: Declarations, guard: PillowGuard) -> Image.Image:
    """Load an opened image, apply what its file declares, and make it upright by its EXIF orientation.

    EXIF data that cannot be read is ignored.
    """
    # Load first: Pillow makes a TIFF upright while it loads it, and reading EXIF data may also load the image.
    if declared.is_loaded:
        with guard():
            image.load()
    image = declared.corrected(image)
    transpose = _transpose_of(image, guard)
    return image if transpose is None else image.transpose(transpose)


def _transpose_of(image: Image.Image, guard: PillowGuard) -> Image.Transpose | None:
    try:
        with guard():
            orientation = image.getexif().get(ExifTags.Base.Orientation)
    except guard.refusal:
        return None
    return TRANSPOSES.get(orientation) if isinstance(orientation, int) else None


def to_rgb(image: Image.Image, depth: Depth, guard: PillowGuard, *, keep_inks: bool = False) -> Image.Image:
    """Return an upright image of any of Pillow's modes as RGB, with transparency over white.

    With `keep_inks` CMYK stays CMYK. Raises UnsupportedImageError.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "CMYK" and keep_inks:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        image = depth.narrowed(image)
    elif image.mode == "LAB":
        profiles = (ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"))
        with guard():
            converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        return converted if converted is not None else image
    elif image.mode in PREMULTIPLIED:
        image = _converted(PREMULTIPLIED[image.mode], image, guard)
    with guard():
        # This reads the file's palette.
        is_transparent = image.has_transparency_data
    if is_transparent:
        layers = image if image.mode == "RGBA" else _converted("RGBA", image, guard)
        white = Image.new("RGB", layers.size, WHITE)
        white.paste(layers, mask=layers.getchannel("A"))
        return white
    return _converted("RGB", image, guard)


def _converted(mode: str, image: Image.Image, guard: PillowGuard) -> Image.Image:
    """Return the image in another mode. Pillow reads the file's palettes and transparent colours here."""
    with guard():
        return image.convert(mode)
