"""Each input policy: how an upright image becomes a network's input."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from embedder_service.core.image_decoding import ImageDecoder, PixelBudget
from embedder_service.core.types import EncodedImage, InputPolicy, Limits, Pixels, Region, Shape
from grpc_kit.deadline import Deadline

LIMITS = Limits(10_000_000, 10_000_000)
WIDE = Image.effect_noise((400, 200), 90).convert("RGB")


def decode(image: Image.Image, policy: InputPolicy, region: Region | None = None, file_format: str = "PNG") -> Pixels:
    file = BytesIO()
    image.save(file, file_format, quality=95)
    decoder = ImageDecoder(policy, LIMITS, PixelBudget(LIMITS.max_image_pixels))
    return decoder.decode(EncodedImage(file.getvalue(), region), Deadline.after(None))


def stretched(image: Image.Image, width: int, height: int) -> Pixels:
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def test_squash_stretches() -> None:
    np.testing.assert_array_equal(decode(WIDE, InputPolicy("squash", 96)), stretched(WIDE, 96, 96))


def test_pad_keeps_the_aspect_between_black_bars() -> None:
    found = decode(WIDE, InputPolicy("pad", 96))
    assert found.shape == (96, 96, 3)
    np.testing.assert_array_equal(found[24:72], stretched(WIDE, 96, 48))
    assert not found[:24].any()
    assert not found[72:].any()
    upright = decode(WIDE.transpose(Image.Transpose.ROTATE_90), InputPolicy("pad", 96))
    assert not upright[:, :24].any()
    assert upright[:, 24:72].any()


def test_crop_takes_the_square_in_the_middle() -> None:
    # As if the whole were scaled and then cut: what lies beside the square counts at its edges.
    expected = stretched(WIDE, 192, 96)[:, 48:144]
    np.testing.assert_allclose(decode(WIDE, InputPolicy("crop", 96)).astype(int), expected.astype(int), atol=1)


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((400, 200), 128, (128, 64)),
        ((200, 400), 128, (64, 128)),
        # Smaller ones are not enlarged, but to whole cells.
        ((60, 90), 512, (64, 96)),
        ((5, 5), 512, (32, 32)),
        ((1000, 10), 512, (512, 32)),
    ],
)
def test_native_keeps_the_aspect_in_whole_cells(size: tuple[int, int], side: int, expected: tuple[int, int]) -> None:
    image = Image.effect_noise(size, 90).convert("RGB")
    np.testing.assert_array_equal(decode(image, InputPolicy("native", side)), stretched(image, *expected))


def test_native_is_at_least_the_networks_minimum() -> None:
    assert decode(Image.new("RGB", (10, 500)), InputPolicy("native", 512, min_side=96)).shape == (512, 96, 3)


@pytest.mark.parametrize("shape", ["pad", "crop", "native"])
def test_a_policy_sees_only_the_region(shape: Shape) -> None:
    region = Region(0.25, 0.1, 0.75, 0.9)
    policy = InputPolicy(shape, 96)
    expected = decode(WIDE.crop((100, 20, 300, 180)), policy)
    np.testing.assert_allclose(decode(WIDE, policy, region).astype(int), expected.astype(int), atol=1)


@pytest.mark.parametrize("shape", ["pad", "crop", "native"])
@pytest.mark.parametrize("size", [(1, 300), (300, 1), (1, 1), (3000, 7)])
def test_extreme_aspect_ratios_are_supported(shape: Shape, size: tuple[int, int]) -> None:
    found = decode(Image.new("RGB", size, (9, 8, 7)), InputPolicy(shape, 64))
    assert found.ndim == 3
    assert found.any()


@pytest.mark.parametrize("shape", ["pad", "crop", "native"])
def test_a_large_jpeg_that_is_scaled_while_it_is_decoded_stays_much_the_same(shape: Shape) -> None:
    smooth = Image.radial_gradient("L").resize((2000, 1500)).convert("RGB")
    policy = InputPolicy(shape, 96)
    near = decode(smooth, policy, file_format="JPEG").astype(int) - decode(smooth, policy).astype(int)
    assert np.abs(near).mean() < 2
