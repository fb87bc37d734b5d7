"""Small files that are costly to decode: they count with their memory, or are refused."""

import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from PIL import ExifTags, Image

from embedder_service.core.deadlines import AnyDeadline
from embedder_service.core.decoding_costs import (
    MAX_READS,
    MAX_SCANS,
    MAX_SCANS_OF_LARGEST,
    MAX_SIDE,
    MAX_STRAY_BYTES,
    RUNS_DIVISOR,
    check_header,
)
from embedder_service.core.image_decoding import ImageDecoder, PixelBudget
from embedder_service.core.types import EncodedImage, InputPolicy, Limits
from grpc_kit.deadline import Deadline
from grpc_kit.errors import DeadlineExceededError, InvalidArgumentError, ServiceError
from imagesearch_pixels.metadata_removal import MAX_PARTS, without_metadata
from tests.unit.embedder.crafted_files import (
    APP1,
    END_OF_IMAGE,
    bmp_of_runs,
    deflated,
    gif_of_extensions,
    grey_jpeg,
    jpeg_of_scans,
    lossless_jpeg,
    png_chunk,
    png_of_chunks,
    segment,
    tiff_file,
    tiff_of_strips,
    tiff_of_tiles,
)
from tests.unit.embedder.test_image_decoding import DECODE_AND_MEASURE, SeenBudget, encode, natural, orientation_tag

NEVER = Deadline.after(None)
LIMITS = Limits(20 * 1024 * 1024, 50_000_000)
SMALL = Limits(20 * 1024 * 1024, 1_000_000)
SCAN = b"\xff\xda"
# The tag of EXIF (2.32) that may have several numbers.
SUBJECT_AREA = 0x9214


def decoder_of(limits: Limits = LIMITS, budget: PixelBudget | None = None) -> ImageDecoder:
    return ImageDecoder(InputPolicy("squash", 224), limits, budget or PixelBudget(limits.max_image_pixels))


def outcome_of(content: bytes, limits: Limits = LIMITS) -> str:
    try:
        decoder_of(limits).decode(EncodedImage(content), NEVER)
    except ServiceError as error:
        return error.reason
    return "decoded"


def pixels_charged(content: bytes) -> int:
    budget = SeenBudget()
    decoder_of(budget=budget).decode(EncodedImage(content), NEVER)
    (pixels,) = budget.asked
    return pixels


@pytest.mark.parametrize("components", [3, 4])
def test_a_jpeg_with_a_scan_for_each_component_counts_with_its_full_size(components: int) -> None:
    assert pixels_charged(grey_jpeg(4000, 3000, components=components)) == 4000 * 3000


@pytest.mark.parametrize("components", [1, 3, 4])
def test_a_jpeg_with_one_scan_counts_with_its_scaled_size(components: int) -> None:
    assert pixels_charged(grey_jpeg(4000, 3000, components=components, together=True)) == 1000 * 750


@pytest.mark.parametrize(
    ("mode", "file_format", "options"),
    [
        ("RGBA", "WEBP", {"method": 0}),
        ("RGBA", "PNG", {"compress_level": 1}),
        ("LA", "PNG", {"compress_level": 1}),
        ("F", "TIFF", {"compression": "tiff_lzw"}),
        ("I;16", "TIFF", {"compression": "tiff_lzw"}),
        ("CMYK", "JPEG", {"progressive": True, "subsampling": 0}),
    ],
)
def test_a_pixel_takes_at_most_22_bytes(mode: str, file_format: str, options: dict[str, Any]) -> None:
    image = Image.linear_gradient("L").resize((2000, 2000)).convert(mode)
    content = encode(image, file_format, exif=orientation_tag(6), **options)
    command = [sys.executable, "-c", DECODE_AND_MEASURE, "50_000_000"]
    done = subprocess.run(command, input=content, capture_output=True, check=True)
    outcome, grown = done.stdout.decode().split()
    assert outcome == "decoded"
    # And what the imports and the copies of the file take.
    assert int(grown) * 2**20 < 22 * 2000 * 2000 + 4 * len(content) + 16_000_000


def test_the_scans_of_a_thumbnail_do_not_count() -> None:
    thumbnail = segment(APP1, b"Exif\0\0" + jpeg_of_scans(16, 16, 40))
    assert pixels_charged(grey_jpeg(4000, 3000, thumbnail, together=True)) == 1000 * 750
    assert pixels_charged(grey_jpeg(4000, 3000, segment(APP1, grey_jpeg(16, 16, together=True)))) == 4000 * 3000


def test_a_lossless_jpeg_is_decoded_at_its_full_size() -> None:
    assert pixels_charged(lossless_jpeg(1000, 900)) == 1000 * 900


@pytest.mark.parametrize(
    ("side", "scans", "outcome"),
    [
        (7000, 14, "decoded"),
        (7000, MAX_SCANS_OF_LARGEST, "decoded"),
        (7000, MAX_SCANS_OF_LARGEST + 1, "IMAGE_TOO_COSTLY"),
        (3500, 4 * MAX_SCANS_OF_LARGEST + 2, "decoded"),
        (3500, 4 * MAX_SCANS_OF_LARGEST + 3, "IMAGE_TOO_COSTLY"),
        (16, MAX_SCANS, "decoded"),
        (16, MAX_SCANS + 1, "IMAGE_TOO_COSTLY"),
    ],
)
def test_the_scans_of_a_jpeg_are_bounded_by_its_pixels(side: int, scans: int, outcome: str) -> None:
    assert outcome_of(jpeg_of_scans(side, side, scans)) == outcome


def test_the_limit_on_scans_depends_on_the_limit_in_pixels() -> None:
    content = jpeg_of_scans(1000, 1000, MAX_SCANS_OF_LARGEST + 1)
    assert (outcome_of(content, SMALL), outcome_of(content)) == ("IMAGE_TOO_COSTLY", "decoded")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(grey_jpeg(64, 64, segment(APP1, b"Exif\0\0" + SCAN * 1000)), id="in a segment"),
        pytest.param(grey_jpeg(64, 64) + SCAN * 1000, id="behind the image"),
        pytest.param(jpeg_of_scans(64, 64, 14, segment(0xFE, SCAN * 500)) + SCAN * 1000, id="progressive"),
        pytest.param(encode(natural(640, 480), "JPEG", progressive=True) + SCAN * 1000, id="of Pillow"),
        pytest.param(jpeg_of_scans(64, 64, 40).replace(END_OF_IMAGE, b"\xff\xff" + END_OF_IMAGE), id="with fill bytes"),
    ],
)
def test_only_scans_of_the_image_itself_count(content: bytes) -> None:
    assert outcome_of(content) == "decoded"


def bmp_row_by_row(side: int) -> bytes:
    return bmp_of_runs(side, side, b"\x01\x01\x00\x00" * side)


def tiff_with_exif(count: int) -> bytes:
    """A TIFF file with a tag of so many numbers among its EXIF data."""
    directory = struct.pack("<HHHII", 1, SUBJECT_AREA, 3, count, 8 + 18) + bytes(4)
    tags = {256: 1, 257: 1, 259: 1, 278: 1, ExifTags.IFD.Exif: 8}
    return tiff_file(directory + bytes(2 * count), tags, {273: (8, 1), 279: (1, 1)})


def png_of_rows(width: int, height: int) -> bytes:
    return encode(Image.new("1", (width, height)), "PNG")


def directories(starts: Sequence[int], behind: bytes = b"") -> bytes:
    """What begins as a TIFF file: a directory whose entries point to directories at these offsets."""
    entries = [struct.pack("<HHII", ExifTags.IFD.Exif, 4, 1, start) for start in starts]
    return b"II*\0" + struct.pack("<IH", 8, len(starts)) + b"".join(entries) + behind


@pytest.mark.parametrize("signature", [b"II*\0", b"IIxx"], ids=["TIFF", "no TIFF"])
def test_directories_that_point_to_themselves_are_read_once(signature: bytes) -> None:
    # Each entry would lead to all entries again, and each of those too: that takes hours.
    assert outcome_of(signature + directories([8] * 5000)[4:]) in {"IMAGE_CORRUPT", "IMAGE_FORMAT_UNSUPPORTED"}


def directory_behind_a_longer_path() -> bytes:
    """A TIFF file whose EXIF data lead to a costly directory, and are reached by a longer path too."""
    interop = ExifTags.IFD.Interop

    def directory(*entries: tuple[int, int, int, int]) -> bytes:
        return struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)

    exif, gps, costly = 40, 60, 80
    root = directory((ExifTags.IFD.Exif, 4, 1, exif), (ExifTags.IFD.GPSInfo, 4, 1, gps))
    parts = {
        8: root,
        exif: directory((interop, 4, 1, costly)),
        gps: directory((interop, 4, 1, exif)),
        costly: directory((SUBJECT_AREA, 3, MAX_PARTS + 1, 100)),
    }
    content = bytearray(b"II*\0" + struct.pack("<I", 8) + bytes(2 * MAX_PARTS + 200))
    for at, part in parts.items():
        content[at : at + len(part)] = part
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(directories(range(5000, 10_000), b"\xff" * 300_000), id="many directories"),
        pytest.param(directory_behind_a_longer_path(), id="many numbers behind a longer path"),
        pytest.param(tiff_with_exif(MAX_PARTS + 1), id="many numbers"),
    ],
)
def test_costly_directories_are_removed_before_pillow_reads_them(content: bytes) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        check_header(content)
    assert refused.value.reason == "IMAGE_TOO_COSTLY"
    check_header(without_metadata(content, bare=True))


COSTLY: dict[str, Callable[[], bytes]] = {
    "TIFF of one column in tiles of 49 megapixels": lambda: tiff_of_tiles(1, 1_000_000, 7000, 8, deflated(49_000_000)),
    "TIFF of more strips than anybody writes": lambda: tiff_of_strips(1, MAX_PARTS + 1, 1, 8, deflated(1)),
    "TIFF of one strip many times over": lambda: tiff_of_strips(1000, 2, 1, 1, bytes(1000), count=MAX_PARTS + 1),
    "TIFF of half of the image many times over": lambda: tiff_of_strips(
        7000, 7000, 3500, 1, bytes(7000), count=MAX_PARTS
    ),
    "TIFF of JPEG strips of too many scans": lambda: tiff_of_strips(
        2000, 20_000, 2000, 7, jpeg_of_scans(2000, 2000, 60)
    ),
    "PNG of one row": lambda: png_of_rows(MAX_SIDE + 1, 1),
    "PNG of one column": lambda: png_of_rows(1, MAX_SIDE + 1),
    "PNG of many chunks": lambda: png_of_chunks(png_chunk(b"prVt", b"") * (MAX_READS // 2 + 100)),
    "PNG of empty pixel data": lambda: png_of_chunks(png_chunk(b"IDAT", b"") * MAX_READS),
    "JPEG of many tables": lambda: grey_jpeg(8, 8, segment(0xDB, bytes([0] + [1] * 64)) * 10_000),
    "JPEG of more segments than anybody writes": lambda: grey_jpeg(8, 8, segment(0xE5, b"") * (MAX_PARTS + 1)),
    "GIF of many comments": lambda: gif_of_extensions(b"\x21\xfe" + b"\x01a" * MAX_READS + b"\x00"),
    "BMP of many runs": lambda: bmp_of_runs(1000, 1000, b"\x01\x01" * 800_000),
    "large BMP of runs": lambda: bmp_row_by_row(7000),
}


@pytest.mark.parametrize("name", COSTLY)
def test_small_files_that_are_costly_to_decode_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        decoder_of().decode(EncodedImage(COSTLY[name]()), NEVER)
    error = refused.value
    assert (error.reason, error.field) == ("IMAGE_TOO_COSTLY", "image.content")
    assert "save the image again" in error.message
    assert len(error.message) < 300


@pytest.mark.parametrize("rubbish", [b"\0", b"\xff"], ids=["zeros", "fill bytes"])
def test_a_jpeg_with_many_bytes_between_segments_is_corrupt(rubbish: bytes) -> None:
    table = segment(0xDB, bytes([0] + [1] * 64))
    assert outcome_of(grey_jpeg(8, 8, table + rubbish * (MAX_STRAY_BYTES + 100))) == "IMAGE_CORRUPT"
    assert outcome_of(grey_jpeg(8, 8, table + rubbish * (MAX_STRAY_BYTES // 2))) == "decoded"


ORDINARY: dict[str, Callable[[], bytes]] = {
    "TIFF with EXIF data": lambda: tiff_with_exif(MAX_PARTS // 2),
    "TIFF with many numbers in its EXIF data": lambda: tiff_with_exif(MAX_PARTS + 1),
    "JPEG with many segments": lambda: grey_jpeg(8, 8, segment(0xE5, b"") * 10_000),
    "JPEG with much EXIF data in parts": lambda: grey_jpeg(8, 8, segment(APP1, b"Exif\0\0" + bytes(1000)) * 10_000),
    "JPEG with EXIF data in parts": lambda: grey_jpeg(8, 8, segment(APP1, b"Exif\0\0" + bytes(60_000)) * 10),
    "TIFF in rows": lambda: tiff_of_strips(700, 65_535, 1, 1, bytes(700)),
    "TIFF in deflated rows": lambda: tiff_of_strips(700, 65_535, 1, 8, deflated(700)),
    "TIFF in small tiles": lambda: tiff_of_tiles(4000, 4000, 16, 8, deflated(256)),
    "small TIFF in a large tile": lambda: tiff_of_tiles(100, 100, 4096, 8, deflated(4096 * 4096)),
    "TIFF in JPEG strips": lambda: encode(natural(1200, 900), "TIFF", compression="jpeg"),
    "TIFF in progressive JPEG strips": lambda: tiff_of_strips(2000, 4000, 2000, 7, jpeg_of_scans(2000, 2000, 14)),
    "TIFF with much that is no image": lambda: encode(natural(64, 64), "TIFF", icc_profile=bytes(1_000_000)),
    "JPEG with a profile in many segments": lambda: encode(natural(64, 64), "JPEG", icc_profile=bytes(10_000_000)),
    "PNG of one long row": lambda: png_of_rows(MAX_SIDE, 1),
    "PNG of one long column": lambda: png_of_rows(1, MAX_SIDE),
    "PNG in small parts": lambda: png_of_chunks(png_chunk(b"tEXt", b"a\0b") * 1000),
    "BMP in runs": lambda: bmp_row_by_row(2000),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_files_of_the_same_formats_are_decoded(name: str) -> None:
    assert outcome_of(ORDINARY[name]()) == "decoded"


def test_a_bmp_with_runs_has_a_lower_pixel_limit() -> None:
    side = int((SMALL.max_image_pixels / RUNS_DIVISOR) ** 0.5)
    assert outcome_of(bmp_row_by_row(side), SMALL) == "decoded"
    assert outcome_of(bmp_row_by_row(side + 1), SMALL) == "IMAGE_TOO_COSTLY"


@pytest.mark.parametrize("tag", [277, 278, 284, 322])
def test_a_tiff_tag_that_is_not_an_integer_is_corrupt(tag: int) -> None:
    content = bytearray(encode(Image.new("L", (16, 16)), "TIFF", compression="tiff_lzw", tiffinfo={tag: 1}))
    directory = struct.unpack_from("<I", content, 4)[0]
    for entry in range(directory + 2, len(content), 12):
        if struct.unpack_from("<H", content, entry)[0] == tag:
            struct.pack_into("<HI4s", content, entry + 2, 2, 4, b"one\0")
            break
    assert outcome_of(bytes(content)) in {"IMAGE_CORRUPT", "decoded"}


class EndingTime:
    """Patience that ends after it was asked so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def remaining(self) -> float:
        self.left -= 1
        return 5.0 if self.left >= 0 else 0.0


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "TIFF", "BMP"])
def test_decoding_stops_when_the_deadline_passes(file_format: str) -> None:
    image = Image.effect_noise((1200, 1200), 80).convert("P" if file_format == "GIF" else "RGB")
    content = encode(image, file_format)
    assert len(content) > 10 * 65_536
    decoder, deadline = decoder_of(), EndingTime(4)
    with pytest.raises(DeadlineExceededError) as refused:
        decoder.decode(EncodedImage(content), deadline)
    assert refused.value.reason == "DEADLINE_EXCEEDED"


def test_a_deadline_that_had_already_passed_is_ignored() -> None:
    passed: AnyDeadline = Deadline(0.0)
    assert decoder_of().decode(EncodedImage(encode(natural(640, 480), "PNG")), passed).shape == (224, 224, 3)
