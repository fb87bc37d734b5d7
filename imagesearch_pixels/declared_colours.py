"""Creates profiles for colour spaces that a file declares without a profile."""

import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import ExifTags, Image

from imagesearch_pixels.guards import PillowGuard
from imagesearch_pixels.png import PngFacts

# Chromaticities (x, y) of red, green, blue and white; ITU-R BT.709, BT.2020, SMPTE EG 432-1 and Adobe RGB (1998).
D65 = (0.3127, 0.3290)
SRGB_PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65)
BT2020_PRIMARIES = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65)
P3_PRIMARIES = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65)
ADOBE_PRIMARIES = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), D65)
ADOBE_GAMMA = 563 / 256
# Values of PNG's cICP by the numbers of ITU-T H.273, without the curves of high dynamic range.
CICP_PRIMARIES = {1: SRGB_PRIMARIES, 9: BT2020_PRIMARIES, 12: P3_PRIMARIES}
CICP_GAMMAS = {1: None, 6: None, 8: 1.0, 13: None, 14: None, 15: None, 4: 2.2}
# Gammas that differ from 1 / 2.2 at most by this fraction mean sRGB's curve.
SRGB_GAMMA, GAMMA_TOLERANCE = 1 / 2.2, 0.05
# sRGB's curve as the parameters of ICC.1, 10.18, function type 3.
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
D50 = (0.9642, 1.0, 0.8249)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
# The interoperability index of Adobe RGB (DCF 2.0).
ADOBE_INDEX = "R03"

Chromaticities = Sequence[tuple[float, float]]


def png_profile(png: PngFacts) -> bytes | None:
    """Return a profile of the colour space that the chunks of a PNG file declare; None for sRGB and unknown values.

    Order of precedence in PNG (third edition), 4.3: cICP, a profile, sRGB, then gAMA and cHRM. Callers use this only
    for files without a profile.
    """
    cicp = png.chunks.get(b"cICP", b"")
    if len(cicp) == 4 and cicp[0] in CICP_PRIMARIES and cicp[1] in CICP_GAMMAS:
        return profile_of(CICP_PRIMARIES[cicp[0]], CICP_GAMMAS[cicp[1]])
    gamma_chunk = png.chunks.get(b"gAMA", b"")
    if cicp or b"sRGB" in png.chunks or len(gamma_chunk) < 4:
        return None
    gamma = struct.unpack(">I", gamma_chunk[:4])[0] / 100_000
    if not 0.1 <= gamma <= 10:
        return None
    exponent = None if abs(gamma / SRGB_GAMMA - 1) <= GAMMA_TOLERANCE else 1 / gamma
    points = png.chunks.get(b"cHRM", b"")
    if len(points) < 32:
        return profile_of(SRGB_PRIMARIES, exponent)
    white_x, white_y, *rest = (number / 100_000 for number in struct.unpack(">8I", points[:32]))
    return profile_of((*zip(rest[::2], rest[1::2], strict=True), (white_x, white_y)), exponent)


def exif_profile(image: Image.Image, guard: PillowGuard) -> bytes | None:
    """Return Adobe RGB's profile if the EXIF data of a file without a profile declare it."""
    exif = image.info.get("exif")
    # Most files have no such index, and this check is much faster than reading the EXIF data.
    if not isinstance(exif, bytes) or ADOBE_INDEX.encode() not in exif:
        return None
    try:
        with guard():
            index = image.getexif().get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex)
    except guard.refusal:
        return None
    is_adobe = isinstance(index, str) and index.startswith(ADOBE_INDEX)
    return profile_of(ADOBE_PRIMARIES, ADOBE_GAMMA) if is_adobe else None


@lru_cache(maxsize=64)
def profile_of(points: Chromaticities, gamma: float | None) -> bytes | None:
    """Return a profile of these primaries and gamma; None if the colour space is not valid.

    Without a gamma it has sRGB's curve. `points` are the chromaticities of red, green, blue and white.
    """
    if any(not 0 < y <= 1 or not 0 <= x <= 1 for x, y in points):
        return None
    colours = np.array([[x / y, 1, (1 - x - y) / y] for x, y in points]).T
    primaries, white = colours[:, :3], colours[:, 3]
    if abs(np.linalg.det(primaries)) < 1e-3:
        return None
    scaled = primaries * np.linalg.solve(primaries, white)
    cones = np.diag((BRADFORD @ D50) / (BRADFORD @ white))
    columns = np.linalg.solve(BRADFORD, cones @ BRADFORD @ scaled).T
    if not np.isfinite(columns).all() or np.abs(columns).max() > 10:
        return None
    function, numbers = (3, SRGB_CURVE) if gamma is None else (0, (gamma,))
    curve = b"para" + struct.pack(">4xHH", function, 0) + _fixed(numbers)
    tags = {
        name: b"XYZ \0\0\0\0" + _fixed(column)
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)
    }
    tags |= {b"wtpt": b"XYZ \0\0\0\0" + _fixed(D50)} | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return _icc(tags)


def _fixed(numbers: Sequence[float]) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _icc(tags: dict[bytes, bytes]) -> bytes:
    """Return a display profile (ICC.1:2010, 7)."""
    table, data, start = b"", b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content
    size = start + len(data)
    head = struct.pack(">I4xI", size, 0x04300000) + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28) + _fixed(D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data
