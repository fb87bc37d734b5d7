"""Prepares images as a `preprocessor_config.json` says, the file that image encoders of Hugging Face come with.

The keys are interpreted, not the name of the processor's class. An image goes through these steps, if the file has
them: resize, centre crop, pad; then, in float32, rescale, subtract the mean, divide by the standard deviation. The
reference is the image processors of `transformers` 4.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedder_service.core.model_names import MAX_SIDE
from embedder_service.core.types import Pixels
from imagesearch_pixels.colour_profiles import Conversion

# Height and width in pixels.
Size: TypeAlias = tuple[int, int]

# A scaled image of more pixels is computed only where it is cut out: a picture of 1 x 60,000 pixels would become one of
# 224 x 13,440,000. Up to this size, the pixels are exactly those of the reference.
MAX_SCALED_PIXELS = 2**24
# ConvNeXT resizes to `shortest_edge / crop_pct` and then crops, but only below this side.
MAX_CROPPED_SIDE = 384
RGB = ("red", "green", "blue")
NO_MEAN, NO_DEVIATION = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
# Keys that do not change pixels.
IGNORED = frozenset(
    {
        "_name_or_path",
        "_valid_processor_keys",
        "data_format",
        "device",
        "disable_grouping",
        "feature_extractor_type",
        "image_processor_type",
        "input_data_format",
        "model_type",
        "num_channels",
        "processor_class",
        "return_tensors",
        "transformers_version",
    }
)
KNOWN = (
    "do_resize",
    "size",
    "resample",
    "default_to_square",
    "crop_pct",
    "do_center_crop",
    "crop_size",
    "do_pad",
    "pad_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_convert_rgb",
)


class PreparationError(ValueError):
    """A `preprocessor_config.json` cannot be followed. The message names the key."""


@dataclass(frozen=True)
class Preparation:
    """How an upright image becomes the input of an encoder."""

    resize_to: Size | None = None
    """Resize to this size; None to scale the shortest edge, or not to resize."""
    shortest_edge: int | None = None
    """Scale the image so that its shorter side has this length."""
    resample: Image.Resampling = Image.Resampling.BILINEAR
    crop: Size | None = None
    """Cut this size out of the middle; smaller images are padded with black."""
    pad: Size | None = None
    """Pad with black at the bottom and on the right to this size."""
    rescale: float = 1.0
    """Multiply the values 0..255 by this."""
    mean: tuple[float, ...] = NO_MEAN
    deviation: tuple[float, ...] = NO_DEVIATION

    @property
    def size(self) -> Size:
        """Height and width of the result."""
        size = self.pad or self.crop or self.resize_to
        if size is None:
            raise PreparationError("images would have different sizes; use size with height and width, or crop_size")
        return size

    def place(self, image: Image.Image, conversion: Conversion | None = None) -> Image.Image:
        """Return an image resized, cropped, converted to sRGB, and padded."""
        height, width = self.resize_to or (image.height, image.width)
        if self.shortest_edge is not None:
            height, width = _scaled(image.height, image.width, self.shortest_edge)
        wanted = self.crop or (height, width)
        rows, columns = _middle(height, wanted[0]), _middle(width, wanted[1])
        part = _part(image, (height, width), rows, columns, self.resample)
        if conversion is not None:
            part = conversion(part)
        if part.size == (self.size[1], self.size[0]):
            return part
        canvas = Image.new("RGB", (self.size[1], self.size[0]))
        canvas.paste(part, (columns.margin, rows.margin))
        return canvas

    def values(self, pixels: Pixels) -> NDArray[np.float32]:
        """Return float32[N, H, W, 3], the input values of uint8[N, H, W, 3]."""
        scaled = pixels.astype(np.float32) * np.float32(self.rescale)
        if any(self.mean):
            scaled -= np.asarray(self.mean, np.float32)
        if self.deviation != NO_DEVIATION:
            scaled /= np.asarray(self.deviation, np.float32)
        return scaled


def _scaled(height: int, width: int, shortest: int) -> Size:
    """Return the size with this shorter side. The longer side is rounded down."""
    if height <= width:
        return shortest, max(1, int(shortest * width / height))
    return max(1, int(shortest * height / width)), shortest


@dataclass(frozen=True)
class _Middle:
    """The middle of one axis of a scaled image."""

    begin: int
    length: int
    margin: int
    """Black pixels before it, if the image is too small."""

    @property
    def end(self) -> int:
        return self.begin + self.length


def _middle(whole: int, wanted: int) -> _Middle:
    """Return the middle of an axis. As in `transformers`, an odd pixel is after a cut, and before a small image."""
    return _Middle(max(0, (whole - wanted) // 2), min(whole, wanted), max(0, math.ceil((wanted - whole) / 2)))


def _part(image: Image.Image, size: Size, rows: _Middle, columns: _Middle, resample: Image.Resampling) -> Image.Image:
    """Return a part of an image that is scaled to a size."""
    height, width = size
    box = (columns.begin, rows.begin, columns.end, rows.end)
    if size == (image.height, image.width):
        return image.crop(box)
    if height * width <= MAX_SCALED_PIXELS:
        return image.resize((width, height), resample).crop(box)
    across, down = image.width / width, image.height / height
    source = (
        columns.begin * across,
        rows.begin * down,
        min(columns.end * across, image.width),
        min(rows.end * down, image.height),
    )
    return image.resize((columns.length, rows.length), resample, source)


def read_preparation(config: Mapping[str, Any]) -> Preparation:
    """Return what a `preprocessor_config.json` means. Raises PreparationError, which names the key."""
    unknown = sorted(
        key
        for key, value in config.items()
        # What is switched off changes no pixels.
        if key not in KNOWN and key not in IGNORED and value is not None and value is not False
    )
    if unknown:
        raise PreparationError(
            f"{', '.join(unknown)}: unknown, and may change the pixels; known are {', '.join(KNOWN)}"
        )
    resize_to, shortest, crop = _resizing(config)
    preparation = Preparation(
        resize_to,
        shortest,
        _resample(config) if resize_to or shortest else Image.Resampling.BILINEAR,
        crop,
        _size(config, "pad_size") if _flag(config, "do_pad", default=False) else None,
        _factor(config) if _flag(config, "do_rescale", default=True) else 1.0,
        *_statistics(config),
    )
    before = preparation.crop or preparation.resize_to or preparation.size
    if preparation.size[0] < before[0] or preparation.size[1] < before[1]:
        raise PreparationError(
            f"pad_size is {preparation.size[0]} x {preparation.size[1]}, less than {before[0]} x {before[1]} before it"
        )
    return preparation


def _resizing(config: Mapping[str, Any]) -> tuple[Size | None, int | None, Size | None]:
    """Return the size to resize to, or else the shortest edge, and the size of the crop."""
    crops = _flag(config, "do_center_crop", default="crop_size" in config)
    crop = _size(config, "crop_size") if crops else None
    if not _flag(config, "do_resize", default="size" in config):
        return None, None, crop
    size = config.get("size")
    fraction = config.get("crop_pct")
    # A number means the shortest edge for processors that crop, and a square for all others.
    is_square = _flag(config, "default_to_square", default=not crops and fraction is None)
    if (isinstance(size, Mapping) and size.keys() == {"shortest_edge"}) or (_is_side(size) and not is_square):
        edge = _side(size["shortest_edge"] if isinstance(size, Mapping) else size, "size")
        if fraction is None:
            return None, edge, crop
        if not _is_number(fraction) or not 0 < fraction <= 1:
            raise PreparationError(f"crop_pct is {fraction!r}; it must be a number above 0 and at most 1")
        if edge >= MAX_CROPPED_SIDE:
            return (edge, edge), None, crop
        return None, _side(int(edge / fraction), "size divided by crop_pct"), (edge, edge)
    return _size(config, "size"), None, crop


def _is_side(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _side(value: object, key: str) -> int:
    if not _is_side(value) or not 1 <= value <= MAX_SIDE:
        raise PreparationError(f"{key} has the side {value!r}; it must be a whole number from 1 to {MAX_SIDE}")
    return value


def _size(config: Mapping[str, Any], key: str) -> Size:
    value = config.get(key)
    if _is_side(value):
        return _side(value, key), _side(value, key)
    if isinstance(value, Mapping) and value.keys() == {"height", "width"}:
        return _side(value["height"], key), _side(value["width"], key)
    if key != "size" and isinstance(value, Mapping) and value.keys() == {"shortest_edge"}:
        return _side(value["shortest_edge"], key), _side(value["shortest_edge"], key)
    raise PreparationError(f"{key} is {value!r}; it must be a number, height and width, or shortest_edge")


def _flag(config: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise PreparationError(f"{key} is {value!r}; it must be true or false")
    return value


def _resample(config: Mapping[str, Any]) -> Image.Resampling:
    value = config.get("resample")
    if not _is_side(value) or value not in {int(each) for each in Image.Resampling}:
        names = ", ".join(f"{int(each)} {each.name.lower()}" for each in Image.Resampling)
        raise PreparationError(f"resample is {value!r}; it must be one of {names}")
    return Image.Resampling(value)


def _factor(config: Mapping[str, Any]) -> float:
    value = config.get("rescale_factor")
    if value is None:
        return 1 / 255
    if not _is_number(value) or value <= 0:
        raise PreparationError(f"rescale_factor is {value!r}; it must be a number above 0")
    return float(value)


def _statistics(config: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation. Each image processor has its own defaults, so a file without them is refused."""
    if not _flag(config, "do_normalize", default=True):
        return NO_MEAN, NO_DEVIATION
    found = []
    for key, least, allowed in (("image_mean", -math.inf, ""), ("image_std", 0.0, " above 0")):
        value = config.get(key)
        # Some files have one number for all channels.
        numbers = [value] * len(RGB) if _is_number(value) else value
        if (
            not isinstance(numbers, list)
            or len(numbers) != len(RGB)
            or not all(_is_number(each) and each > least for each in numbers)
        ):
            raise PreparationError(
                f"{key} is {value!r}; it must be three numbers{allowed}, for red, green and blue, unless do_normalize "
                "is false"
            )
        found.append(tuple(float(each) for each in numbers))
    return found[0], found[1]
