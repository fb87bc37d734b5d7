"""Prepares images as a `preprocessor_config.json` says, the file that image encoders of Hugging Face come with.

The keys are interpreted, not the name of the processor's class. An image goes through these steps, if the file has
them: resize, centre crop, pad; then, in float32, rescale, subtract the mean, divide by the standard deviation. The
reference is the image processors of `transformers` 4.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedder_service.core.types import Pixels

# Height and width in pixels.
Size: TypeAlias = tuple[int, int]

# Sides above this are refused: the pixels of a batch would not fit into memory.
MAX_SIDE = 4096
# ConvNeXT resizes to `shortest_edge / crop_pct` and then crops, but only below this side.
MAX_CROPPED_SIDE = 384
RGB = ("red", "green", "blue")
NO_MEAN, NO_DEVIATION = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
# Keys that do not change pixels.
IGNORED = frozenset(
    {
        "_name_or_path",
        "_valid_processor_keys",
        "auto_map",
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

    @cached_property
    def size(self) -> Size:
        """Height and width of the result."""
        size = self.crop or self.resize_to
        if size is None:
            raise PreparationError("images would have different sizes; use size with height and width, or crop_size")
        if self.pad is None:
            return size
        if self.pad[0] < size[0] or self.pad[1] < size[1]:
            raise PreparationError(
                f"pad_size is {self.pad[0]} x {self.pad[1]}, less than {size[0]} x {size[1]} before it"
            )
        return self.pad

    @property
    def side(self) -> int:
        """The longer side of the result in pixels."""
        return max(self.size)

    def place(self, image: Image.Image) -> Image.Image:
        """Return an RGB image resized, cropped and padded."""
        size = self.resize_to
        if self.shortest_edge is not None:
            size = _scaled(image.height, image.width, self.shortest_edge)
        if size is not None and size != (image.height, image.width):
            image = image.resize((size[1], size[0]), self.resample)
        if self.crop is not None:
            image = _cropped(image, self.crop)
        if self.pad is not None:
            image = _padded(image, self.pad)
        return image

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


def _cropped(image: Image.Image, size: Size) -> Image.Image:
    """Return the middle of an image. An odd remainder is at the bottom and on the right."""
    height, width = size
    if image.height < height or image.width < width:
        # The pixels are placed as in `transformers`, which rounds the margin up.
        larger = max(height, image.height), max(width, image.width)
        canvas = Image.new("RGB", (larger[1], larger[0]))
        top, left = math.ceil((larger[0] - image.height) / 2), math.ceil((larger[1] - image.width) / 2)
        canvas.paste(image, (left, top))
        image, top, left = canvas, (image.height - height) // 2 + top, (image.width - width) // 2 + left
    else:
        top, left = (image.height - height) // 2, (image.width - width) // 2
    top, left = max(0, top), max(0, left)
    return image.crop((left, top, left + width, top + height))


def _padded(image: Image.Image, size: Size) -> Image.Image:
    canvas = Image.new("RGB", (size[1], size[0]))
    canvas.paste(image, (0, 0))
    return canvas


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
        _resample(config),
        crop,
        _size(config, "pad_size", square=True) if _flag(config, "do_pad", default=False) else None,
        _factor(config) if _flag(config, "do_rescale", default=True) else 1.0,
        *_statistics(config),
    )
    _ = preparation.size
    return preparation


def _resizing(config: Mapping[str, Any]) -> tuple[Size | None, int | None, Size | None]:
    """Return the size to resize to, or else the shortest edge, and the size of the crop."""
    crops = _flag(config, "do_center_crop", default="crop_size" in config)
    crop = _size(config, "crop_size", square=True) if crops else None
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
        if not isinstance(fraction, int | float) or not 0 < fraction <= 1:
            raise PreparationError(f"crop_pct is {fraction!r}; it must be a number above 0 and at most 1")
        if edge >= MAX_CROPPED_SIDE:
            return (edge, edge), None, crop
        return None, int(edge / fraction), (edge, edge)
    return _size(config, "size", square=True), None, crop


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _side(value: object, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SIDE:
        raise PreparationError(f"{key} has the side {value!r}; it must be a whole number from 1 to {MAX_SIDE}")
    return value


def _size(config: Mapping[str, Any], key: str, *, square: bool) -> Size:
    value = config.get(key)
    if _is_side(value) and square:
        return _side(value, key), _side(value, key)
    if isinstance(value, Mapping) and value.keys() == {"height", "width"}:
        return _side(value["height"], key), _side(value["width"], key)
    if key != "size" and isinstance(value, Mapping) and value.keys() == {"shortest_edge"}:
        return _side(value["shortest_edge"], key), _side(value["shortest_edge"], key)
    allowed = "a number, height and width" + (", or shortest_edge" if key == "size" else "")
    raise PreparationError(f"{key} is {value!r}; it must be {allowed}")


def _flag(config: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise PreparationError(f"{key} is {value!r}; it must be true or false")
    return value


def _resample(config: Mapping[str, Any]) -> Image.Resampling:
    value = config.get("resample")
    if value is None:
        return Image.Resampling.BILINEAR
    if not _is_side(value) or value not in {int(each) for each in Image.Resampling}:
        names = ", ".join(f"{int(each)} {each.name.lower()}" for each in Image.Resampling)
        raise PreparationError(f"resample is {value!r}; it must be one of {names}")
    return Image.Resampling(value)


def _factor(config: Mapping[str, Any]) -> float:
    value = config.get("rescale_factor", 1 / 255)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise PreparationError(f"rescale_factor is {value!r}; it must be a number above 0")
    return float(value)


def _statistics(config: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    has_both = config.get("image_mean") is not None and config.get("image_std") is not None
    if not _flag(config, "do_normalize", default=has_both):
        return NO_MEAN, NO_DEVIATION
    found = []
    for key in ("image_mean", "image_std"):
        value = config.get(key)
        numbers = [value] * len(RGB) if isinstance(value, int | float) and not isinstance(value, bool) else value
        if (
            not isinstance(numbers, list)
            or len(numbers) != len(RGB)
            or not all(isinstance(each, int | float) and math.isfinite(each) for each in numbers)
            or (key == "image_std" and not all(each > 0 for each in numbers))
        ):
            above = " above 0" if key == "image_std" else ""
            raise PreparationError(f"{key} is {value!r}; it must be three numbers{above}, for red, green and blue")
        found.append(tuple(float(each) for each in numbers))
    return found[0], found[1]
