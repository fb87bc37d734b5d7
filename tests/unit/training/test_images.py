"""The training decodes images to the same pixels as the embedder."""

import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
from PIL import Image

from embedder_service.core.image_decoding import ImageDecoder, PixelBudget
from embedder_service.core.types import EncodedImage, InputPolicy, Limits
from imagesearch_pixels.declared_colours import P3_PRIMARIES, profile_of
from imagesearch_training.images import MAX_IMAGE_PIXELS, UnusableError, decode
from tests.unit.embedder.crafted_samples import png, tiff, transparent
from tests.unit.pixels.profiles import CMYK_PROFILE

PHOTOGRAPH = Image.open(Path(skimage.__file__).parent / "data" / "coffee.png").convert("RGB")
GRADIENT = Image.fromarray(np.linspace(0, 65535, 80 * 60).reshape(60, 80).astype(np.uint16))


class Patient:
    def remaining(self) -> float:
        return math.inf


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(PHOTOGRAPH, "JPEG", exif=exif)


def translucent(mode: str) -> Image.Image:
    image = PHOTOGRAPH.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image.convert(mode)


CONTENTS = {
    "jpeg": encode(PHOTOGRAPH, "JPEG"),
    "large jpeg": encode(PHOTOGRAPH.resize((2400, 1600)), "JPEG"),
    "progressive jpeg": encode(PHOTOGRAPH, "JPEG", progressive=True),
    "cmyk": encode(PHOTOGRAPH.convert("CMYK"), "JPEG"),
    "grey": encode(PHOTOGRAPH.convert("L"), "PNG"),
    "bits": encode(PHOTOGRAPH.convert("1"), "PNG"),
    "16 bits": encode(GRADIENT, "PNG"),
    "16 bits tiff": encode(GRADIENT, "TIFF"),
    "floats": encode(Image.fromarray(np.asarray(GRADIENT, np.float32) / 65535), "TIFF"),
    "white is zero": tiff(np.asarray(GRADIENT), 16, 0),
    "a transparent grey": png(np.asarray(GRADIENT) >> 12, 4, 0, transparent(3)),
    "wide gamut": encode(PHOTOGRAPH, "JPEG", icc_profile=profile_of(P3_PRIMARIES, None)),
    "inks with a profile": encode(PHOTOGRAPH.convert("CMYK"), "JPEG", icc_profile=CMYK_PROFILE),
    "palette": encode(PHOTOGRAPH.convert("P"), "PNG"),
    "transparent palette": encode(PHOTOGRAPH.convert("P"), "PNG", transparency=3),
    "rgba": encode(translucent("RGBA"), "PNG"),
    "grey and alpha": encode(translucent("LA"), "PNG"),
    "webp": encode(translucent("RGBA"), "WEBP"),
    "gif": encode(PHOTOGRAPH, "GIF", save_all=True, append_images=[PHOTOGRAPH.rotate(90)]),
    "bmp": encode(PHOTOGRAPH, "BMP"),
    **{f"orientation {number}": turned(number) for number in range(1, 9)},
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_pixels_equal_the_embedders_pixels(content: bytes) -> None:
    limits = Limits(20_000_000, MAX_IMAGE_PIXELS)
    embedder = ImageDecoder(InputPolicy("squash", 64), limits, PixelBudget(limits.max_image_pixels))
    pixels = decode(content, 64)
    assert pixels.shape == (64, 64, 3)
    assert np.array_equal(pixels, embedder.decode(EncodedImage(content), Patient()))


def test_an_image_that_is_too_large_is_refused_by_its_header() -> None:
    content = encode(Image.new("1", (10_000, 5_001)), "PNG")
    with pytest.raises(ValueError, match=r"10000 x 5001 = 50010000 pixels; the maximum is 50000000"):
        decode(content, 32)


def test_a_file_that_the_embedder_refuses_is_not_used_for_training() -> None:
    content = tiff(np.asarray(GRADIENT) >> 2, 14, 1)
    with pytest.raises(UnusableError, match="BitsPerSample 14"):
        decode(content, 32)
