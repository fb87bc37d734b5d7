"""AVIF and HEIC: pixels, orientation, and the limit in pixels."""

import io
import random
import struct
import subprocess
import sys
from contextlib import suppress
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import AvifImagePlugin, ExifTags, Image

from embedder_service.core.image_decoding import ImageDecoder, PixelBudget
from embedder_service.core.types import EncodedImage, InputPolicy, Limits, Pixels
from grpc_kit.deadline import Deadline
from grpc_kit.errors import InvalidArgumentError
from imagesearch_pixels.image_boxes import Coded, brand_of, coded_images, without_metadata_items
from tests.unit.embedder.test_image_decoding import SeenBudget, encode, natural, orientation_tag

FORMATS = ["AVIF", "HEIF"]
LIMITS = Limits(20 * 2**20, 50_000_000)
SMALL = Limits(20 * 2**20, 100_000)
PICTURE = natural(160, 120)
HUGE = (3000, 2000)


def decode(content: bytes, limits: Limits = LIMITS, budget: PixelBudget | None = None) -> Pixels:
    decoder = ImageDecoder(InputPolicy("squash", 64), limits, budget or PixelBudget(limits.max_image_pixels))
    return decoder.decode(EncodedImage(content), Deadline.after(None))


def refusal(content: bytes, limits: Limits = LIMITS) -> InvalidArgumentError:
    with pytest.raises(InvalidArgumentError) as refused:
        decode(content, limits)
    return refused.value


def encoded(file_format: str, image: Image.Image = PICTURE, **options: Any) -> bytes:
    return encode(image, file_format, quality=95, **options)


def difference(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(int) - other).mean())


def claiming(content: bytes, width: int, height: int, size: tuple[int, int] = HUGE) -> bytes:
    """A file that states another size beside its coded images than they have."""
    stated = struct.pack(">II", *size)
    assert stated in content
    return content.replace(stated, struct.pack(">II", width, height))


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_the_pixels_are_right_with_transparency_over_white(file_format: str, mode: str) -> None:
    image = PICTURE.convert(mode)
    if "A" in mode:
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    assert difference(decode(encoded(file_format, image)), decode(encode(image, "PNG"))) < 2.5


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(file_format: str, orientation: int) -> None:
    tag = orientation_tag(orientation)
    # Given as bytes, so that both encoders write the properties `irot` and `imir`.
    content = encoded(file_format, exif=tag.tobytes())
    assert (b"irot" in content or b"imir" in content) == (orientation > 1)
    assert difference(decode(content), decode(encode(PICTURE, "PNG", exif=tag))) < 2.5


def test_exif_orientation_is_ignored_beside_the_orientation_property() -> None:
    # ISO/IEC 23008-12 has readers ignore it; pictures of telephones have both.
    content = encoded("HEIF", exif=orientation_tag(6))
    assert b"irot" not in content
    assert difference(decode(content), decode(encode(PICTURE, "PNG"))) < 2.5


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_first_of_several_images_is_decoded(file_format: str) -> None:
    several = encoded(file_format, save_all=True, append_images=[PICTURE.rotate(180)] * 3)
    assert difference(decode(several), decode(encode(PICTURE, "PNG"))) < 2.5


def test_ten_bits_are_read() -> None:
    wide = (np.asarray(PICTURE).astype(np.uint16) * 257).tobytes()
    file = pillow_heif.from_bytes("RGB;16", PICTURE.size, wide)
    written = io.BytesIO()
    file.save(written, quality=95)
    content = written.getvalue()
    assert difference(decode(content), decode(encode(PICTURE, "PNG"))) < 2.5


def test_the_tiles_of_a_grid_are_read() -> None:
    image = natural(1100, 700)
    content = encoded("HEIF", image, tile_size=512)
    assert coded_images(content) == [Coded(512, 512, 512 * 512)] * 6
    assert difference(decode(content), decode(encode(image, "PNG"))) < 2.5


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_coded_size_is_known_without_decoding(file_format: str) -> None:
    alpha = PICTURE.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(alpha.size))
    assert len(coded_images(encoded(file_format))) == 1
    images = coded_images(encoded(file_format, alpha))
    assert len(images) == 2
    for image in images:
        assert 160 <= image.width < 176
        assert 120 <= image.height < 136


def test_the_first_samples_of_a_sequence_are_measured() -> None:
    several = encoded("AVIF", save_all=True, append_images=[PICTURE.rotate(180)] * 3)
    assert brand_of(several) == b"avis"
    assert {(image.width, image.height) for image in coded_images(several)} == {(160, 120)}


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_coded_image_larger_than_its_box_is_refused_before_it_is_decoded(file_format: str) -> None:
    content = encode(Image.new("RGB", HUGE), file_format)
    error = refusal(claiming(content, 20, 10), SMALL)
    assert error.reason == "IMAGE_DIMENSIONS_TOO_LARGE"
    assert error.metadata["width"] == str(HUGE[0])


def test_many_tiles_behind_a_small_image_are_refused() -> None:
    content = encode(Image.new("RGB", (1500, 1000)), "HEIF", tile_size=256)
    # The canvas is in the grid's own data.
    small = claiming(content, 20, 10, (1500, 1000)).replace(struct.pack(">HH", 1500, 1000), struct.pack(">HH", 20, 10))
    assert refusal(small, SMALL).reason == "IMAGE_TOO_COSTLY"


@pytest.mark.parametrize("file_format", FORMATS)
def test_coded_pixels_count_for_the_budget(file_format: str) -> None:
    content = encode(Image.new("RGB", (1024, 1024)), file_format)
    budget = SeenBudget()
    with suppress(InvalidArgumentError):
        decode(claiming(content, 16, 16, (1024, 1024)), budget=budget)
    assert budget.asked == [1024 * 1024]


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("behind", [bytes(100_000), b"\xff" * 7, b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 100])
def test_bytes_after_the_boxes_are_ignored(file_format: str, behind: bytes) -> None:
    content = encoded(file_format)
    assert np.array_equal(decode(content + behind), decode(content))


@pytest.mark.parametrize("file_format", FORMATS)
def test_broken_metadata_is_ignored(file_format: str) -> None:
    good = encoded(file_format)
    noise = random.Random(2).randbytes(2_000_000)
    exif = orientation_tag(1)
    exif[ExifTags.Base.ImageDescription] = "a" * 50
    tag = exif.tobytes()
    content = encoded(file_format, exif=tag, xmp=noise[:100_000], icc_profile=noise)
    assert np.array_equal(decode(content), decode(good))
    at = content.index(tag.removeprefix(b"Exif\0\0")[:4], 100)
    broken = content[: at - 4] + b"\xff" * 12 + content[at + 8 :]
    assert np.array_equal(decode(broken), decode(good))


def test_a_heic_file_is_refused_with_advice_if_the_package_is_not_installed() -> None:
    command = """
import sys
sys.modules["pillow_heif"] = None
from embedder_service.core.image_decoding import FORMATS, ImageDecoder, PixelBudget
from embedder_service.core.types import EncodedImage, InputPolicy, Limits
from grpc_kit.deadline import Deadline
from grpc_kit.errors import ServiceError
assert FORMATS[-1] == "AVIF"
try:
    decoder = ImageDecoder(InputPolicy("squash", 64), Limits(10**7, 10**7), PixelBudget(10**7))
    decoder.decode(EncodedImage(sys.stdin.buffer.read()), Deadline.after(None))
except ServiceError as error:
    print(error.reason, error.message)
"""
    done = subprocess.run([sys.executable, "-c", command], input=encoded("HEIF"), capture_output=True, check=True)
    reported = done.stdout.decode()
    assert reported.startswith("IMAGE_FORMAT_UNSUPPORTED")
    assert "HEIC" in reported
    assert "pip install '.[embedder,heic]'" in reported


def test_a_video_is_unsupported_and_a_broken_image_is_corrupt() -> None:
    assert refusal(b"\0\0\0\x18ftypmp42" + bytes(1000)).reason == "IMAGE_FORMAT_UNSUPPORTED"
    for brand in (b"avif", b"heic"):
        assert refusal(b"\0\0\0\x18ftyp" + brand + bytes(1000)).reason == "IMAGE_CORRUPT"


def test_a_decoder_has_one_thread() -> None:
    assert (AvifImagePlugin.DEFAULT_MAX_THREADS, pillow_heif.options.DECODE_THREADS) == (1, 1)


@pytest.mark.parametrize("file_format", FORMATS)
def test_damaged_files_are_decoded_or_refused(file_format: str) -> None:
    good, chance = encoded(file_format, PICTURE.resize((40, 30))), random.Random(7)
    for _ in range(300):
        content = bytearray(good[: chance.choice([len(good), chance.randrange(len(good))])])
        for _ in range(chance.randrange(1, 6)):
            content[chance.randrange(min(len(content), chance.choice([400, len(content)])))] = chance.randrange(256)
        coded_images(bytes(content))
        without_metadata_items(bytes(content))
        with suppress(InvalidArgumentError):
            decode(bytes(content), Limits(10**6, 10**6))


def box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", len(data) + 8, kind) + data


def meta(*boxes: bytes) -> bytes:
    return box(b"ftyp", b"avif\0\0\0\0avif") + box(b"meta", bytes(4) + b"".join(boxes))


PRIMARY = box(b"pitm", bytes(4) + b"\0\1")
BOMBS = {
    "places without a size": meta(PRIMARY, box(b"iloc", bytes(6) + b"\xff\xff" + (b"\0\1\0\0\xff\xff") * 65_535)),
    "places of all of the file": meta(
        PRIMARY,
        box(b"iloc", b"\0\0\0\0\x44\0\0\1\0\1\0\0\x80\0" + struct.pack(">II", 0, 2**31) * 2**15),
        bytes(1_000_000),
    ),
    "references without end": meta(PRIMARY, box(b"iref", bytes(4) + box(b"dimg", b"\0\1\xff\xff") * 100_000)),
    "many empty boxes": meta(PRIMARY, box(b"free", b"") * 1_000_000),
    "boxes without a size": meta(PRIMARY, b"\0\0\0\0meta" * 1000),
}  # fmt: skip


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", BOMBS)
def test_malicious_boxes_are_read_quickly(name: str) -> None:
    assert coded_images(BOMBS[name]) == []
    assert refusal(BOMBS[name]).reason == "IMAGE_CORRUPT"
