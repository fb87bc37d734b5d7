"""Colour profiles for tests."""

import pyvips

from imagesearch_pixels.declared_colours import (
    ADOBE_GAMMA,
    ADOBE_PRIMARIES,
    BT2020_PRIMARIES,
    P3_PRIMARIES,
    profile_of,
)


def _of_libvips(name: str) -> bytes:
    return bytes(pyvips.Operation.call("profile_load", name))


def _made(points: tuple[tuple[float, float], ...], gamma: float | None) -> bytes:
    profile = profile_of(points, gamma)
    assert profile is not None
    return profile


def grey_profile(gamma: float) -> bytes:
    """A profile of one channel, from one of three: the curve keeps its place, and no other tag is asked for."""
    made = _made(P3_PRIMARIES, gamma)
    return (made[:16] + b"GRAY" + made[20:]).replace(b"rTRC", b"kTRC")


SRGB_PROFILE, CMYK_PROFILE = _of_libvips("srgb"), _of_libvips("cmyk")
P3_PROFILE = _made(P3_PRIMARIES, None)
ADOBE_PROFILE = _made(ADOBE_PRIMARIES, ADOBE_GAMMA)
BT2020_PROFILE = _made(BT2020_PRIMARIES, None)
# ROMM RGB: ISO 22028-2.
PROPHOTO_PRIMARIES = ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001), (0.3457, 0.3585))
PROPHOTO_PROFILE = _made(PROPHOTO_PRIMARIES, 1.8)
