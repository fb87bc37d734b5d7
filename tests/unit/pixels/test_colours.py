"""Conversion to sRGB, by the profile that a file embeds or declares."""

import random
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

from embedder_service.core.image_decoding import ImageDecoder, PixelBudget
from embedder_service.core.types import EncodedImage, InputPolicy, Limits, Pixels, Region
from grpc_kit.deadline import Deadline
from imagesearch_pixels.colour_profiles import MAX_PROFILE_BYTES, MAX_TRANSFORMS, Profiles
from tests.unit.embedder.crafted_files import png_chunk
from tests.unit.embedder.crafted_samples import CMYK, bmp, png, tiff
from tests.unit.pixels.profiles import (
    ADOBE_PROFILE,
    BT2020_PROFILE,
    CMYK_PROFILE,
    P3_PROFILE,
    PROPHOTO_PROFILE,
    SRGB_PROFILE,
    grey_profile,
)

LIMITS = Limits(20_000_000, 50_000_000)
SIDE = 32
# Colours inside sRGB's gamut in each of the spaces below, and greys.
PATCHES = [(128, 128, 128), (255, 255, 255), (0, 0, 0), (30, 30, 30), (180, 150, 130), (90, 120, 140), (120, 110, 60)]


def decode(content: bytes, policy: InputPolicy | None = None, region: Region | None = None) -> Pixels:
    decoder = ImageDecoder(policy or InputPolicy("squash", SIDE), LIMITS, PixelBudget(LIMITS.max_image_pixels))
    return decoder.decode(EncodedImage(content, region), Deadline.after(None))


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def patch(colour: tuple[int, ...], mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (SIDE, SIDE), colour if len(colour) > 1 else colour[0])


def shown(content: bytes) -> NDArray[np.int16]:
    pixels = decode(content).astype(np.int16)
    assert np.ptp(pixels, axis=(0, 1)).max() <= 2
    found: NDArray[np.int16] = pixels[0, 0]
    return found


# --- What the numbers of a space mean, from its definition: linear light, then the primaries' XYZ for D65.

SRGB_OF_XYZ = np.linalg.inv([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
P3 = np.array([[0.48657, 0.26567, 0.19822], [0.22897, 0.69174, 0.07929], [0.0, 0.04511, 1.04394]])
ADOBE = np.array([[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]])
BT2020 = np.array([[0.63696, 0.14462, 0.16888], [0.26270, 0.67799, 0.05930], [0.0, 0.02807, 1.06099]])


def linear(encoded: NDArray[Any]) -> NDArray[Any]:
    light: NDArray[Any] = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return light


def in_srgb(colour: tuple[int, ...], xyz: NDArray[Any], gamma: float | None) -> NDArray[Any]:
    encoded = np.array(colour) / 255
    light = SRGB_OF_XYZ @ xyz @ (linear(encoded) if gamma is None else encoded**gamma)
    light = light.clip(0, 1)
    encoded = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    values: NDArray[Any] = np.round(encoded * 255)
    return values


SPACES = {
    "Display P3": (P3_PROFILE, P3, None),
    "Adobe RGB": (ADOBE_PROFILE, ADOBE, 563 / 256),
    "BT.2020": (BT2020_PROFILE, BT2020, None),
}
FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
}


@pytest.mark.parametrize("colour", PATCHES, ids=str)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_colour_of_a_wide_space_is_converted_by_its_definition(
    file_format: str, space: str, colour: tuple[int, int, int]
) -> None:
    profile, xyz, gamma = SPACES[space]
    content = encode(patch(colour), file_format, icc_profile=profile, **FORMATS[file_format])
    assert np.abs(shown(content) - in_srgb(colour, xyz, gamma)).max() <= (4 if file_format == "JPEG" else 2)


def by_libvips(content: bytes) -> NDArray[Any]:
    image = pyvips.Image.new_from_buffer(content, "")
    converted = image.icc_transform("srgb", intent="relative", black_point_compensation=True, embedded=True)
    found: NDArray[Any] = converted.numpy()[0, 0, :3].astype(int)
    return found


@pytest.mark.parametrize("colour", [*PATCHES, (250, 10, 10), (10, 200, 30), (20, 20, 250), (250, 250, 5)], ids=str)
@pytest.mark.parametrize("name", ["P3", "Adobe", "ProPhoto"])
def test_colours_outside_of_srgb_are_clipped_like_in_libvips(name: str, colour: tuple[int, int, int]) -> None:
    profile = {"P3": P3_PROFILE, "Adobe": ADOBE_PROFILE, "ProPhoto": PROPHOTO_PROFILE}[name]
    content = encode(patch(colour), "PNG", icc_profile=profile)
    assert np.abs(shown(content) - by_libvips(content)).max() <= 2


INKS = [(0, 0, 0, 0), (0, 0, 0, 255), (255, 255, 255, 255), (200, 40, 10, 0), (10, 180, 160, 20), (0, 20, 220, 5)]


@pytest.mark.parametrize("inks", INKS, ids=str)
def test_inks_are_converted_by_their_profile(inks: tuple[int, ...]) -> None:
    content = encode(patch(inks, "CMYK"), "TIFF", icc_profile=CMYK_PROFILE)
    assert np.abs(shown(content) - by_libvips(content)).max() <= 3


def test_inks_of_a_jpeg_are_converted_by_their_profile() -> None:
    tagged, bare = (
        encode(patch((200, 40, 10, 0), "CMYK"), "JPEG", quality=100, **options)
        for options in ({"icc_profile": CMYK_PROFILE}, {})
    )
    assert np.abs(shown(tagged) - by_libvips(tagged)).max() <= 4
    assert np.abs(shown(tagged) - shown(bare)).max() > 20


@pytest.mark.parametrize("grey", [0, 64, 128, 200, 255])
@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_grey_image_has_the_curve_of_its_profile(mode: str, grey: int) -> None:
    image = patch((grey,), "L").convert(mode)
    expected = in_srgb((grey,) * 3, np.linalg.inv(SRGB_OF_XYZ), 1.8)
    for file_format in ("PNG", "TIFF"):
        content = encode(image, file_format, icc_profile=grey_profile(1.8))
        assert np.abs(shown(content) - expected).max() <= 2


def test_palettes_and_16_bit_colours_are_converted_by_their_profile() -> None:
    chunk = icc_chunk(P3_PROFILE)
    samples = np.full((SIDE, SIDE, 3), (180, 150, 130), np.uint64)
    for content in (
        png(samples * 257, 16, 2, chunk),
        png(samples[..., 0] * 0, 8, 3, chunk, png_chunk(b"PLTE", bytes([180, 150, 130]))),
    ):
        assert np.abs(shown(content) - in_srgb((180, 150, 130), P3, None)).max() <= 2


def icc_chunk(profile: bytes) -> bytes:
    return png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(profile))


def test_transparency_is_white_in_any_colour_space() -> None:
    image = patch((180, 150, 130)).convert("RGBA")
    image.putalpha(0)
    assert shown(encode(image, "PNG", icc_profile=PROPHOTO_PROFILE)).tolist() == [255, 255, 255]


# --- Where there is nothing to convert

PHOTOGRAPH = Image.effect_noise((500, 400), 60).convert("RGB").resize((540, 420), Image.Resampling.BICUBIC)


def plainly(content: bytes) -> NDArray[Any]:
    """What Pillow alone makes of a file."""
    with Image.open(BytesIO(content)) as image:
        image.draft(image.mode, (2 * SIDE, 2 * SIDE))
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("profile", [None, SRGB_PROFILE], ids=["no profile", "sRGB"])
@pytest.mark.parametrize(
    ("file_format", "mode"),
    [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "L"), ("PNG", "P"), ("WEBP", "RGB")],
)
def test_the_pixels_of_ordinary_files_are_pillows_own(file_format: str, mode: str, profile: bytes | None) -> None:
    content = encode(PHOTOGRAPH.convert(mode), file_format, icc_profile=profile)
    assert np.array_equal(decode(content), plainly(content))


def test_srgb_is_recognised_and_costs_no_conversion() -> None:
    pillows = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (SRGB_PROFILE, pillows):
        assert Profiles().conversion(profile, "RGB") is None
    assert Profiles().conversion(P3_PROFILE, "RGB") is not None


PHOTOGRAPHS = {kind: plainly(encode(PHOTOGRAPH, kind)) for kind in ("JPEG", "PNG", "TIFF")}
BROKEN = {
    "empty": b"",
    "a header alone": P3_PROFILE[:128],
    "no signature": P3_PROFILE.replace(b"acsp", b"nope"),
    "cut off": P3_PROFILE[:200],
    "too large": P3_PROFILE + bytes(MAX_PROFILE_BYTES),
    "of another space": CMYK_PROFILE,
    "of grey": grey_profile(1.0),
    "of a link": P3_PROFILE[:12] + b"link" + P3_PROFILE[16:],
    "without curves": P3_PROFILE.replace(b"TRC", b"xxx"),
    "black": P3_PROFILE.replace(b"XYZ \0\0\0\0", b"XYZ \0\0\0\1"),
    "noise": P3_PROFILE[:132] + random.Random(0).randbytes(5000),
    "lengths above all": P3_PROFILE[:136] + b"\xff" * 200 + P3_PROFILE[336:],
}


@pytest.mark.parametrize(
    ("file_format", "name"),
    # Pillow's reader of PNG has a limit of its own.
    [(kind, name) for kind in ("JPEG", "PNG", "TIFF") for name in BROKEN if (kind, name) != ("PNG", "too large")],
)
def test_a_broken_profile_is_ignored(file_format: str, name: str) -> None:
    options = {"icc_profile": BROKEN[name]} if BROKEN[name] else {}
    content = encode(PHOTOGRAPH, file_format, **options, **({"compress_level": 1} if file_format == "PNG" else {}))
    assert np.array_equal(decode(content), PHOTOGRAPHS[file_format])


def test_a_profile_of_colours_in_a_grey_image_is_ignored() -> None:
    content = encode(PHOTOGRAPH.convert("L"), "JPEG", icc_profile=ADOBE_PROFILE)
    assert np.array_equal(decode(content), plainly(content))


def test_the_profile_of_a_lab_image_is_ignored() -> None:
    image = Image.new("LAB", (8, 8), (138, 209, 198))
    bare, tagged = (encode(image, "TIFF", **options) for options in ({}, {"icc_profile": P3_PROFILE}))
    assert np.array_equal(decode(bare), decode(tagged))


# --- Where the conversion stands among the other steps


@pytest.mark.parametrize("shape", ["squash", "pad", "crop", "native"])
@pytest.mark.parametrize("region", [None, Region(0.25, 0.25, 0.75, 1)], ids=str)
def test_every_policy_converts_the_image_and_not_the_bars(shape: Any, region: Region | None) -> None:
    wide = Image.new("RGB", (128, 64), (180, 150, 130))
    policy = InputPolicy(shape, 64)
    tagged = decode(encode(wide, "PNG", icc_profile=P3_PROFILE), policy, region)
    bare = decode(
        encode(Image.new("RGB", (128, 64), tuple(in_srgb((180, 150, 130), P3, None).astype(int))), "PNG"),
        policy,
        region,
    )
    assert tagged.shape == bare.shape
    assert np.abs(tagged.astype(int) - bare).max() <= 2


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_large_jpeg_with_a_profile_is_scaled_while_it_is_decoded(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[int, int]] = []
    load = Image.Image.load

    def noted(image: Image.Image) -> Any:
        decoded.append(image.size)
        return load(image)

    profile = CMYK_PROFILE if mode == "CMYK" else P3_PROFILE
    content = encode(PHOTOGRAPH.convert(mode), "JPEG", icc_profile=profile)
    monkeypatch.setattr(Image.Image, "load", noted)
    decode(content)
    assert max(decoded) <= (540 // 4, 420 // 4)


@pytest.mark.parametrize("space", ["P3", "Adobe", "ProPhoto", "CMYK"])
def test_converting_after_the_resize_is_nearly_equal_to_converting_before(space: str) -> None:
    profile = {"P3": P3_PROFILE, "Adobe": ADOBE_PROFILE, "ProPhoto": PROPHOTO_PROFILE, "CMYK": CMYK_PROFILE}[space]
    content = encode(PHOTOGRAPH.convert("CMYK" if space == "CMYK" else "RGB"), "TIFF", icc_profile=profile)
    image = pyvips.Image.new_from_buffer(content, "")
    large = image.icc_transform("srgb", intent="relative", black_point_compensation=True, embedded=True).numpy()
    small = Image.fromarray(large).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    assert np.abs(decode(content).astype(int) - np.asarray(small)).mean() < 3


# --- What declares a colour space without a profile


def exif_of(index: str | None) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "R03 cameras"
    if index is not None:
        details = exif.get_ifd(ExifTags.IFD.Exif)
        details[ExifTags.Base.ColorSpace] = 0xFFFF
        details[ExifTags.IFD.Interop] = {ExifTags.Interop.InteropIndex: index}
    return exif


def test_a_camera_file_of_the_index_r03_is_in_adobe_rgb() -> None:
    image = patch((180, 150, 130))
    adobe, srgb, none = (encode(image, "JPEG", quality=100, exif=exif_of(index)) for index in ("R03", "R98", None))
    assert np.abs(shown(adobe) - in_srgb((180, 150, 130), ADOBE, 563 / 256)).max() <= 3
    for content in (srgb, none):
        assert np.abs(shown(content) - (180, 150, 130)).max() <= 2
    both = encode(image, "JPEG", quality=100, exif=exif_of("R03"), icc_profile=SRGB_PROFILE)
    assert np.abs(shown(both) - (180, 150, 130)).max() <= 2


P3_CHROMATICITIES = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


@pytest.mark.parametrize(
    ("chunks", "xyz", "gamma"),
    [
        pytest.param([(b"gAMA", struct.pack(">I", 55556))], np.linalg.inv(SRGB_OF_XYZ), 1.8, id="gAMA"),
        pytest.param([(b"gAMA", struct.pack(">I", 45455)), (b"cHRM", P3_CHROMATICITIES)], P3, None, id="gAMA and cHRM"),
        pytest.param([(b"cICP", bytes([12, 13, 0, 1]))], P3, None, id="cICP of P3"),
        pytest.param([(b"cICP", bytes([9, 13, 0, 1])), (b"sRGB", b"\0")], BT2020, None, id="cICP before sRGB"),
    ],
)
def test_chunks_of_a_png_declare_its_colours(
    chunks: list[tuple[bytes, bytes]], xyz: NDArray[Any], gamma: float
) -> None:
    samples = np.full((SIDE, SIDE, 3), (180, 150, 130))
    content = png(samples, 8, 2, *(png_chunk(kind, data) for kind, data in chunks))
    assert np.abs(shown(content) - in_srgb((180, 150, 130), xyz, gamma)).max() <= 2


@pytest.mark.parametrize("chunk", [(b"gAMA", struct.pack(">I", 100_000)), (b"cICP", bytes([1, 8, 0, 1]))])
def test_chunks_of_a_grey_png_declare_its_curve(chunk: tuple[bytes, bytes]) -> None:
    content = png(np.full((SIDE, SIDE), 128), 8, 0, png_chunk(*chunk))
    # By sRGB's curve, half of the light is 188.
    assert np.abs(shown(content) - 188).max() <= 1


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([(b"gAMA", struct.pack(">I", 45455))], id="the usual gamma"),
        pytest.param([(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 55556))], id="sRGB before gAMA"),
        pytest.param([(b"cHRM", P3_CHROMATICITIES)], id="primaries without a curve"),
        pytest.param([(b"cICP", bytes([9, 16, 0, 1]))], id="high dynamic range"),
        pytest.param([(b"gAMA", struct.pack(">I", 0))], id="gamma of zero"),
        pytest.param([(b"gAMA", struct.pack(">I", 45455)), (b"cHRM", bytes(32))], id="no primaries"),
        pytest.param([(b"gAMA", struct.pack(">I", 45455)), (b"cHRM", b"\xff" * 32)], id="impossible primaries"),
    ],
)
def test_chunks_that_declare_srgb_or_nothing_usable_change_nothing(chunks: list[tuple[bytes, bytes]]) -> None:
    samples = np.full((SIDE, SIDE, 3), (180, 150, 130))
    content = png(samples, 8, 2, *(png_chunk(kind, data) for kind, data in chunks))
    assert shown(content).tolist() == [180, 150, 130]


# --- What a profile may cost


def test_only_the_last_conversions_are_kept() -> None:
    profiles = Profiles()
    first = profiles.conversion(P3_PROFILE, "RGB")
    assert profiles.conversion(P3_PROFILE, "RGB") is first
    for number in range(MAX_TRANSFORMS):
        profiles.conversion(P3_PROFILE + bytes([number]), "RGB")
    assert len(profiles._known) == MAX_TRANSFORMS
    assert profiles.conversion(P3_PROFILE, "RGB") is not first


def test_threads_share_a_conversion() -> None:
    contents = [
        encode(Image.effect_noise((SIDE, SIDE), 40 + seed).convert("RGB"), "PNG", icc_profile=profile)
        for seed in range(20)
        for profile in (P3_PROFILE, ADOBE_PROFILE)
    ]
    alone = [decode(content) for content in contents]
    with ThreadPoolExecutor(8) as threads:
        for found, expected in zip(threads.map(decode, contents * 4), alone * 4, strict=True):
            assert np.array_equal(found, expected)


# Converts by mutated profiles; prints how many could be used, the longest seconds for one, and the growth in MiB.
MUTATED = """
import random, resource, sys, time
from PIL import Image
from imagesearch_pixels.colour_profiles import Profiles
from tests.unit.pixels.profiles import ADOBE_PROFILE, CMYK_PROFILE, P3_PROFILE, SRGB_PROFILE, grey_profile
SEEDS = [ADOBE_PROFILE, CMYK_PROFILE, P3_PROFILE, SRGB_PROFILE, grey_profile(1.8)]
LENGTHS = [b"\\xff" * 4, b"\\x7f" + b"\\xff" * 3, bytes(4), b"\\0\\0\\xff\\xff", b"\\0\\0\\0\\1"]
WORDS = [*LENGTHS, b"mft1", b"mft2", b"mAB ", b"curv", b"para", b"XYZ ", b"A2B0", b"A2B1", b"D2B0", b"mpet", b"chad"]
IMAGES = {b"RGB ": "RGB", b"CMYK": "CMYK", b"GRAY": "L"}
chance, used, longest = random.Random(int(sys.argv[1])), 0, 0.0
begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(int(sys.argv[2])):
    profile = bytearray(chance.choice(SEEDS))
    for _ in range(chance.choice([1, 2, 4, 16])):
        at = chance.randrange(128, min(len(profile), chance.choice([200, 600, 10**7])) - 4)
        match chance.randrange(4):
            case 0:
                profile[at] = chance.randrange(256)
            case 1:
                profile[at : at + 4] = chance.choice(WORDS)
            case 2:
                profile[at:at] = profile[at : at + chance.randrange(300)]
            case 3:
                other = chance.choice(SEEDS)
                start = chance.randrange(128, len(other))
                profile[at : at + 400] = (other[start:] + bytes(400))[:400]
    mode = IMAGES[bytes(profile[16:20])]
    start = time.perf_counter()
    conversion = Profiles().conversion(bytes(profile), mode)
    if conversion is not None:
        used += 1
        conversion(Image.new("CMYK" if mode == "CMYK" else "RGB", (64, 64)))
    longest = max(longest, time.perf_counter() - start)
print(used, longest, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begin) // 1024)
"""


def convert_by_mutated_profiles(seed: int, count: int) -> None:
    command = [sys.executable, "-c", MUTATED, str(seed), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr[-1000:]
    used, longest, grown = map(float, done.stdout.split())
    assert 0 < used < count
    assert longest < 2
    assert grown < 100


def test_mutated_profiles_neither_crash_nor_block_the_process() -> None:
    convert_by_mutated_profiles(0, 300)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1, 4))
def test_thousands_of_mutated_profiles_neither_crash_nor_block_the_process(seed: int) -> None:
    convert_by_mutated_profiles(seed, 3000)


def test_inks_without_a_profile_are_converted_by_pillow() -> None:
    inks = np.dstack([np.full((SIDE, SIDE, 3), 100), np.zeros((SIDE, SIDE))]).astype(np.uint8)
    assert np.abs(shown(tiff(inks, 8, CMYK)) - 155).max() <= 1


def test_a_bmp_embeds_a_profile_too() -> None:
    rows = [bytes([130, 150, 180]) * SIDE] * SIDE
    plain = bmp(rows, SIDE, 24, header=124)
    content = bytearray(plain + P3_PROFILE)
    content[14 + 56 : 14 + 60] = b"DEBM"
    content[14 + 112 : 14 + 120] = struct.pack("<II", len(plain) - 14, len(P3_PROFILE))
    assert np.abs(shown(bytes(content)) - in_srgb((180, 150, 130), P3, None)).max() <= 2
    assert shown(plain).tolist() == [180, 150, 130]
