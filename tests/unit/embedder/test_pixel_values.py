"""Each format, colour type and bit depth is read as its specification says, or refused by name.

The pictures that files hold are also compared with a second decoder, libvips.
"""

import struct
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray

from grpc_kit.errors import InvalidArgumentError
from tests.unit.embedder.crafted_files import png_chunk
from tests.unit.embedder.crafted_samples import png, tiff, transparent
from tests.unit.embedder.pixel_variants import REFUSED, SHOWN
from tests.unit.embedder.test_image_decoding import decode, resized


@pytest.mark.parametrize("name", SHOWN)
def test_a_variant_is_decoded_by_its_specification(name: str) -> None:
    shown = SHOWN[name]
    assert np.abs(decode(shown.content) - resized(shown.picture)).max() <= shown.tolerance


@pytest.mark.parametrize("name", REFUSED)
def test_an_unsupported_variant_is_refused_with_its_declarations(name: str) -> None:
    content, declared = REFUSED[name]
    with pytest.raises(InvalidArgumentError) as refused:
        decode(content)
    assert (refused.value.reason, refused.value.field) == ("IMAGE_FORMAT_UNSUPPORTED", "image.content")
    assert declared in refused.value.message
    assert len(refused.value.message) < 300


def by_libvips(content: bytes) -> NDArray[Any]:
    image = pyvips.Image.new_from_buffer(content, "")
    if image.hasalpha():
        most = 65535 if image.format == "ushort" else 255
        image = image.flatten(background=[most] * (image.bands - 1))
    picture: NDArray[Any] = image.colourspace("srgb").numpy()
    # Samples that mean nothing may follow the colours.
    return picture[..., :3] if picture.ndim == 3 else picture


@pytest.mark.parametrize("name", [name for name in SHOWN if not name.startswith("BMP")])
def test_a_second_decoder_agrees_unless_the_specification_decides(name: str) -> None:
    shown = SHOWN[name]
    try:
        found = by_libvips(shown.content)
        difference = int(np.abs(found.astype(int) - np.atleast_3d(shown.picture)).max())
    except pyvips.Error:
        difference = 255
    assert (difference <= max(2, shown.tolerance)) == (not shown.differs)


@pytest.mark.parametrize("first", [(8, 0), (16, 0), (16, 2)], ids=str)
@pytest.mark.parametrize("second", [(8, 0), (16, 0), (16, 2), (8, 3)], ids=str)
def test_a_png_with_two_headers_is_the_files_fault(first: tuple[int, int], second: tuple[int, int]) -> None:
    samples = np.zeros((8, 8, 3) if second[1] == 2 else (8, 8), np.uint64)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, *first, 0, 0, 0))
    content = png(samples, *second, transparent(1, 2, 3))
    try:
        assert decode(content[:8] + header + content[8:]).shape == (224, 224, 3)
    except InvalidArgumentError:
        return


def test_values_of_a_directory_may_be_floats() -> None:
    bits = struct.pack("<HHIHH", 258, 3, 1, 12, 0)
    content = tiff(np.full((8, 8), 0xFFF), 12, 1).replace(bits, struct.pack("<HHIf", 258, 11, 1, 12.0))
    assert decode(content).min() == 255


# The directory of a TIFF file stands at its end.
CUT = [name for name, shown in SHOWN.items() if len(shown.content) > 400 and not name.startswith("TIFF")]


@pytest.mark.parametrize("name", CUT)
def test_a_truncated_variant_is_corrupt_and_not_unsupported(name: str) -> None:
    content = SHOWN[name].content
    with pytest.raises(InvalidArgumentError) as refused:
        decode(content[: len(content) * 3 // 4])
    assert refused.value.reason == "IMAGE_CORRUPT"


@pytest.mark.parametrize("place", [2**63, 2**64 - 1])
def test_a_directory_beyond_every_file_is_corrupt(place: int) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        decode(b"II+\0\x08\0\0\0" + struct.pack("<Q", place) + bytes(64))
    assert refused.value.reason == "IMAGE_CORRUPT"
