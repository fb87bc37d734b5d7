"""Decoding errors: a fault of the file, a lack of memory, or an error of our own code."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from embedder_service.core import image_decoding
from embedder_service.core.image_decoding import ImageDecoder, PixelBudget
from embedder_service.core.types import EncodedImage, InputPolicy, Limits, Pixels
from grpc_kit.deadline import Deadline
from grpc_kit.errors import InvalidArgumentError, ResourceExhaustedError
from tests.unit.embedder.test_image_decoding import encode, orientation_tag, rgb, with_alpha

NEVER = Deadline.after(None)
LIMITS = Limits(20_000_000, 50_000_000)
CONTENT = encode(rgb(), "PNG", exif=orientation_tag(6))


def decode(content: bytes, budget: PixelBudget | None = None) -> Pixels:
    decoder = ImageDecoder(InputPolicy("squash", 224), LIMITS, budget or PixelBudget(LIMITS.max_image_pixels))
    return decoder.decode(EncodedImage(content), NEVER)


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


# What fuzzers have found Pillow to raise, and what it does not raise yet.
RAISED = [
    TypeError("unsupported operand"),
    AttributeError("no attribute"),
    KeyError(258),
    IndexError("out of range"),
    OverflowError("too large"),
    ZeroDivisionError(),
    RecursionError("too deep"),
    AssertionError(),
    NotImplementedError(),
    RuntimeError("buffer"),
    OSError("broken data stream when reading image file"),
    ValueError("bad"),
]


@pytest.mark.parametrize("error", RAISED, ids=repr)
@pytest.mark.parametrize("at", ["_open", "load"])
def test_any_error_of_pillow_while_it_reads_is_a_fault_of_the_file(
    error: Exception, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PngImagePlugin.PngImageFile, at, failing(error))
    with pytest.raises(InvalidArgumentError) as refused:
        decode(CONTENT)
    assert (refused.value.reason, refused.value.field) == ("IMAGE_CORRUPT", "image.content")


@pytest.mark.parametrize("error", RAISED, ids=repr)
@pytest.mark.parametrize(
    "ours", ["to_upright_rgb", "fit", "pixels_in_memory", "check_cost", "check_header", "without_metadata"]
)
def test_an_error_of_our_own_code_is_not_a_fault_of_the_file(
    error: Exception, ours: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = PixelBudget(LIMITS.max_image_pixels)
    monkeypatch.setattr(image_decoding, ours, failing(error))
    with pytest.raises(type(error)) as raised:
        decode(CONTENT, budget)
    assert raised.value is error
    monkeypatch.undo()
    assert decode(CONTENT, budget).shape == (224, 224, 3)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OSError(f"{ImageFile.ERRORS[-9]} when reading image file"), OSError("decoder error -9")],
    ids=repr,
)
@pytest.mark.parametrize(
    ("of", "name"),
    [
        (Image, "open"),
        (PngImagePlugin.PngImageFile, "load"),
        (PngImagePlugin.PngImageFile, "getexif"),
        (Image.Image, "convert"),
    ],
)
def test_a_lack_of_memory_in_pillow_is_temporary(
    error: Exception, of: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encode(with_alpha("LA"), "PNG", exif=orientation_tag(6))
    monkeypatch.setattr(of, name, failing(error))
    assert_passes(content)


@pytest.mark.parametrize("ours", ["to_upright_rgb", "fit", "crop", "check_cost"])
def test_a_lack_of_memory_in_our_own_code_is_temporary(ours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_decoding, ours, failing(MemoryError()))
    if ours == "crop":
        monkeypatch.setattr(image_decoding, "fit", failing(MemoryError()))
    assert_passes(CONTENT)


def assert_passes(content: bytes) -> None:
    with pytest.raises(ResourceExhaustedError) as refused:
        decode(content)
    assert refused.value.reason == "OUT_OF_MEMORY"
    assert refused.value.retry_after is not None
    assert refused.value.field == ""


def test_a_lack_of_memory_while_reading_exif_data_refuses_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(PngImagePlugin.PngImageFile, "getexif", failing(TypeError()))
        assert decode(CONTENT).shape == (224, 224, 3)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "getexif", failing(MemoryError()))
    assert_passes(CONTENT)


# Decodes good images of 4 megapixels under limits on the address space, and then without; prints what came of each.
UNDER_LIMITS = """
import ctypes, gc, json, re, resource, sys
from io import BytesIO
from pathlib import Path
from PIL import Image
from embedder_service.core.image_decoding import ImageDecoder, PixelBudget
from embedder_service.core.types import EncodedImage, InputPolicy, Limits
from grpc_kit.deadline import Deadline
from grpc_kit.errors import ServiceError

MEBIBYTE = 1 << 20
KINDS = {
    "JPEG": {}, "JPEG progressive": {"progressive": True}, "PNG": {}, "GIF": {}, "BMP": {}, "WEBP": {"method": 0},
    "WEBP lossless": {"lossless": True, "method": 0, "quality": 0}, "TIFF": {}, "TIFF LZW": {"compression": "tiff_lzw"},
    "TIFF JPEG": {"compression": "jpeg"}, "TIFF deflate": {"compression": "tiff_adobe_deflate"},
    "AVIF": {"speed": 10},
}
def limit(mebibytes):
    # What is free, so that it does not serve in the place of what is refused.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    used = int(re.search(r"VmSize:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    most = used + mebibytes * MEBIBYTE if mebibytes else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
def outcome(content):
    try:
        decoder.decode(EncodedImage(content), Deadline.after(None))
    except ServiceError as error:
        return f"{error.reason}, retry: {error.retry_after is not None}"
    return "decoded"
Image.init()
decoder = ImageDecoder(InputPolicy("squash", 1001), Limits(100_000_000, 50_000_000), PixelBudget(50_000_000))
slope = Image.linear_gradient("L").resize((2000, 2000))
picture = Image.merge("RGB", (slope, slope.transpose(Image.Transpose.ROTATE_90), slope))
found = {}
def encoded():
    # HEIC by another process: its encoder keeps memory that would serve in the place of what is refused.
    if content := sys.stdin.buffer.read():
        yield "HEIF", content
        return
    for kind, options in KINDS.items():
        file = BytesIO()
        picture.save(file, kind.split()[0], **options)
        yield kind, file.getvalue()
for kind, content in encoded():
    found[kind] = []
    for mebibytes in [1, 4, 8, 12, 16, 20, 28, 36, 48, 0]:
        limit(mebibytes)
        found[kind].append(outcome(content))
print(json.dumps(found))
"""


def test_a_valid_image_is_never_corrupt_with_little_memory() -> None:
    slope = Image.linear_gradient("L").resize((2000, 2000))
    heic = encode(Image.merge("RGB", (slope, slope.transpose(Image.Transpose.ROTATE_90), slope)), "HEIF")
    found: dict[str, list[str]] = {}
    for content in (b"", heic):
        done = subprocess.run([sys.executable, "-c", UNDER_LIMITS], input=content, capture_output=True, check=True)
        found |= json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 13
    for kind, outcomes in found.items():
        assert outcomes[-1] == "decoded", kind
        assert "OUT_OF_MEMORY, retry: True" in outcomes, kind
        assert set(outcomes) == {"decoded", "OUT_OF_MEMORY, retry: True"}, kind


@pytest.mark.parametrize(
    ("plugin", "file_format"),
    [(JpegImagePlugin.JpegImageFile, "JPEG"), (WebPImagePlugin.WebPImageFile, "WEBP")],
)
def test_a_refusal_for_memory_holds_for_one_decoding_only(
    plugin: type[ImageFile.ImageFile], file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encode(rgb(), file_format)
    with monkeypatch.context() as patch:
        patch.setattr(plugin, "load", failing(MemoryError()))
        assert_passes(content)
    with pytest.raises(InvalidArgumentError):
        decode(content[: len(content) // 2])
    assert decode(content).shape == (224, 224, 3)
