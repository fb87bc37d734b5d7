"""Reads what a BMP file declares about its samples. The headers are in the Windows documentation of bitmaps."""

import struct
from dataclasses import dataclass

from PIL import Image

from imagesearch_pixels.guards import UnsupportedImageError

SIGNATURE = b"BM"
FILE_HEADER, CORE_HEADER = 14, 12
HEADERS = {12, 40, 52, 56, 64, 108, 124}
V5_HEADER = 124
# Offsets in this header: the kind of colour space, and the position and size of the profile.
COLOUR_SPACE, PROFILE_FIELDS = FILE_HEADER + 56, FILE_HEADER + 112
# "MBED" in little-endian order.
EMBEDDED = b"DEBM"
DEPTHS = {1, 4, 8, 16, 24, 32}
PLAIN, RUNS_OF_8, RUNS_OF_4, BIT_FIELDS = 0, 1, 2, 3
# Masks of red, green and blue that Pillow supports, by the number of bits.
MASKS = {
    16: {(0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F)},
    24: {(0xFF0000, 0xFF00, 0xFF)},
    32: {
        (0xFF0000, 0xFF00, 0xFF),
        (0xFF000000, 0xFF0000, 0xFF00),
        (0xFF000000, 0xFF00, 0xFF),
        (0xFF, 0xFF00, 0xFF0000),
        (0, 0, 0),
    },
}
COMPRESSION_NAMES = {4: "JPEG", 5: "PNG", 6: "ALPHABITFIELDS", 11: "CMYK", 12: "CMYKRLE8", 13: "CMYKRLE4"}


@dataclass(frozen=True, slots=True)
class BmpFacts:
    """The header of a BMP file."""

    offset: int
    header: int
    width: int
    height: int
    """Negative if the top row comes first."""
    bits: int
    compression: int
    colours: int
    """Entries of the palette; 0 means the maximum for the number of bits."""


def facts_of(content: bytes) -> BmpFacts | None:
    """Return the header of a BMP file; None if the file has another format or ends in its header."""
    if not content.startswith(SIGNATURE) or len(content) < FILE_HEADER + 40:
        return None
    offset, header = struct.unpack_from("<II", content, 10)
    if header == CORE_HEADER:
        width, height, _, bits = struct.unpack_from("<HHHH", content, 18)
        return BmpFacts(offset, header, width, height, bits, PLAIN, 0)
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", content, 18)
    (colours,) = struct.unpack_from("<I", content, 46)
    return BmpFacts(offset, header, width, height, bits, compression, colours)


def profile_of(bmp: BmpFacts, content: bytes) -> bytes | None:
    """Return the embedded profile of a file with a header of version 5, or None."""
    if bmp.header != V5_HEADER or content[COLOUR_SPACE : COLOUR_SPACE + 4] != EMBEDDED or len(content) < 138:
        return None
    start, size = struct.unpack_from("<II", content, PROFILE_FIELDS)
    return content[FILE_HEADER + start : FILE_HEADER + start + size]


def check_unread(content: bytes) -> None:
    """Raise UnsupportedImageError for a valid file of a variant that Pillow cannot read."""
    bmp = facts_of(content)
    if bmp is None:
        return
    if bmp.header not in HEADERS:
        if 16 <= bmp.header < 64:
            raise UnsupportedImageError(f"it is a BMP with a header of {bmp.header} bytes, which is not supported")
        return
    if bmp.compression == BIT_FIELDS and len(content) >= 66:
        masks = struct.unpack_from("<3I", content, 54)
        if masks not in MASKS.get(bmp.bits, ()):
            named = ", ".join(f"{mask:08X}" for mask in masks)
            raise UnsupportedImageError(
                f"it is a BMP of {bmp.bits} bits with the masks {named}, which are not supported"
            )
    if bmp.bits not in DEPTHS or bmp.compression > BIT_FIELDS:
        compression = COMPRESSION_NAMES.get(bmp.compression, bmp.compression)
        raise UnsupportedImageError(
            f"it is a BMP of {bmp.bits} bits with compression {compression}, which is not supported"
        )


def has_misread_palette(image: Image.Image, bmp: BmpFacts) -> bool:
    """Return whether Pillow dropped a palette of greys and uses indices as if they were samples of 1 or 8 bits."""
    if bmp.compression in {RUNS_OF_8, RUNS_OF_4} and image.mode == "L":
        # In runs each index has its own byte, and equals its grey.
        return False
    return image.mode in {"1", "L"} and image.mode != {1: "1", 8: "L"}.get(bmp.bits)


def with_palette(image: Image.Image, bmp: BmpFacts, content: bytes) -> Image.Image:
    """Return the image with the palette that Pillow dropped. Raises UnsupportedImageError."""
    if bmp.compression != PLAIN:
        raise UnsupportedImageError(
            f"it is a BMP of {bmp.bits} bits in runs with a palette of greys, which is not supported"
        )
    entry = 3 if bmp.header == CORE_HEADER else 4
    start = FILE_HEADER + bmp.header
    count = bmp.colours or 1 << bmp.bits
    stride = (image.width * bmp.bits + 31) // 32 * 4
    rows = content[bmp.offset : bmp.offset + stride * image.height]
    raw_mode = {1: "P;1", 4: "P;4"}.get(bmp.bits, "P")
    indexed = Image.frombytes("P", image.size, rows, "raw", raw_mode, stride, 1 if bmp.height < 0 else -1)
    indexed.putpalette(content[start : start + entry * count], "BGR" if entry == 3 else "BGRX")
    return indexed
