"""Converts samples of more than 8 bits to 8 bits."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagesearch_pixels.guards import UnsupportedImageError

MAX_16_BITS = 0xFFFF
# Sharpening makes samples exceed their range by some percent.
OVERSHOOT = 1.25


@dataclass(frozen=True, slots=True)
class Depth:
    """How the samples of a grey image are encoded."""

    bits: int = 16
    white_is_zero: bool = False
    is_signed: bool = False

    def narrowed(self, image: Image.Image) -> Image.Image:
        """Return an image of the modes I, I;16 or F in mode L. Raises UnsupportedImageError."""
        if image.mode == "F":
            return Image.fromarray(self._from_floats(np.array(image, np.float32)))
        grey = self._from_integers(np.asarray(image))
        return Image.fromarray(np.invert(grey) if self.white_is_zero else grey)

    def _from_integers(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        if values.dtype.itemsize == 2:
            return np.asarray(values >> (self.bits - 8), np.uint8)
        if not self.is_signed and self.bits == 32:
            unsigned = values.view(np.uint32)
            # Otherwise the samples have 16 bits stored in 32, as many programs do.
            if unsigned.max(initial=0) > MAX_16_BITS:
                return np.asarray(unsigned >> 24, np.uint8)
        _check_signed(values)
        return np.asarray(values.clip(0, MAX_16_BITS) >> 8, np.uint8)

    def _from_floats(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Change `values` in place. NaN becomes black."""
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
    """Refuse 32-bit samples outside of 16 bits, because no file format declares which value is white."""
    lowest, highest = int(values.min(initial=0)), int(values.max(initial=0))
    margin = (OVERSHOOT - 1) * MAX_16_BITS
    if lowest < -margin or highest > MAX_16_BITS + margin:
        raise UnsupportedImageError(
            f"its signed samples range from {lowest} to {highest}; the supported range is 0 to 65535"
        )


def _scale_of(values: NDArray[np.float32]) -> float:
    """Return the factor that scales floating-point samples to 0..255. No file format declares their range.

    Most files have 0..1, some with highlights far above. Other files have the range of 8 or 16 bits.
    """
    finite = np.isfinite(values)
    highest = float(values.max(initial=0.0, where=finite))
    if highest <= 1.0 or float(values.mean(dtype=np.float64, where=finite)) <= 1.0:
        return 255.0
    if highest <= 255 * OVERSHOOT:
        return 1.0
    if highest <= MAX_16_BITS * OVERSHOOT:
        return 255 / MAX_16_BITS
    raise UnsupportedImageError(
        f"its floating-point samples reach {highest:g}; the supported ranges are 0 to 1, 0 to 255 and 0 to 65535"
    )
