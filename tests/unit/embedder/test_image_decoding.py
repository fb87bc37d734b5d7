"""ImageDecoder on files that Pillow writes, and on files that the test writes byte by byte."""

import random
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, JpegImagePlugin

from embedder_service.core.deadlines import AnyDeadline
from embedder_service.core.image_decoding import ImageDecoder, PixelBudget
from embedder_service.core.types import EncodedImage, InputPolicy, Limits, Pixels, Region
from grpc_kit.deadline import Deadline
from grpc_kit.errors import DeadlineExceededError, InvalidArgumentError

NEVER = Deadline.after(None)
PASSED = Deadline(0.0)
LIMITS = Limits(max_image_bytes=1_000_000, max_image_pixels=50_000_000)
WIDTH, HEIGHT = 36, 28


def gradient() -> NDArray[np.uint8]:
    """A smooth picture without any symmetry, which lossy formats keep well."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    channels = (x * 255 / WIDTH, y * 255 / HEIGHT, (x + 2 * y) * 255 / (WIDTH + 2 * HEIGHT))
    return np.stack(channels, axis=2).astype(np.uint8)


RGB = gradient()
GREY = RGB[..., 0]
ALPHA = np.ascontiguousarray(RGB[..., 1])
PALETTE = Image.fromarray(RGB).quantize(64)


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def decoder_of(size: int = 224, limits: Limits = LIMITS, budget: PixelBudget | None = None) -> ImageDecoder:
    return ImageDecoder(InputPolicy("squash", size), limits, budget or PixelBudget(limits.max_image_pixels))


def decode(content: bytes, region: Region | None = None) -> Pixels:
    return decoder_of().decode(EncodedImage(content, region), NEVER)


def resized(pixels: NDArray[Any]) -> NDArray[np.int16]:
    """What the decoder should make of a picture, uint8[height, width, 3] or uint8[height, width]."""
    image = Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
    return np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR), np.int16)


def over_white(pixels: NDArray[Any], alpha: NDArray[Any]) -> NDArray[np.uint8]:
    colour = pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=2)
    opacity = alpha[..., None] / 255.0
    mixed: NDArray[np.uint8] = np.round(colour * opacity + 255.0 * (1 - opacity)).astype(np.uint8)
    return mixed


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_file(width: int, height: int, raw: bytes = b"", *, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG file whose header may say what its pixel data do not hold."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def bmp_file(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def gif_file(width: int, height: int) -> bytes:
    screen = b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\x00\x00" + b"\x00\x00\x00\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHH", 0, 0, width, height) + b"\x00" + b"\x02\x02\x4c\x01\x00\x3b"
    return screen + frame


def tiff_of_one_tile(image_side: int, tile_side: int) -> bytes:
    """A black TIFF image whose one tile is as large as it says."""
    packer = zlib.compressobj(9)
    tile = b"".join(packer.compress(bytes(tile_side)) for _ in range(tile_side)) + packer.flush()
    tile += bytes(len(tile) % 2)
    numbers = {256: image_side, 257: image_side, 258: 8, 259: 8, 262: 1, 277: 1}
    numbers |= {322: tile_side, 323: tile_side, 324: 8, 325: len(tile)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in numbers.items())
    return b"II*\0" + struct.pack("<I", 8 + len(tile)) + tile + struct.pack("<H", len(numbers)) + entries + bytes(4)


def rgb() -> Image.Image:
    return Image.fromarray(RGB)


def with_alpha(mode: str) -> Image.Image:
    image = Image.fromarray(RGB if mode == "RGBA" else GREY)
    image.putalpha(Image.fromarray(ALPHA))
    return image


def converted(mode: str) -> Image.Image:
    return rgb().convert(mode)


DEPTH16 = (np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH) * 65).astype(np.uint16)
RGB16 = png_file(WIDTH, HEIGHT, b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in RGB), depth=16)
CMYK = converted("CMYK")
YCBCR = converted("YCbCr")
BINARY = np.asarray(converted("1"))
FLOATS = (RGB[..., 2] / 255.0).astype(np.float32)
# The first palette entry is the transparent one.
PALETTE_SHOWN = np.where((np.asarray(PALETTE) == 0)[..., None], 255, np.asarray(PALETTE.convert("RGB")))

# name: the file's bytes, the picture that they hold, and how far a value may be off.
PICTURES: dict[str, tuple[bytes, NDArray[Any], int]] = {
    "RGB JPEG": (encode(rgb(), "JPEG", quality=95, subsampling=0), RGB, 6),
    "RGB progressive JPEG": (encode(rgb(), "JPEG", quality=95, subsampling=0, progressive=True), RGB, 6),
    "RGB PNG": (encode(rgb(), "PNG"), RGB, 0),
    "RGB WebP": (encode(rgb(), "WEBP", quality=95), RGB, 16),
    "RGB lossless WebP": (encode(rgb(), "WEBP", lossless=True), RGB, 0),
    "RGB TIFF": (encode(rgb(), "TIFF"), RGB, 0),
    "RGB TIFF, LZW": (encode(rgb(), "TIFF", compression="tiff_lzw"), RGB, 0),
    "RGB BMP": (encode(rgb(), "BMP"), RGB, 0),
    "RGB PNG of 16 bits": (RGB16, RGB, 0),
    "L JPEG": (encode(Image.fromarray(GREY), "JPEG", quality=95), GREY, 4),
    "L PNG": (encode(Image.fromarray(GREY), "PNG"), GREY, 0),
    "L GIF": (encode(Image.fromarray(GREY), "GIF"), GREY, 0),
    "L TIFF": (encode(Image.fromarray(GREY), "TIFF"), GREY, 0),
    "L BMP": (encode(Image.fromarray(GREY), "BMP"), GREY, 0),
    "LA PNG": (encode(with_alpha("LA"), "PNG"), over_white(GREY, ALPHA), 2),
    "LA TIFF": (encode(with_alpha("LA"), "TIFF"), over_white(GREY, ALPHA), 2),
    "RGBA PNG": (encode(with_alpha("RGBA"), "PNG"), over_white(RGB, ALPHA), 2),
    "RGBA lossless WebP": (encode(with_alpha("RGBA"), "WEBP", lossless=True, exact=True), over_white(RGB, ALPHA), 2),
    "RGBA TIFF": (encode(with_alpha("RGBA"), "TIFF"), over_white(RGB, ALPHA), 2),
    "P PNG": (encode(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB")), 0),
    "P GIF": (encode(PALETTE, "GIF"), np.asarray(PALETTE.convert("RGB")), 0),
    "P TIFF": (encode(PALETTE, "TIFF"), np.asarray(PALETTE.convert("RGB")), 0),
    "P BMP": (encode(PALETTE, "BMP"), np.asarray(PALETTE.convert("RGB")), 0),
    "P PNG with transparency": (encode(PALETTE, "PNG", transparency=0), PALETTE_SHOWN, 0),
    "P GIF with transparency": (encode(PALETTE, "GIF", transparency=0), PALETTE_SHOWN, 0),
    "L PNG with a transparent grey": (
        encode(Image.fromarray(GREY), "PNG", transparency=int(GREY[0, 9])),
        np.where(GREY[0, 9] == GREY, 255, GREY),
        0,
    ),
    "1 PNG": (encode(converted("1"), "PNG"), BINARY * 255, 0),
    "1 TIFF, fax": (encode(converted("1"), "TIFF", compression="group4"), BINARY * 255, 0),
    "1 BMP": (encode(converted("1"), "BMP"), BINARY * 255, 0),
    "CMYK JPEG": (encode(CMYK, "JPEG", quality=95, subsampling=0), np.asarray(CMYK.convert("RGB")), 6),
    "CMYK TIFF": (encode(CMYK, "TIFF"), 255 - np.asarray(CMYK)[..., :3], 1),
    "16-bit PNG": (encode(Image.fromarray(DEPTH16), "PNG"), DEPTH16 // 256, 0),
    "16-bit TIFF": (encode(Image.fromarray(DEPTH16), "TIFF"), DEPTH16 // 256, 0),
    "32-bit integer TIFF": (encode(Image.fromarray(DEPTH16.astype(np.int32)), "TIFF"), DEPTH16 // 256, 0),
    "32-bit integer TIFF out of range": (
        encode(Image.fromarray(np.where(DEPTH16 < 30000, -5, 70000).astype(np.int32)), "TIFF"),
        np.where(DEPTH16 < 30000, 0, 255),
        0,
    ),
    "float TIFF in 0..1": (encode(Image.fromarray(FLOATS), "TIFF"), RGB[..., 2], 1),
    "float TIFF in 0..255": (encode(Image.fromarray(FLOATS * 255), "TIFF"), RGB[..., 2], 1),
    "float TIFF of NaN": (encode(Image.fromarray(FLOATS * np.float32(np.nan)), "TIFF"), GREY * 0, 0),
    "YCbCr TIFF": (encode(YCBCR, "TIFF"), np.asarray(YCBCR.convert("RGB")), 0),
}


@pytest.mark.parametrize("name", PICTURES)
def test_every_format_and_mode_is_decoded_as_rgb_over_white(name: str) -> None:
    content, picture, tolerance = PICTURES[name]
    pixels = decode(content)
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels - resized(picture)).max() <= tolerance


@pytest.mark.parametrize(
    ("lab", "expected"),
    [
        # CIE L*a*b* of D50, as ICC has it: L in 0..100 as 0..255, a and b shifted by 128.
        pytest.param((136, 128, 128), (127, 127, 127), id="grey: L 53.4"),
        pytest.param((138, 209, 198), (255, 0, 0), id="red: L 54.3, a 80.8, b 69.9"),
        pytest.param((255, 128, 128), (255, 255, 255), id="white: L 100"),
    ],
)
def test_a_lab_tiff_is_converted_to_srgb(lab: tuple[int, int, int], expected: tuple[int, int, int]) -> None:
    pixels = decode(encode(Image.new("LAB", (8, 8), lab), "TIFF")).astype(int)
    assert np.abs(pixels - expected).max() <= 6


def test_one_infinite_value_does_not_darken_a_float_picture_of_0_to_1() -> None:
    values = FLOATS.copy()
    values[0, 0] = np.inf
    shown = RGB[..., 2].copy()
    shown[0, 0] = 255
    assert np.abs(decode(encode(Image.fromarray(values), "TIFF")) - resized(shown)).max() <= 1


@pytest.mark.parametrize("file_format", ["GIF", "TIFF", "PNG", "WEBP", "MPO"])
def test_the_first_of_many_frames_is_decoded(file_format: str) -> None:
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 0, 250)))
    pixels = decode(encode(first, file_format, save_all=True, append_images=[second])).astype(int)
    assert np.abs(pixels - (250, 0, 0)).max() <= 3


def stored(upright: NDArray[np.uint8], orientation: int) -> Image.Image:
    """The pixels as a camera stores them that writes this EXIF orientation."""
    transverse = np.rot90(upright, 2).transpose(1, 0, 2)
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: np.rot90(upright, 2),
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: transverse,
        8: np.rot90(upright, -1),
    }
    return Image.fromarray(np.ascontiguousarray(turned[orientation]))


def orientation_tag(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("file_format", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}, 8),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("TIFF", {}, 0),
    ],
)
def test_every_exif_orientation_gives_the_same_upright_picture(
    orientation: int, file_format: str, options: dict[str, Any], tolerance: int
) -> None:
    content = encode(stored(RGB, orientation), file_format, exif=orientation_tag(orientation), **options)
    assert np.abs(decode(content) - resized(RGB)).max() <= tolerance


def exif_with(tag: int, kind: int) -> bytes:
    """EXIF that turns by 90 degrees (orientation 6), with one more entry whose type is not the tag's."""
    orientation = struct.pack(">HHIHH", ExifTags.Base.Orientation, 3, 1, 6, 0)
    entries = sorted([orientation, struct.pack(">HHII", tag, kind, 1, 8)])
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + b"".join(entries) + bytes(40)


@pytest.mark.parametrize(
    "exif",
    [
        pytest.param(exif_with(ExifTags.Base.Software, 12), id="software that is a float"),
        pytest.param(exif_with(ExifTags.Base.XResolution, 1), id="resolution that is a byte"),
        pytest.param(exif_with(ExifTags.IFD.Interop, 12), id="pointer that is a float"),
        pytest.param(exif_with(ExifTags.IFD.MakerNote, 16), id="maker note of an unknown type"),
    ],
)
def test_other_faults_in_exif_data_do_not_affect_the_orientation(exif: bytes) -> None:
    content = encode(stored(RGB, 6), "PNG", exif=exif)
    assert np.array_equal(decode(content), resized(RGB))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_invalid_exif_data_is_ignored(file_format: str) -> None:
    pixels = decode(encode(Image.new("RGB", (9, 9), (90, 90, 90)), file_format, exif=b"Exif\0\0neither II nor MM"))
    assert np.abs(pixels.astype(int) - 90).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_a_side_of_one_pixel_is_stretched(size: tuple[int, int]) -> None:
    assert np.array_equal(np.unique(decode(encode(Image.new("RGB", size, (7, 7, 7)), "PNG"))), [7])


def test_the_result_has_the_side_of_the_policy() -> None:
    assert decoder_of(96).decode(EncodedImage(encode(rgb(), "PNG")), NEVER).shape == (96, 96, 3)


@pytest.mark.parametrize(
    ("region", "box"),
    [
        (Region(0, 0, 1, 1), (0, 0, 36, 28)),
        pytest.param(Region(0.25, 0.5, 0.75, 1), (9, 14, 27, 28)),
        pytest.param(Region(0, 0, 1 / 36, 1 / 28), (0, 0, 1, 1)),
        pytest.param(Region(35 / 36, 27 / 28, 1, 1), (35, 27, 36, 28)),
        # Edges between two pixels go to the nearer one.
        pytest.param(Region(0.1, 0.1, 0.9, 0.9), (4, 3, 32, 25)),
        # As they come out of a message: float32.
        pytest.param(Region(*np.array([1 / 3, 1 / 7, 2 / 3, 6 / 7], np.float32).tolist()), (12, 4, 24, 24)),
    ],
)
def test_a_region_is_decoded_like_the_cropped_image(region: Region, box: tuple[int, int, int, int]) -> None:
    cut_beforehand = decode(encode(rgb().crop(box), "PNG"))
    assert np.array_equal(decode(encode(rgb(), "PNG"), region), cut_beforehand)


@pytest.mark.parametrize(("side", "file_format"), [(64, "PNG"), (4096, "PNG"), (4096, "JPEG")])
def test_pixels_outside_of_a_region_are_not_used(side: int, file_format: str) -> None:
    image = Image.new("L", (side, side), 255)
    image.paste(0, (0, 0, side // 2, side))
    assert decode(encode(image, file_format), Region(0, 0, 0.5, 1)).max() == 0


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_region_refers_to_the_upright_image(orientation: int) -> None:
    content = encode(stored(RGB, orientation), "PNG", exif=orientation_tag(orientation))
    assert np.array_equal(decode(content, Region(0.5, 0, 1, 0.25)), resized(RGB[:7, 18:]))


@pytest.mark.parametrize(
    "region",
    [
        Region(float("nan"), 0, 1, 1),
        Region(0, 0, 1, float("nan")),
        Region(0, 0, float("inf"), 1),
        Region(0.6, 0, 0.4, 1),
        Region(0, 0.6, 1, 0.4),
        Region(0.5, 0, 0.5, 1),
        Region(-0.01, 0, 1, 1),
        Region(0, 0, 1.01, 1),
        Region(0, 0, 0, 0),
        Region(0.5, 0.5, 0.505, 1),
        Region(0.5, 0.5, 1, 0.505),
    ],
    ids=str,
)
def test_a_region_that_is_not_a_box_in_the_image_is_refused(region: Region) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        decode(encode(rgb(), "PNG"), region)
    assert (refused.value.reason, refused.value.field) == ("REGION_INVALID", "image.region")
    assert ("x0 < x1" in refused.value.message) or ("less than one pixel" in refused.value.message)


def refusal(content: bytes) -> InvalidArgumentError:
    with pytest.raises(InvalidArgumentError) as refused:
        decode(content)
    assert refused.value.field == "image.content"
    assert len(refused.value.message) < 300
    return refused.value


def test_an_empty_image_is_refused_as_missing() -> None:
    assert refusal(b"").reason == "IMAGE_MISSING"


@pytest.mark.parametrize("spare", [0, 1])
def test_an_image_may_have_exactly_the_limit_in_bytes(spare: int) -> None:
    content = encode(rgb(), "PNG")
    decoder = decoder_of(limits=Limits(len(content) - 1 + spare, 1_000_000))
    if spare:
        assert decoder.decode(EncodedImage(content), NEVER).shape == (224, 224, 3)
        return
    with pytest.raises(
        InvalidArgumentError, match=f"{len(content)} bytes; the maximum is {len(content) - 1}"
    ) as refused:
        decoder.decode(EncodedImage(content), NEVER)
    assert (refused.value.reason, refused.value.field) == ("IMAGE_TOO_LARGE", "image.content")
    assert refused.value.metadata == {"max_image_bytes": str(len(content) - 1)}


@pytest.mark.parametrize("spare", [0, 1])
def test_an_image_may_have_exactly_the_limit_in_pixels(spare: int) -> None:
    decoder = decoder_of(limits=Limits(1_000_000, WIDTH * HEIGHT - 1 + spare))
    if spare:
        assert decoder.decode(EncodedImage(encode(rgb(), "PNG")), NEVER).shape == (224, 224, 3)
        return
    with pytest.raises(InvalidArgumentError) as refused:
        decoder.decode(EncodedImage(encode(rgb(), "PNG")), NEVER)
    assert refused.value.metadata == {"max_image_pixels": "1007", "width": "36", "height": "28"}


JPEG_16X16 = encode(Image.new("RGB", (16, 16)), "JPEG")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("pillows_limit", [None, Image.MAX_IMAGE_PIXELS])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(png_file(100_000, 100_000), id="PNG, 10 gigapixels"),
        pytest.param(png_file(2**31 - 1, 2**31 - 1), id="PNG, the largest there is"),
        pytest.param(png_file(6_000, 10_000), id="PNG, 60 megapixels"),
        pytest.param(png_file(10_000, 10_000), id="PNG, 100 megapixels"),
        pytest.param(png_file(17_800, 10_000), id="PNG, 178 megapixels"),
        pytest.param(bmp_file(100_000, -100_000), id="BMP, 10 gigapixels"),
        pytest.param(gif_file(65_535, 65_535), id="GIF, 4 gigapixels"),
        pytest.param(JPEG_16X16.replace(b"\0\x10\0\x10\3", b"\xff\xff\xff\xff\3"), id="JPEG, 4 gigapixels"),
    ],
)
def test_huge_dimensions_are_refused_from_the_header(
    content: bytes, pillows_limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_limit)
    error = refusal(content)
    assert error.reason == "IMAGE_DIMENSIONS_TOO_LARGE"
    assert error.message.endswith("the maximum is 50000000")
    assert error.metadata["max_image_pixels"] == "50000000"


# Decodes standard input; prints what came of it, and by how many MiB the process grew.
DECODE_AND_MEASURE = """
import re, sys
from pathlib import Path
from embedder_service.core.image_decoding import ImageDecoder, PixelBudget
from embedder_service.core.types import EncodedImage, InputPolicy, Limits
from grpc_kit.deadline import Deadline
from grpc_kit.errors import ServiceError
def peak():
    # Not getrusage's, which begins at the peak of the process that started this one.
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024
content = sys.stdin.buffer.read()
before = peak()
try:
    decoder = ImageDecoder(InputPolicy("squash", 224), Limits(20_000_000, 50_000_000), PixelBudget(int(sys.argv[1])))
    decoder.decode(EncodedImage(content), Deadline.after(None))
    outcome = "decoded"
except ServiceError as error:
    outcome = error.reason
print(outcome, peak() - before)
"""


def test_a_small_tiff_with_a_huge_tile_is_refused_before_it_uses_memory() -> None:
    command = [sys.executable, "-c", DECODE_AND_MEASURE, "50_000_000"]
    done = subprocess.run(command, input=tiff_of_one_tile(100, 25_000), capture_output=True, check=True)
    outcome, grown = done.stdout.decode().split()
    assert outcome in {"IMAGE_DIMENSIONS_TOO_LARGE", "IMAGE_CORRUPT"}
    assert int(grown) < 256


@pytest.mark.parametrize("make", [png_file, bmp_file, gif_file], ids=["PNG", "BMP", "GIF"])
@pytest.mark.parametrize("size", [(5, 0), (0, 5)])
def test_an_image_without_pixels_is_refused_as_empty(make: Callable[[int, int], bytes], size: tuple[int, int]) -> None:
    assert refusal(make(*size)).reason == "IMAGE_EMPTY"


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 50, 3), np.uint8))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_truncated_file_is_refused_as_corrupt(file_format: str, kept: float) -> None:
    content = encode(NOISE, file_format)
    error = refusal(content[: int(len(content) * kept)])
    assert error.reason == "IMAGE_CORRUPT"
    assert "cannot be decoded" in error.message


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_file_that_ends_in_its_header_is_refused_as_corrupt(file_format: str) -> None:
    assert refusal(encode(NOISE, file_format)[:30]).reason == "IMAGE_CORRUPT"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(png_file(100, 100, bytes(30 * 91)), id="PNG of 100 x 100 with 30 rows of 30"),
        pytest.param(png_file(100, 100, b""), id="PNG without a row"),
        pytest.param(bmp_file(100, 100), id="BMP without a row"),
        pytest.param(png_file(10, 10, b"\x09" * 310), id="PNG with a filter that does not exist"),
        pytest.param(encode(rgb(), "PNG").replace(b"IDAT", b"IDAZ"), id="PNG without pixel data"),
        pytest.param(
            tiff_of_one_tile(10, 16)
            .replace(struct.pack("<HHII", 259, 4, 1, 8), struct.pack("<HHII", 259, 4, 1, 1))
            .replace(struct.pack("<HHII", 322, 4, 1, 16), struct.pack("<HHII", 322, 4, 1, 2**32 - 5))
            .replace(struct.pack("<HHII", 323, 4, 1, 16), struct.pack("<HHII", 323, 4, 1, 0)),
            id="TIFF whose tiles are 4 gigapixels wide and 0 high",
        ),
    ],
)
def test_a_file_with_a_wrong_header_is_refused_as_corrupt(content: bytes) -> None:
    assert refusal(content).reason == "IMAGE_CORRUPT"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"a text, and no image", id="text"),
        pytest.param(bytes(1000), id="zeros"),
        pytest.param(b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', id="SVG"),
        pytest.param(b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n", id="PDF"),
        pytest.param(b"\0\0\0\x18ftypisom\0\0\0\0isomavc1" + bytes(100), id="a video"),
        pytest.param(encode(rgb(), "ICO"), id="ICO"),
        pytest.param(encode(rgb(), "JPEG2000"), id="JPEG 2000"),
        pytest.param(encode(rgb(), "PPM"), id="PPM"),
        pytest.param(encode(rgb(), "EPS"), id="EPS"),
    ],
)
def test_other_formats_are_refused_with_the_supported_formats(content: bytes) -> None:
    error = refusal(content)
    assert error.reason == "IMAGE_FORMAT_UNSUPPORTED"
    assert "use JPEG, PNG, WEBP, GIF, TIFF, BMP, AVIF, HEIC" in error.message
    assert error.metadata == {"formats": "JPEG,PNG,WEBP,GIF,TIFF,BMP,AVIF,HEIC"}


def natural(width: int, height: int) -> Image.Image:
    """Patches of all sizes, the larger ones the stronger, as photographs have them, and a little noise."""
    chance = np.random.default_rng(0)
    coarse = np.zeros((height // 4, width // 4, 3), np.float32)
    for cells in (3, 10, 30, 90, 270):
        noise = chance.integers(0, 256, (cells, cells, 3), np.uint8)
        layer = Image.fromarray(noise).resize((width // 4, height // 4), Image.Resampling.BICUBIC)
        coarse += (np.asarray(layer, np.float32) - 127.5) / cells**0.5
    patches = Image.fromarray((127.5 + coarse).clip(0, 240).astype(np.uint8)).resize((width, height))
    grain = chance.integers(0, 16, (256, 256, 1), np.uint8)
    tiles = np.tile(grain, (height // 256 + 1, width // 256 + 1, 1))[:height, :width]
    return Image.fromarray(np.minimum(np.asarray(patches), 240) + tiles)


class SeenBudget(PixelBudget):
    """Keeps how many pixels were asked for."""

    def __init__(self) -> None:
        super().__init__(50_000_000)
        self.asked: list[int] = []

    @contextmanager
    def hold(self, pixels: int, deadline: AnyDeadline) -> Iterator[None]:
        self.asked.append(pixels)
        with super().hold(pixels, deadline):
            yield


LARGE = Limits(max_image_bytes=50_000_000, max_image_pixels=50_000_000)
WHOLE = Region(0, 0, 1, 1)


@pytest.fixture(scope="module")
def photographs() -> Callable[[int, int], bytes]:
    """Photographs of any size as JPEG files, each made once."""
    made: dict[tuple[int, int], bytes] = {}

    def of_size(width: int, height: int) -> bytes:
        if (width, height) not in made:
            made[width, height] = encode(natural(width, height), "JPEG", quality=85)
        return made[width, height]

    return of_size


def pixels_decoded(content: bytes, region: Region | None = None, size: int = 224) -> int:
    budget = SeenBudget()
    decoder_of(size, LARGE, budget).decode(EncodedImage(content, region), NEVER)
    (pixels,) = budget.asked
    return pixels


def at_full_size(content: bytes, region: Region | None = None) -> NDArray[np.int16]:
    """What the decoder gives where nothing is scaled while it is decoded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JpegImagePlugin.JpegImageFile, "draft", lambda *_: None)
        return decoder_of(limits=LARGE).decode(EncodedImage(content, region), NEVER).astype(np.int16)


def scaled(content: bytes, region: Region | None = None) -> NDArray[np.int16]:
    return decoder_of(limits=LARGE).decode(EncodedImage(content, region), NEVER).astype(np.int16)


@pytest.mark.parametrize("size", [(4000, 3000), (8192, 6100), (1601, 1203), (3001, 900)], ids=str)
def test_a_large_jpeg_is_scaled_while_it_is_decoded_and_looks_the_same(
    photographs: Callable[[int, int], bytes], size: tuple[int, int]
) -> None:
    content = photographs(*size)
    assert pixels_decoded(content) < size[0] * size[1] / 3
    difference = np.abs(scaled(content) - at_full_size(content))
    assert difference.mean() < 3
    assert difference.max() < 40


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_large_jpeg_of_another_mode_is_scaled_too(mode: str) -> None:
    content = encode(natural(1800, 1800).convert(mode), "JPEG")
    assert pixels_decoded(content) == 450 * 450
    assert np.abs(scaled(content) - at_full_size(content)).mean() < 3


def test_a_large_progressive_jpeg_looks_the_same() -> None:
    content = encode(natural(1800, 1800), "JPEG", progressive=True)
    assert np.abs(scaled(content) - at_full_size(content)).mean() < 3


@pytest.mark.parametrize(
    ("width", "height", "region", "part"),
    [
        (447, 447, None, 1),
        (895, 4000, None, 1),
        (896, 896, None, 2),
        (1791, 1791, None, 2),
        (1792, 1792, None, 4),
        (3583, 3583, None, 4),
        (3584, 3584, None, 8),
        (7000, 450, None, 1),
        (7168, 6900, None, 8),
        (3584, 3584, WHOLE, 8),
        (3584, 3584, Region(0.5, 0.5, 1, 1), 4),
        (3584, 3584, Region(0.5, 0.5, 0.75, 0.75), 2),
        (3584, 3584, Region(0, 0, 0.24, 1), 1),
        (3584, 3584, Region(0, 0, 1, 0.24), 1),
        (3584, 3584, Region(0, 0, 0.001, 0.001), 1),
    ],
    ids=str,
)
def test_a_jpeg_is_scaled_as_far_as_twice_the_side_allows_and_never_below(
    width: int, height: int, region: Region | None, part: int
) -> None:
    content = encode(Image.new("RGB", (width, height)), "JPEG")
    assert pixels_decoded(content, region) == -(-width // part) * -(-height // part)


@pytest.mark.parametrize("size", [96, 224])
@pytest.mark.parametrize("region", [None, Region(0.3, 0.2, 0.8, 0.6), Region(0.5, 0.5, 0.6, 1)], ids=str)
def test_a_region_is_decoded_at_twice_the_side_or_more(size: int, region: Region | None) -> None:
    box = region or WHOLE
    shorter = min(box.x1 - box.x0, box.y1 - box.y0)
    for side in range(2 * size, 18 * size, 397):
        decoded = pixels_decoded(encode(Image.new("L", (side, side)), "JPEG"), region, size) ** 0.5
        assert decoded == side or decoded * shorter >= 2 * size


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_other_formats_are_decoded_at_their_full_size(file_format: str) -> None:
    assert pixels_decoded(encode(Image.new("L", (1800, 1800)), file_format)) == 1800 * 1800


REGIONS = [None, Region(0.25, 0.1, 0.75, 0.9), Region(0.6, 0.55, 1, 0.97), Region(0.4, 0.4, 0.45, 0.45)]


@pytest.mark.parametrize("region", REGIONS, ids=str)
@pytest.mark.parametrize("size", [(4000, 3000), (3997, 3003)], ids=str)
def test_a_region_of_a_large_jpeg_looks_the_same(
    photographs: Callable[[int, int], bytes], size: tuple[int, int], region: Region | None
) -> None:
    content = photographs(*size)
    assert np.abs(scaled(content, region) - at_full_size(content, region)).mean() < 3


@pytest.mark.parametrize("region", REGIONS, ids=str)
@pytest.mark.parametrize("orientation", [2, 3, 6, 7, 8])
def test_a_region_of_a_large_jpeg_with_an_orientation_looks_the_same(orientation: int, region: Region | None) -> None:
    upright = np.asarray(natural(1999, 2803))
    content = encode(stored(upright, orientation), "JPEG", exif=orientation_tag(orientation))
    assert np.abs(scaled(content, region) - at_full_size(content, region)).mean() < 3


def test_a_region_too_small_for_a_pixel_is_refused_in_a_large_jpeg_too() -> None:
    content = encode(Image.new("L", (4000, 4000)), "JPEG")
    with pytest.raises(
        InvalidArgumentError, match="less than one pixel of the image, which has 4000 x 4000"
    ) as refused:
        scaled(content, Region(0.5, 0, 0.5001, 1))
    assert refused.value.reason == "REGION_INVALID"


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_truncated_large_jpeg_is_refused_as_corrupt(kept: float) -> None:
    content = encode(natural(1800, 1800), "JPEG")
    with pytest.raises(InvalidArgumentError) as refused:
        scaled(content[: int(len(content) * kept)])
    assert refused.value.reason == "IMAGE_CORRUPT"


def is_free(budget: PixelBudget, pixels: int) -> bool:
    try:
        with budget.hold(pixels, PASSED):
            return True
    except DeadlineExceededError:
        return False


def test_the_budget_bounds_what_all_threads_decode_at_a_time() -> None:
    budget, lock, held, most = PixelBudget(100), threading.Lock(), 0, 0

    def decode_one(pixels: int) -> None:
        nonlocal held, most
        with budget.hold(pixels, NEVER):
            with lock:
                held += pixels
                most = max(most, held)
            time.sleep(0.001)
            with lock:
                held -= pixels

    chance = random.Random(0)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(decode_one, [chance.randint(1, 60) for _ in range(100)]))
    assert 60 < most <= 100
    assert is_free(budget, 100)


def test_a_thread_waits_until_enough_pixels_are_free() -> None:
    budget = PixelBudget(100)
    with ThreadPoolExecutor(1) as threads:
        with budget.hold(40, NEVER), budget.hold(40, NEVER):
            waiting = threads.submit(lambda: budget.hold(30, Deadline.after(5)).__enter__())
            time.sleep(0.01)
            assert not waiting.done()
        waiting.result(5)


def test_a_deadline_that_passes_while_waiting_for_pixels_is_refused() -> None:
    budget = PixelBudget(100)
    with budget.hold(90, NEVER):
        with pytest.raises(DeadlineExceededError) as refused, budget.hold(11, Deadline.after(0.01)):
            pass
        assert refused.value.reason == "DEADLINE_EXCEEDED"
        # It took nothing with it.
        assert is_free(budget, 10)
        assert not is_free(budget, 11)
    assert is_free(budget, 100)


class Growing:
    """Patience that grows after it was asked for, as that of equal images does when one more caller joins."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def remaining(self) -> float:
        joined = self.asked.is_set()
        self.asked.set()
        return 5.0 if joined else 0.02


def test_a_deadline_extended_while_waiting_for_pixels_counts() -> None:
    budget, deadline = PixelBudget(100), Growing()

    def wait() -> bool:
        with budget.hold(1, deadline):
            return True

    with ThreadPoolExecutor(1) as threads:
        with budget.hold(100, NEVER):
            waiting = threads.submit(wait)
            assert deadline.asked.wait(5)
            time.sleep(0.1)
        assert waiting.result(5)


def test_an_image_above_the_whole_budget_is_decoded_alone() -> None:
    budget = PixelBudget(100)
    with budget.hold(1000, PASSED):
        assert not is_free(budget, 1)
    with budget.hold(1, PASSED):
        assert not is_free(budget, 1000)
    assert is_free(budget, 1000)
    decoder = decoder_of(budget=budget)
    assert decoder.decode(EncodedImage(encode(rgb(), "PNG")), NEVER).shape == (224, 224, 3)
    assert is_free(budget, 100)


def test_decoders_may_share_a_budget_and_an_image_waits_for_it() -> None:
    budget = PixelBudget(WIDTH * HEIGHT)
    image = EncodedImage(encode(rgb(), "PNG"))
    with budget.hold(1, NEVER), pytest.raises(DeadlineExceededError):
        decoder_of(budget=budget).decode(image, PASSED)
    # Where nobody else decodes, nothing is waited for.
    assert decoder_of(96, budget=budget).decode(image, PASSED).shape == (96, 96, 3)


def test_a_large_jpeg_counts_with_its_scaled_size() -> None:
    image = EncodedImage(encode(Image.new("L", (3584, 3584)), "JPEG"))
    budget = PixelBudget(3584 * 3584)
    with budget.hold(3584 * 3584 - 448 * 448, NEVER):
        assert decoder_of(limits=LARGE, budget=budget).decode(image, PASSED).shape == (224, 224, 3)


def test_a_large_progressive_jpeg_counts_with_its_memory() -> None:
    content = encode(natural(4000, 3000), "JPEG", progressive=True, subsampling=0)
    command = [sys.executable, "-c", DECODE_AND_MEASURE, "50_000_000"]
    done = subprocess.run(command, input=content, capture_output=True, check=True)
    outcome, grown = done.stdout.decode().split()
    assert outcome == "decoded"
    # Coefficients take two bytes each, and so six a pixel.
    assert int(grown) < 30 or pixels_decoded(content) > 4_000_000


@pytest.mark.parametrize(
    ("content", "region"),
    [
        pytest.param(encode(NOISE, "PNG")[:4000], None, id="truncated PNG"),
        pytest.param(encode(NOISE, "JPEG")[:1500], None, id="truncated JPEG"),
        pytest.param(encode(NOISE, "PNG"), Region(0.5, 0.5, 0.505, 1), id="region below a pixel"),
        pytest.param(encode(NOISE, "PNG"), Region(0.6, 0.5, 0.5, 1), id="region inside out"),
        pytest.param(png_file(100, 100, b""), None, id="PNG without a row"),
        pytest.param(b"no image", None, id="text"),
    ],
)
def test_a_refused_image_releases_its_pixels(content: bytes, region: Region | None) -> None:
    budget = PixelBudget(10_000)
    for _ in range(3):
        with pytest.raises(InvalidArgumentError):
            decoder_of(budget=budget).decode(EncodedImage(content, region), NEVER)
    assert is_free(budget, 10_000)


SEEDS = [content for content, _, _ in PICTURES.values()]
SEEDS += [encode(stored(RGB, 6), kind, exif=orientation_tag(6)) for kind in ("JPEG", "PNG", "WEBP", "TIFF")]
SEEDS += [encode(rgb(), kind, save_all=True, append_images=[rgb()]) for kind in ("GIF", "PNG", "WEBP", "TIFF", "MPO")]


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Flips bytes, cuts off the end, goes over into another file, or repeats a part."""
    damaged = bytearray(content)
    at = chance.randrange(len(damaged))
    match chance.choice(["flips", "flips in the header", "cut", "splice", "repeat"]):
        case "flips":
            for _ in range(chance.randint(1, 8)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        case "flips in the header":
            for _ in range(chance.randint(1, 4)):
                damaged[chance.randrange(min(len(damaged), 120))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF])
        case "cut":
            del damaged[at:]
        case "splice":
            other = chance.choice(SEEDS)
            damaged[at:] = other[chance.randrange(len(other)) :]
        case "repeat":
            damaged[at:at] = damaged[at : at + chance.randint(1, 40)]
    return bytes(damaged)


def outcome_of(content: bytes) -> str:
    try:
        pixels = decode(content)
    except InvalidArgumentError as error:
        return f"{error.reason} {error.field}"
    return f"{pixels.dtype} {pixels.shape}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(5))
def test_damaged_files_are_decoded_or_refused_and_nothing_else(seed: int) -> None:
    chance = random.Random(seed)
    outcomes = {outcome_of(mutated(chance.choice(SEEDS), chance)) for _ in range(200)}
    decoded, corrupt = "uint8 (224, 224, 3)", "IMAGE_CORRUPT image.content"
    others = {
        "IMAGE_MISSING",
        "IMAGE_FORMAT_UNSUPPORTED",
        "IMAGE_EMPTY",
        "IMAGE_DIMENSIONS_TOO_LARGE",
        "IMAGE_TOO_COSTLY",
    }
    assert outcomes <= {decoded, corrupt} | {f"{reason} image.content" for reason in others}
    assert {decoded, corrupt} <= outcomes
