"""Photographs with objects pasted on them, whose boxes are known."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageOps

from imagesearch_client import Region

AREAS = (0.05, 0.25)
MAX_TURN = 15
BRIGHTNESS = (0.75, 1.25)
# The sum of the differences from white, over the three colours, of what counts as background.
WHITE_TOLERANCE = 40
MARK = (255, 0, 255)


@dataclass(frozen=True)
class Pasted:
    """A photograph with an object on it."""

    product: int
    """Number of the product."""
    scene: int
    """Number of the photograph."""
    content: bytes
    """The JPEG file."""
    box: Region
    """The box of the object."""


def pasted(products: Sequence[Path], scenes: Sequence[Path], seed: int) -> Iterator[Pasted]:
    """Yield each product pasted on a photograph of its own.

    Its area is 5 to 25 % of the photograph. It is mirrored or not, turned by up to 15 degrees, and its brightness is
    changed by a factor of 0.75 to 1.25.
    """
    dice = np.random.default_rng(seed)
    chosen = dice.permutation(len(scenes))[: len(products)]
    for number, (product, scene) in enumerate(zip(products, chosen.tolist(), strict=True)):
        photograph = Image.open(scenes[scene]).convert("RGB")
        box = _paste(_changed(_cut_out(Image.open(product)), dice), photograph, dice)
        file = BytesIO()
        photograph.save(file, "JPEG", quality=92)
        yield Pasted(number, scene, file.getvalue(), box)


def _cut_out(product: Image.Image) -> Image.Image:
    """Return a product without the white background that surrounds it, as RGBA."""
    framed = ImageOps.expand(product.convert("RGB"), 1, "white")
    filled = framed.copy()
    ImageDraw.floodfill(filled, (0, 0), MARK, thresh=WHITE_TOLERANCE)
    changed = ImageChops.difference(framed, filled).convert("L")
    framed.putalpha(changed.point(lambda value: 0 if value else 255))
    return framed.crop(framed.getchannel("A").getbbox())


def _changed(cut: Image.Image, dice: np.random.Generator) -> Image.Image:
    if dice.random() < 0.5:  # noqa: PLR2004 - half of them
        cut = ImageOps.mirror(cut)
    bright = ImageEnhance.Brightness(cut.convert("RGB")).enhance(dice.uniform(*BRIGHTNESS))
    bright.putalpha(cut.getchannel("A"))
    turned = bright.rotate(dice.uniform(-MAX_TURN, MAX_TURN), Image.Resampling.BICUBIC, expand=True)
    return turned.crop(turned.getchannel("A").getbbox())


def _paste(cut: Image.Image, photograph: Image.Image, dice: np.random.Generator) -> Region:
    """Paste an object on a photograph at a random place, and return its box."""
    area = dice.uniform(*AREAS) * photograph.width * photograph.height
    scale = min(
        math.sqrt(area / (cut.width * cut.height)), photograph.width / cut.width, photograph.height / cut.height
    )
    width = min(photograph.width, max(1, round(cut.width * scale)))
    height = min(photograph.height, max(1, round(cut.height * scale)))
    small = cut.resize((width, height), Image.Resampling.LANCZOS)
    left = int(dice.integers(0, photograph.width - width + 1))
    top = int(dice.integers(0, photograph.height - height + 1))
    photograph.paste(small, (left, top), small)
    return Region(
        left / photograph.width,
        top / photograph.height,
        (left + width) / photograph.width,
        (top + height) / photograph.height,
    )


def overlap(first: Region, second: Region) -> float:
    """Return the intersection over union of two boxes."""
    width = min(first.x1, second.x1) - max(first.x0, second.x0)
    height = min(first.y1, second.y1) - max(first.y0, second.y0)
    if width <= 0 or height <= 0:
        return 0.0
    first_area, second_area = ((box.x1 - box.x0) * (box.y1 - box.y0) for box in (first, second))
    return width * height / (first_area + second_area - width * height)
