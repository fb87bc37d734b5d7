"""Broken metadata, further images and appended bytes do not affect a valid image."""

import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from embedder_service.core.image_decoding import ImageDecoder, PixelBudget
from embedder_service.core.types import EncodedImage, InputPolicy, Limits, Pixels
from grpc_kit.deadline import Deadline
from imagesearch_pixels.metadata_removal import MAX_METADATA, PNG_SIGNATURE, without_metadata
from tests.unit.embedder.crafted_files import APP1, COMMENT, jpeg_of_scans, png_chunk, segment
from tests.unit.embedder.test_image_decoding import encode, natural, orientation_tag

LIMITS = Limits(32 * 2**20, 50_000_000)
PICTURE, OTHER = natural(80, 60), natural(60, 80)
NOISE = random.Random(3).randbytes(1_500_000)
MANY_SCANS = jpeg_of_scans(64, 64, 100) * 20 + b"\xff\xda" * 2000
PNG = encode(PICTURE, "PNG")
JPEG = encode(PICTURE, "JPEG")
PROGRESSIVE = encode(PICTURE, "JPEG", progressive=True)
TURNED = orientation_tag(6)


def decode(content: bytes) -> Pixels:
    decoder = ImageDecoder(InputPolicy("squash", 64), LIMITS, PixelBudget(LIMITS.max_image_pixels))
    return decoder.decode(EncodedImage(content), Deadline.after(None))


def packed(data: bytes) -> bytes:
    return zlib.compress(data, 1)


def with_chunks(before: bytes = b"", after: bytes = b"", png: bytes = PNG) -> bytes:
    """A PNG file with chunks before and behind its pixels."""
    begin = png.index(b"IDAT") - 4
    return png[:begin] + before + png[begin:-12] + after + png[-12:]


def damaged(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


CHUNKS = {
    "iCCP too large": png_chunk(b"iCCP", b"printer\0\0" + packed(NOISE)),
    "iCCP of another compression": png_chunk(b"iCCP", b"printer\0\1" + packed(NOISE)),
    "iCCP without a name": png_chunk(b"iCCP", b""),
    "iCCP broken": png_chunk(b"iCCP", b"printer\0\0" + NOISE[:1000]),
    "zTXt too large": png_chunk(b"zTXt", b"workflow\0\0" + packed(b"node " * 500_000)),
    "zTXt of another compression": png_chunk(b"zTXt", b"workflow\0\1" + packed(b"node")),
    "iTXt too large": png_chunk(b"iTXt", b"workflow\0\1\0\0\0" + packed(b"node " * 500_000)),
    "XMP too large": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed(b"node " * 500_000)),
    "more text than fits in all": png_chunk(b"zTXt", b"a\0\0" + packed(bytes(MAX_METADATA - 1))) * 70,
    "many texts": png_chunk(b"tEXt", b"a\0b") * 100_000,
    "EXIF data too large": png_chunk(b"eXIf", NOISE),
    "short chunks": b"".join(png_chunk(kind, b"") for kind in (b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tRNS", b"acTL")),
    "fcTL out of order": png_chunk(b"acTL", struct.pack(">II", 2, 0)) + png_chunk(b"fcTL", bytes(26)) * 2,
    "wrong check sums": damaged(png_chunk(b"tEXt", b"a\0b")) + damaged(png_chunk(b"prVt", b"x")),
    "a transparent colour with a wrong check sum": damaged(png_chunk(b"tRNS", bytes(6))),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_other_chunks_do_not_affect_the_pixels_of_a_png(name: str) -> None:
    expected = decode(PNG)
    assert np.array_equal(decode(with_chunks(before=CHUNKS[name])), expected)
    assert np.array_equal(decode(with_chunks(after=CHUNKS[name])), expected)


@pytest.mark.parametrize("cut", [1, 20, 1000])
def test_a_png_that_ends_within_a_chunk_after_its_pixels_is_decoded(cut: int) -> None:
    content = with_chunks(after=png_chunk(b"tEXt", bytes(2000)))[:-12]
    assert np.array_equal(decode(content[:-cut]), decode(PNG))


def test_removed_chunks_are_not_decompressed(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = with_chunks(png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(300_000_000), 9)))
    bombs = with_chunks(png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(MAX_METADATA + 1), 9)) * 15_000)
    tracemalloc.start()
    without_metadata(bomb)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    decompress, calls = zlib.decompressobj, 0

    def counted() -> object:
        nonlocal calls
        calls += 1
        return decompress()

    monkeypatch.setattr(zlib, "decompressobj", counted)
    without_metadata(bombs)
    assert calls == 1


def test_the_orientation_of_a_png_is_kept() -> None:
    expected = decode(encode(PICTURE, "PNG", exif=TURNED))
    exif = png_chunk(b"eXIf", TURNED.tobytes().removeprefix(b"Exif\0\0"))
    raw = TURNED.tobytes()
    hexadecimal = b"\nexif\n%8d\n%s\n" % (len(raw), raw.hex().encode())
    for chunk in (exif, png_chunk(b"zTXt", b"Raw profile type exif\0\0" + packed(hexadecimal))):
        assert np.array_equal(decode(with_chunks(chunk + CHUNKS["zTXt too large"])), expected)
        assert np.array_equal(decode(with_chunks(after=CHUNKS["iCCP too large"] + chunk)), expected)


def test_valid_metadata_is_kept() -> None:
    profile = png_chunk(b"iCCP", b"a\0\0" + packed(NOISE[:1000]))
    content = with_chunks(profile)
    assert without_metadata(content) is content
    assert without_metadata(PNG) is PNG
    assert without_metadata(JPEG) is JPEG
    assert profile in without_metadata(with_chunks(profile + CHUNKS["many texts"]))
    assert without_metadata(content, bare=True) == PNG


SEGMENTS = {
    "JFIF cut short": segment(0xE0, b"JFIF\0"),
    "Adobe cut short": segment(0xEE, b"Adobe"),
    "a profile cut short": segment(0xE2, b"ICC_PROFILE\0"),
    "profiles of wrong numbers": segment(0xE2, b"ICC_PROFILE\0\5\2" + bytes(9)) * 3,
    "a broken index of images": segment(0xE2, b"MPF\0II*\0" + NOISE[:200]),
    "an index of no images": segment(0xE2, b"MPF\0II*\0\10\0\0\0\0\0\0\0\0\0"),
    "broken EXIF data": segment(APP1, b"Exif\0\0II*\0" + NOISE[:500]),
    "no EXIF data": segment(APP1, b"Exif\0\0"),
    "large XMP data": segment(APP1, b"http://ns.adobe.com/xap/1.0/\0" + NOISE[:60_000]),
    "extended XMP data": segment(APP1, b"http://ns.adobe.com/xmp/extension/\0" + NOISE[:60_000]) * 100,
    "EXIF data in many parts": segment(APP1, b"Exif\0\0" + bytes(60_000)) * 100,
    "a broken Photoshop resource": segment(0xED, b"Photoshop 3.0\x008BIM" + NOISE[:50]),
    "many of all kinds": b"".join(segment(0xE0 + kind, NOISE[:500]) for kind in range(16)) * 500,
    "many comments": segment(COMMENT, b"x") * 50_000,
    "scans in segments": segment(0xE5, b"\xff\xda" * 20_000) + segment(APP1, b"Exif\0\0" + MANY_SCANS[:60_000]),
}


@pytest.mark.parametrize("name", SEGMENTS)
@pytest.mark.parametrize("jpeg", [JPEG, PROGRESSIVE], ids=["baseline", "progressive"])
def test_application_segments_do_not_affect_the_pixels_of_a_jpeg(name: str, jpeg: bytes) -> None:
    assert np.array_equal(decode(jpeg[:2] + SEGMENTS[name] + jpeg[2:]), decode(jpeg))


def test_the_orientation_of_a_jpeg_is_kept_when_other_segments_are_removed() -> None:
    turned = encode(PICTURE, "JPEG", exif=TURNED)
    others = SEGMENTS["many of all kinds"] + SEGMENTS["Adobe cut short"]
    assert np.array_equal(decode(turned[:2] + others + turned[2:]), decode(turned))


BEHIND: dict[str, bytes] = {
    "noise": NOISE,
    "zeros": bytes(1_500_000),
    "a video": b"\0\0\0\x18ftypmp42" + NOISE + MANY_SCANS,
    "images of many scans": MANY_SCANS,
    "one more JPEG": encode(OTHER, "JPEG", progressive=True),
    "one more PNG": encode(OTHER, "PNG"),
    "a line of text": b"\r\n-- \r\n",
    "a marker that is cut short": b"\xff",
}
FORMATS = [
    pytest.param("PNG", {}, id="PNG"),
    pytest.param("JPEG", {}, id="JPEG"),
    pytest.param("JPEG", {"progressive": True}, id="progressive JPEG"),
    pytest.param("GIF", {}, id="GIF"),
    pytest.param("WEBP", {}, id="WebP"),
    pytest.param("WEBP", {"exif": TURNED}, id="extended WebP"),
    pytest.param("TIFF", {}, id="TIFF"),
    pytest.param("TIFF", {"compression": "jpeg"}, id="TIFF of JPEG"),
    pytest.param("BMP", {}, id="BMP"),
]


@pytest.mark.parametrize(("file_format", "options"), FORMATS)
@pytest.mark.parametrize("name", BEHIND)
def test_bytes_after_an_image_are_ignored(file_format: str, options: dict[str, Any], name: str) -> None:
    content = encode(PICTURE, file_format, **options)
    assert np.array_equal(decode(content + BEHIND[name]), decode(content))


def without_end(content: bytes) -> bytes:
    return content[: len(content) * 7 // 10]


def with_noise(content: bytes) -> bytes:
    return without_end(content) + random.Random(1).randbytes(len(content) - len(without_end(content)))


@pytest.mark.parametrize("damage", [without_end, with_noise])
@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_only_the_first_image_of_a_file_counts(file_format: str, damage: Callable[[bytes], bytes]) -> None:
    options = {"lossless": True} if file_format == "WEBP" else {}
    several = encode(PICTURE, file_format, save_all=True, append_images=[OTHER.resize((80, 60))] * 3, **options)
    assert np.array_equal(decode(damage(several)), decode(several))


def test_the_first_image_of_a_webp_keeps_its_orientation() -> None:
    several = encode(PICTURE, "WEBP", save_all=True, append_images=[OTHER.resize((80, 60))], exif=TURNED, lossless=True)
    assert np.array_equal(decode(several), decode(encode(PICTURE, "WEBP", exif=TURNED, lossless=True)))
    picture = without_metadata(several)
    assert len(picture) < len(several)
    assert struct.unpack_from("<I", picture, 4)[0] == len(picture) - 8


def test_a_webp_with_much_metadata_is_decoded() -> None:
    content = encode(PICTURE, "WEBP", icc_profile=NOISE, exif=b"Exif\0\0" + NOISE, xmp=NOISE, lossless=True)
    assert np.array_equal(decode(content), decode(encode(PICTURE, "WEBP", lossless=True)))
    assert len(without_metadata(content)) < len(NOISE)


# Tags of TIFF that say nothing of the pixels: texts, dates, resolutions, EXIF data, Photoshop's, Exif and private ones.
OTHER_TAGS = (270, 271, 272, 282, 283, 296, 305, 306, 315, 700, 33550, 33723, 34665, 34853, 37724, 50838, 65000)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg"])
def test_metadata_tags_do_not_affect_the_pixels_of_a_tiff(compression: str) -> None:
    good = encode(PICTURE, "TIFF", compression=compression)
    expected, chance = decode(good), random.Random(5)
    start = struct.unpack_from("<I", good, 4)[0]
    count = struct.unpack_from("<H", good, start)[0]
    entries = [good[at : at + 12] for at in range(start + 2, start + 2 + 12 * count, 12)]
    for _ in range(150):
        tags = sorted(chance.sample(OTHER_TAGS, 6))
        odd = [
            struct.pack(
                "<HHII", tag, chance.choice([*range(14), 65535]), chance.choice([0, 1, 2, 300_000, 2**32 - 1]),
                chance.choice([0, 8, len(good) - 1, 2**32 - 1]),
            )
            for tag in tags
        ]  # fmt: skip
        merged = sorted([*entries, *odd], key=lambda entry: struct.unpack_from("<H", entry)[0])
        directory = struct.pack("<H", len(merged)) + b"".join(merged) + bytes(4)
        content = good[:4] + struct.pack("<I", len(good)) + good[8:] + directory + bytes(300_000)
        assert np.array_equal(decode(content), expected), odd


def test_truncated_files_are_not_changed() -> None:
    files = [with_chunks(CHUNKS["zTXt too large"][:200]), JPEG[:2] + SEGMENTS["a broken index of images"] + JPEG[2:]]
    files += [encode(PICTURE, "WEBP", save_all=True, append_images=[OTHER.resize((80, 60))]), encode(PICTURE, "TIFF")]
    for content in files:
        for end in (*range(300), *range(300, len(content), 97)):
            for bare in (False, True):
                without_metadata(content[:end], bare=bare)
    assert without_metadata(PNG_SIGNATURE) == PNG_SIGNATURE


def test_unknown_critical_chunks_are_kept() -> None:
    content = with_chunks(png_chunk(b"CgBI", bytes(4)) + CHUNKS["zTXt too large"])
    assert b"CgBI" in without_metadata(content)
    assert b"CgBI" in without_metadata(content, bare=True)
