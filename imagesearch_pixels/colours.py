"""An opened image in sRGB."""

from PIL import Image

from imagesearch_pixels.colour_profiles import Conversion, Profiles
from imagesearch_pixels.declared import Declared
from imagesearch_pixels.declared_colours import exif_profile
from imagesearch_pixels.reading import Reading
from imagesearch_pixels.samples import to_rgb, upright

# Of grey modes Pillow's conversion to RGB repeats one channel.
GREY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "F"}
# The mode that the samples of a file have, where it is not RGB or a grey one.
OTHERS = {"CMYK": "CMYK", "LAB": None}

_PROFILES = Profiles()


def shown(opened: Image.Image, declared: Declared, reading: Reading) -> tuple[Image.Image, Conversion | None]:
    """Return an opened image upright and over white, and what turns it into sRGB once it is small.

    The image is in RGB; it may be in inks if there is a conversion. Raises UnsupportedImageError.
    """
    loaded = upright(opened, declared, reading)
    conversion = to_srgb(loaded, declared, reading)
    return to_rgb(loaded, declared.depth, reading, keep_inks=conversion is not None), conversion


def to_srgb(image: Image.Image, declared: Declared, reading: Reading) -> Conversion | None:
    """Return what turns a loaded image into sRGB once `to_rgb` has made it RGB, or left it in inks.

    None if the image is in sRGB, as far as its file says.
    """
    mode = OTHERS.get(image.mode, "L" if image.mode in GREY else "RGB")
    if mode is None:
        return None
    profile = image.info.get("icc_profile")
    if profile is None and mode != "CMYK":
        # It is one of RGB. Greys are three equal channels by then.
        profile, mode = declared.profile or exif_profile(image, reading), "RGB"
    return _PROFILES.conversion(profile, mode)
