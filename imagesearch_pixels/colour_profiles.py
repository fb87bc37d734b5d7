"""Converts colours to sRGB by the ICC profile of a file.

A profile that is broken, too large, or of another colour space than the image is ignored.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageCms

# Profiles of printing presses have 0.5 to 2.5 MB; all other profiles are much smaller.
MAX_PROFILE_BYTES = 4 * 1024 * 1024
HEADER_BYTES = 128
SIGNATURE = b"acsp"
SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
CONNECTION_SPACES = {b"XYZ ", b"Lab "}
# Classes of image profiles: input, display and output devices, and colour spaces.
CLASSES = {b"scnr", b"mntr", b"prtr", b"spac"}
# A CMYK transform uses 0.6 MiB; all others use less.
MAX_TRANSFORMS = 32
# A profile whose colours differ at most by this from sRGB is not applied.
MAX_UNNOTICED = 1
# With the relative intent white stays white, so transparency over white can be applied before the conversion. With
# black point compensation the darkest ink becomes black.
INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE
# Minimum white of a valid profile.
MIN_WHITE = 192
NO_INK, FULL = 0, 255
STEPS = (0, 16, 40, 80, 128, 176, 216, 240, 255)

Conversion: TypeAlias = Callable[[Image.Image], Image.Image]


class Profiles:
    """Caches the conversions of the profiles that were used last. It is thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[bytes, str], Conversion | None] = OrderedDict()

    def conversion(self, profile: object, mode: str) -> Conversion | None:
        """Return the conversion of an image to sRGB; None if its profile is sRGB or must be ignored.

        `mode` is the mode of the file's samples: RGB, L or CMYK. The conversion requires an RGB or CMYK image; a grey
        image has three equal channels.
        """
        if not isinstance(profile, bytes) or not HEADER_BYTES < len(profile) <= MAX_PROFILE_BYTES:
            return None
        if SPACES.get(profile[16:20]) != mode or profile[36:40] != SIGNATURE:
            return None
        key = (hashlib.blake2b(profile, digest_size=32).digest(), mode)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        conversion = _conversion(profile, mode)
        with self._lock:
            self._known[key] = conversion
            while len(self._known) > MAX_TRANSFORMS:
                self._known.popitem(last=False)
        return conversion


def _conversion(profile: bytes, mode: str) -> Conversion | None:
    if profile[12:16] not in CLASSES or profile[20:24] not in CONNECTION_SPACES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        transform = ImageCms.buildTransform(source, _SRGB, mode, "RGB", INTENT, FLAGS)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - Pillow raises errors of any class, and the pixels are usable without a profile
        return None

    def convert(image: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(image.getchannel(0) if mode == "L" else image, transform)
        # applyTransform returns None only if it converts in place.
        return converted if converted is not None else image

    return convert if _is_useful(convert, mode) else None


_SRGB = ImageCms.createProfile("sRGB")


def _is_useful(convert: Conversion, mode: str) -> bool:
    """Return whether a conversion keeps white lighter than black, and changes colours visibly."""
    probe = _probe(mode)
    white = Image.new(probe.mode, (1, 1), NO_INK if mode == "CMYK" else "white")
    black = Image.new(probe.mode, (1, 1), (FULL,) * 4 if mode == "CMYK" else "black")
    lightest, darkest = (int(np.asarray(convert(image)).min()) for image in (white, black))
    if lightest < MIN_WHITE or darkest >= lightest:
        return False
    if mode == "CMYK":
        return True
    difference = np.abs(np.asarray(convert(probe), np.int16) - np.asarray(probe, np.int16))
    return int(difference.max()) > MAX_UNNOTICED


def _probe(mode: str) -> Image.Image:
    """Return an image with colours from the whole colour space; with all greys for mode L."""
    if mode == "CMYK":
        return Image.new("CMYK", (1, 1))
    if mode == "L":
        greys = np.arange(256, dtype=np.uint8)
        return Image.fromarray(np.stack([greys] * 3, axis=1)[None])
    colours = np.stack(np.meshgrid(STEPS, STEPS, STEPS), axis=-1).astype(np.uint8)
    return Image.fromarray(colours.reshape(1, -1, 3))
