"""Photographs for benchmarks: distinct crops of the photographs in scikit-image."""

import random
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import skimage
from PIL import Image

from demo.photographs import PHOTOGRAPHS


def jpegs(count: int, width: int = 640, height: int = 480, seed: int = 1) -> list[bytes]:
    """Return distinct JPEG files of quality 90. The embedder embeds equal images once, so no two are equal."""
    return [_encoded(image.resize((width, height))) for image in _crops(count, seed)]


def mixed(count: int, seed: int = 2) -> list[bytes]:
    """Return distinct JPEG files with sides of 100 to 2,400 pixels."""
    dice = random.Random(seed)
    sides = [(dice.randint(100, 2400), dice.randint(100, 2400)) for _ in range(count)]
    return [_encoded(image.resize(side)) for image, side in zip(_crops(count, seed), sides, strict=True)]


def _crops(count: int, seed: int) -> Iterator[Image.Image]:
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
