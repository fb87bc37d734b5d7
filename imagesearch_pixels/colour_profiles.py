"""Colours of a file in sRGB, by the profile that the file embeds or declares.

A profile that is broken, too large, or of another colour space than the image is ignored: it never refuses a picture.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageCms

# Profiles of printing presses have 0.5 to 2.5 MB, all others far less.
MAX_PROFILE_BYTES = 4 * 1024 * 1024
HEADER_BYTES = 128
SIGNATURE = b"acsp"
SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
CONNECTION_SPACES = {b"XYZ ", b"Lab "}
# Input, display and output devices, and colour spaces. The others are no profiles of an image.
CLASSES = {b"scnr", b"mntr", b"prtr", b"spac"}
# A transform of inks takes 0.6 MiB, all others less.
MAX_TRANSFORMS = 32
# A profile whose colours differ by so little from sRGB is not applied.
SAME = 1
# Relative: white stays white, and alpha over white commutes with the conversion. With compensation of the black point
# the darkest ink is black.
INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE
# The white of a profile that is not broken is at least so light.
LEAST_WHITE = 192
NO_INK, FULL = 0, 255
STEPS = (0, 16, 40, 80, 128, 176, 216, 240, 255)

Conversion: TypeAlias = Callable[[Image.Image], Image.Image]


class Profiles:
    """The conversions of the profiles that were met last. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[bytes, str], Conversion | None] = OrderedDict()

    def conversion(self, profile: object, mode: str) -> Conversion | None:
        """Return what turns an image into sRGB; None if its profile is sRGB, or is to be ignored.

        `mode` is that of the file's samples: RGB, L or CMYK. The conversion takes an RGB or CMYK image; a grey one has
        three equal channels.
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
        made = _conversion(profile, mode)
        with self._lock:
            self._known[key] = made
            while len(self._known) > MAX_TRANSFORMS:
                self._known.popitem(last=False)
        return made


def _conversion(profile: bytes, mode: str) -> Conversion | None:
    if profile[12:16] not in CLASSES or profile[20:24] not in CONNECTION_SPACES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        transform = ImageCms.buildTransform(source, _SRGB, mode, "RGB", INTENT, FLAGS)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - Pillow raises whatever it stumbles on, and the pixels are fine without
        return None

    def convert(image: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(image.getchannel(0) if mode == "L" else image, transform)
        # Only a conversion in place returns nothing.
        return converted if converted is not None else image

    return convert if _is_worth_it(convert, mode) else None


_SRGB = ImageCms.createProfile("sRGB")


def _is_worth_it(convert: Conversion, mode: str) -> bool:
    """Return whether a conversion keeps white and black apart, and changes a colour visibly."""
    probe = _probe(mode)
    white = Image.new(probe.mode, (1, 1), NO_INK if mode == "CMYK" else "white")
    black = Image.new(probe.mode, (1, 1), (FULL,) * 4 if mode == "CMYK" else "black")
    lightest, darkest = (int(np.asarray(convert(image)).min()) for image in (white, black))
    if lightest < LEAST_WHITE or darkest >= lightest:
        return False
    if mode == "CMYK":
        return True
    difference = np.abs(np.asarray(convert(probe), np.int16) - np.asarray(probe, np.int16))
    return int(difference.max()) > SAME


def _probe(mode: str) -> Image.Image:
    """Return an image of colours all over the space; greys for grey."""
    if mode == "CMYK":
        return Image.new("CMYK", (1, 1))
    if mode == "L":
        greys = np.arange(256, dtype=np.uint8)
        return Image.fromarray(np.stack([greys] * 3, axis=1)[None])
    colours = np.stack(np.meshgrid(STEPS, STEPS, STEPS), axis=-1).astype(np.uint8)
    return Image.fromarray(colours.reshape(1, -1, 3))
