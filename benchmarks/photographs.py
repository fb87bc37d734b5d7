"""Photographs to measure with: distinct cuts of those that scikit-image carries."""

import random
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import skimage
from PIL import Image

from demo.photographs import PHOTOGRAPHS


def jpegs(count: int, width: int = 640, height: int = 480, seed: int = 1) -> list[bytes]:
    """JPEG files of distinct content, quality 90; no two are equal, so that none is embedded for another."""
    return [_encoded(image.resize((width, height))) for image in _cuts(count, seed)]


def mixed(count: int, seed: int = 2) -> list[bytes]:
    """As `jpegs`, of sizes from 100 to 2,400 pixels a side."""
    dice = random.Random(seed)
    sides = [(dice.randint(100, 2400), dice.randint(100, 2400)) for _ in range(count)]
    return [_encoded(image.resize(side)) for image, side in zip(_cuts(count, seed), sides, strict=True)]


def _cuts(count: int, seed: int) -> Iterator[Image.Image]:
    folder = Path(skimage.__file__).parent / "data"
    sources = [Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS]
    dice = random.Random(seed)
    for number in range(count):
        source = sources[number % len(sources)]
        part = dice.uniform(0.6, 0.95)
        width, height = int(part * source.width), int(part * source.height)
        left, top = dice.randint(0, source.width - width), dice.randint(0, source.height - height)
        yield source.crop((left, top, left + width, top + height))


def _encoded(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()
