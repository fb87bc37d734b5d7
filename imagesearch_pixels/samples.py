"""An opened image as upright RGB over white."""

from PIL import ExifTags, Image, ImageCms

from imagesearch_pixels.declared import Declared
from imagesearch_pixels.depths import Depth
from imagesearch_pixels.reading import Reading

# What turns an image upright, by its EXIF orientation (Exif 2.32, tag 0x0112).
TURNS = {
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


def upright(image: Image.Image, declared: Declared, reading: Reading) -> Image.Image:
    """Load an opened image, apply what its file declares, and turn it as its EXIF orientation says.

    EXIF data that cannot be read say nothing.
    """
    # First, because Pillow turns a TIFF file while it loads it, and because reading EXIF data may load too.
    if declared.is_loaded:
        with reading():
            image.load()
    image = declared.corrected(image)
    turn = _turn_of(image, reading)
    return image if turn is None else image.transpose(turn)


def _turn_of(image: Image.Image, reading: Reading) -> Image.Transpose | None:
    try:
        with reading():
            orientation = image.getexif().get(ExifTags.Base.Orientation)
    except reading.refusal:
        return None
    return TURNS.get(orientation) if isinstance(orientation, int) else None


def to_rgb(image: Image.Image, depth: Depth, reading: Reading, *, keep_inks: bool = False) -> Image.Image:
    """Return an upright image of any of Pillow's modes as RGB, with transparent parts over white.

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
        with reading():
            converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        return converted if converted is not None else image
    elif image.mode in PREMULTIPLIED:
        image = _converted(PREMULTIPLIED[image.mode], image, reading)
    with reading():
        # It looks at the file's palette.
        is_transparent = image.has_transparency_data
    if is_transparent:
        layers = image if image.mode == "RGBA" else _converted("RGBA", image, reading)
        white = Image.new("RGB", layers.size, WHITE)
        white.paste(layers, mask=layers.getchannel("A"))
        return white
    return _converted("RGB", image, reading)


def _converted(mode: str, image: Image.Image, reading: Reading) -> Image.Image:
    """Return the image in another mode. Pillow reads the file's palettes and transparent colours only now."""
    with reading():
        return image.convert(mode)
