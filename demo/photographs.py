"""Photographs from the scikit-image package, and edited copies of them."""

import random
from collections.abc import Callable
from pathlib import Path

import skimage
from PIL import Image, ImageEnhance, ImageOps

# Photographs in scikit-image's sample data. Their licences are in the data folder of that package.
PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    # The same motorcycle from a slightly different position: the only image that is very similar to another one.
    "motorcycle_right.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
)


# Maximum number of characters of the original's name in the name of a copy, because file names have a maximum length.
MAX_STEM = 60


def write_photographs(folder: Path) -> list[Path]:
    """Write the photographs to a folder as JPEG files of high quality; return their paths."""
    source = Path(skimage.__file__).parent / "data"
    paths = []
    for name in PHOTOGRAPHS:
        with Image.open(source / name) as photograph:
            path = folder / f"{Path(name).stem}.jpg"
            photograph.convert("RGB").save(path, quality=92)
            paths.append(path)
    return paths


def crop(image: Image.Image, chance: random.Random) -> Image.Image:
    """Crop the image to 80 % of its width and height."""
    left, top = (round(side * chance.uniform(0, 0.2)) for side in image.size)
    return image.crop((left, top, left + round(image.width * 0.8), top + round(image.height * 0.8)))


def rotate(image: Image.Image, chance: random.Random) -> Image.Image:
    """Rotate the image by 5 to 15 degrees in either direction; the corners become white."""
    angle = chance.choice((-1, 1)) * chance.uniform(5, 15)
    return image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))


def recompress(image: Image.Image, chance: random.Random) -> Image.Image:
    """Resize the image to about half its size. The copy is saved as a JPEG file of low quality."""
    side = chance.uniform(0.4, 0.6)
    return image.resize((round(image.width * side), round(image.height * side)), Image.Resampling.LANCZOS)


def recolour(image: Image.Image, chance: random.Random) -> Image.Image:
    """Change saturation, brightness and contrast, and mirror the image."""
    for enhance in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
        image = enhance(image).enhance(chance.uniform(0.6, 1.4))
    return ImageOps.mirror(image)


EDITS: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "crop": crop,
    "rotate": rotate,
    "recompress": recompress,
    "recolour": recolour,
}


def write_edited_copies(original: Path, folder: Path, seed: int = 0) -> list[Path]:
    """Write one copy for each edit, named ORIGINAL~EDIT.jpg. Equal seeds give equal copies."""
    chance = random.Random(f"{original.name} {seed}")
    copies = []
    with Image.open(original) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    for name, edit in EDITS.items():
        path = folder / f"{original.stem[:MAX_STEM]}~{name}.jpg"
        edit(image, chance).save(path, quality=25 if name == "recompress" else 85)
        copies.append(path)
    return copies
