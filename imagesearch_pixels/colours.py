"""Converts an opened image to sRGB."""

from PIL import Image

from imagesearch_pixels.colour_profiles import Conversion, Profiles
from imagesearch_pixels.declarations import Declarations
from imagesearch_pixels.declared_colours import exif_profile
from imagesearch_pixels.guards import PillowGuard
from imagesearch_pixels.samples import to_rgb, upright

# Grey modes: Pillow's conversion to RGB repeats their channel.
GREY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "F"}
# The profile mode for modes that are neither grey nor RGB. LAB has no profile.
OTHER_MODES = {"CMYK": "CMYK", "LAB": None}

_PROFILES = Profiles()


def to_upright_rgb(
    opened: Image.Image, declared: Declarations, guard: PillowGuard
) -> tuple[Image.Image, Conversion | None]:
    """Return an opened image as upright RGB over white, and its conversion to sRGB, or None.

    The conversion is cheaper after a resize. If there is a conversion, the image may be CMYK instead of RGB. Raises
    UnsupportedImageError.
    """
    loaded = upright(opened, declared, guard)
    conversion = to_srgb(loaded, declared, guard)
    return to_rgb(loaded, declared.depth, guard, keep_inks=conversion is not None), conversion


def to_srgb(image: Image.Image, declared: Declarations, guard: PillowGuard) -> Conversion | None:
    """Return the conversion to sRGB for the result of `to_rgb`; None if the file declares nothing else than sRGB."""
    mode = OTHER_MODES.get(image.mode, "L" if image.mode in GREY else "RGB")
    if mode is None:
        return None
    profile = image.info.get("icc_profile")
    if profile is None and mode != "CMYK":
        # These profiles are RGB profiles. Greys are three equal channels then.
        profile, mode = declared.profile or exif_profile(image, guard), "RGB"
    return _PROFILES.conversion(profile, mode)
