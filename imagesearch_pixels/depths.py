"""Samples of more than 8 bits as 8 bits."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagesearch_pixels.reading import UnsupportedImageError

MOST_OF_16_BITS = 0xFFFF
# A sharpened picture leaves its range by some percent.
OVERSHOOT = 1.25


@dataclass(frozen=True, slots=True)
class Depth:
    """How the numbers of a grey image are to be understood."""

    bits: int = 16
    white_is_zero: bool = False
    is_signed: bool = False

    def narrowed(self, image: Image.Image) -> Image.Image:
        """Return an image of one of Pillow's modes I, I;16 and F as one of mode L. Raises UnsupportedImageError."""
        if image.mode == "F":
            return Image.fromarray(self._from_floats(np.array(image, np.float32)))
        grey = self._from_integers(np.asarray(image))
        return Image.fromarray(np.invert(grey) if self.white_is_zero else grey)

    def _from_integers(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        if values.dtype.itemsize == 2:
            return np.asarray(values >> (self.bits - 8), np.uint8)
        if not self.is_signed and self.bits == 32:
            unsigned = values.view(np.uint32)
            # Without such a value the file has 16 bits in samples of 32, as many programs write it.
            if unsigned.max(initial=0) > MOST_OF_16_BITS:
                return np.asarray(unsigned >> 24, np.uint8)
        _check_signed(values)
        return np.asarray(values.clip(0, MOST_OF_16_BITS) >> 8, np.uint8)

    def _from_floats(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Change `values` in place. What is not a number is black."""
        missing = np.isnan(values)
        values[missing] = 0
        values *= _scale_of(values)
        np.clip(values, 0, 255, out=values)
        grey = values.astype(np.uint8)
        if self.white_is_zero:
            np.invert(grey, out=grey)
            grey[missing] = 0
        return grey


def _check_signed(values: NDArray[Any]) -> None:
    """Refuse numbers of 32 bits that are no samples of 16 bits: no file format declares which one is white."""
    least, most = int(values.min(initial=0)), int(values.max(initial=0))
    margin = (OVERSHOOT - 1) * MOST_OF_16_BITS
    if least < -margin or most > MOST_OF_16_BITS + margin:
        raise UnsupportedImageError(f"its signed samples reach from {least} to {most}; those of 0 to 65535 are taken")


def _scale_of(values: NDArray[np.float32]) -> float:
    """Return the factor that makes floating-point samples 0..255. No file format declares their range.

    Most files hold 0..1, some with highlights far above. Others hold the numbers of 8 or 16 bits.
    """
    finite = np.isfinite(values)
    most = float(values.max(initial=0.0, where=finite))
    if most <= 1.0 or float(values.mean(dtype=np.float64, where=finite)) <= 1.0:
        return 255.0
    if most <= 255 * OVERSHOOT:
        return 1.0
    if most <= MOST_OF_16_BITS * OVERSHOOT:
        return 255 / MOST_OF_16_BITS
    raise UnsupportedImageError(
        f"its floating-point samples reach {most:g}; those of 0 to 1, 0 to 255 and 0 to 65535 are taken"
    )
