"""Makes Pillow read TIFF variants correctly that it reads wrongly or not at all, and refuses the other ones.

Tags and their values are those of TIFF 6.0.
"""

import struct
from collections.abc import Mapping
from typing import Any

from PIL import ImagePalette, TiffImagePlugin
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COLORMAP,
    COMPRESSION,
    EXTRASAMPLES,
    FILLORDER,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    YCBCRSUBSAMPLING,
    ImageFileDirectory_v2,
    TiffImageFile,
)

from imagesearch_pixels.guards import UnsupportedImageError
from imagesearch_pixels.sample_depth import Depth

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, CIELAB = 0, 1, 2, 3, 5, 6, 8
PHOTOMETRIC_NAMES = {
    WHITE_IS_ZERO: "WhiteIsZero",
    BLACK_IS_ZERO: "BlackIsZero",
    RGB: "RGB",
    PALETTE: "Palette",
    4: "TransparencyMask",
    CMYK: "Separated",
    YCBCR: "YCbCr",
    CIELAB: "CIELab",
    9: "ICCLab",
    10: "ITULab",
    32803: "CFA",
    32844: "LogL",
    32845: "LogLuv",
    34892: "LinearRaw",
}
FORMAT_NAMES = {1: "unsigned", 2: "signed", 3: "floating point", 4: "undefined", 5: "complex", 6: "complex"}
SIGNED = 2
SEPARATE_PLANES = 2
INK_SET, NOT_CMYK = 332, 2
YCBCR_COEFFICIENTS, REFERENCE_BLACK_WHITE = 529, 532
# Pillow computes with the coefficients of ITU-R BT.601 and the range of JFIF.
USUAL_COEFFICIENTS = (0.299, 0.587, 0.114)
USUAL_RANGE = (0, 255, 128, 255, 128, 255)
UNSPECIFIED = 0
REVERSED_BITS = 2
# In a fax without a declaration zero is white, as in libtiff.
FAX = {"tiff_ccitt", "group3", "group4"}
BIG_TIFF = 43
# Formats of `struct` for the types with 8, 16, 32 and 64 bits.
NUMBER_KINDS = {1: "B", 3: "H", 4: "I", 16: "Q"}
MAX_ENTRIES, MAX_NUMBERS = 4096, 16
PLANES = "its planes are separate, which is supported for RGB and CMYK without further samples"
# Raw modes for which Pillow expects the file's byte order, although libtiff has already swapped the bytes.
NATIVE = {"I;32B": "I;32N", "I;32BS": "I;32NS", "F;32BF": "F;32NF", "I;16B": "I;16N", "I;16": "I;16N"}

# Variants that Pillow can unpack but does not list. Packed 12-bit samples are the same in both byte orders.
TiffImagePlugin.OPEN_INFO.update(
    {
        (order, photometric, (1,), 1, (bits,), ()): modes
        for order, bits, modes in (
            (b"II", 12, ("I;16", "I;12")),
            (b"MM", 12, ("I;16", "I;12")),
            (b"MM", 16, ("I;16B", "I;16B")),
            (b"II", 32, ("I", "I;32N")),
            (b"MM", 32, ("I", "I;32B")),
        )
        for photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)
    }
)


def prepare(image: TiffImageFile) -> Depth:
    """Make Pillow unpack an opened file correctly, and return the depth of its samples.

    Raises UnsupportedImageError.
    """
    tags = image.tag_v2
    if image.info.get("compression") == "webp":
        raise UnsupportedImageError("it is a TIFF with Compression WebP, which is not supported")
    is_fax = image.info.get("compression") in FAX
    if PHOTOMETRIC_INTERPRETATION not in tags and not is_fax and image.info.get("compression") != "tiff_jpeg":
        raise UnsupportedImageError(
            "it is a TIFF without PhotometricInterpretation, so it is unknown which value is white"
        )
    photometric = tags.get(PHOTOMETRIC_INTERPRETATION, WHITE_IS_ZERO)
    bits, formats = _numbers(tags, BITSPERSAMPLE), _numbers(tags, SAMPLEFORMAT)
    depth = Depth(
        bits=int(bits[0]) if bits else 1,
        # Pillow itself inverts samples of 8 bits and less.
        white_is_zero=photometric == WHITE_IS_ZERO and image.mode not in {"1", "L"},
        is_signed=SIGNED in formats,
    )
    if depth.is_signed and depth.bits < 32:
        raise unsupported(tags, "signed samples declare neither black nor white")
    if photometric == CMYK and tags.get(INK_SET, 1) == NOT_CMYK:
        raise unsupported(tags, "its inks are not cyan, magenta, yellow and black")
    is_raw = image.info.get("compression") == "raw"
    if photometric == YCBCR and is_raw:
        _check_ycbcr(tags)
    if tags.get(PLANAR_CONFIGURATION, 1) == SEPARATE_PLANES and len(bits) > 1:
        _check_planes(tags, photometric, is_raw=is_raw)
        if is_raw:
            _unpack_by_libtiff(image)
    elif photometric == WHITE_IS_ZERO and bits == (8,) and tags.get(FILLORDER, 1) == REVERSED_BITS:
        _unpack_by_libtiff(image)
    elif not is_raw:
        _unpack_in_native_order(image)
    _use_8_bit_palette(image, tags)
    return depth


def has_undeclared_alpha(image: TiffImageFile) -> bool:
    """Return whether Pillow uses a fourth sample as alpha although the file does not declare it."""
    return image.mode == "RGBA" and EXTRASAMPLES not in image.tag_v2


def _check_ycbcr(tags: ImageFileDirectory_v2) -> None:
    # Without the tag 2 x 2 pixels share their chroma samples (TIFF 6.0, section 21).
    if _numbers(tags, YCBCRSUBSAMPLING) != (1, 1):
        raise unsupported(tags, "its chroma samples are subsampled and not compressed")
    coefficients = _numbers(tags, YCBCR_COEFFICIENTS)
    is_usual = all(abs(a - b) < 0.002 for a, b in zip(coefficients, USUAL_COEFFICIENTS, strict=False))
    if not is_usual or _numbers(tags, REFERENCE_BLACK_WHITE) not in {(), USUAL_RANGE}:
        raise unsupported(tags, "its YCbCr has other coefficients or another range than JPEG")


def _check_planes(tags: ImageFileDirectory_v2, photometric: int, *, is_raw: bool) -> None:
    """Refuse separate planes that neither Pillow nor libtiff combines correctly."""
    extra = _numbers(tags, EXTRASAMPLES)
    if UNSPECIFIED in extra and (is_raw or set(extra) != {UNSPECIFIED}):
        raise unsupported(tags, PLANES)
    if photometric in {BLACK_IS_ZERO, YCBCR}:
        is_supported = not is_raw and set(extra) <= {UNSPECIFIED}
    else:
        samples = len(_numbers(tags, BITSPERSAMPLE))
        is_supported = samples == {RGB: 3, CMYK: 4}.get(photometric, 0) + len(extra)
    if not is_supported:
        raise unsupported(tags, PLANES)


def _unpack_in_native_order(image: TiffImageFile) -> None:
    """Make Pillow use libtiff's byte order."""
    image.tile = [
        tile._replace(args=(NATIVE.get(tile.args[0], tile.args[0]), *tile.args[1:]))
        for tile in image.tile
        if isinstance(tile.args, tuple)
    ]


def _unpack_by_libtiff(image: TiffImageFile) -> None:
    """Make libtiff read an uncompressed file. Pillow's own reader lacks 16-bit planes and some bit orders."""
    # libtiff reverses the bits itself.
    tags = {**image.tag_v2, FILLORDER: 1}
    raw_mode = TiffImagePlugin.OPEN_INFO[_key_of(tags, image.tag_v2.prefix)][1]
    if raw_mode.endswith((";16B", ";16L")):
        raw_mode = raw_mode[:-1] + "N"
    width, height = image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
    image.use_load_libtiff = True
    image.tile = [image.tile[0]._replace(codec_name="libtiff", extents=(0, 0, width, height), offset=0)]
    image.tile = [image.tile[0]._replace(args=(raw_mode, False, image.tag_v2.offset))]


def _use_8_bit_palette(image: TiffImageFile, tags: ImageFileDirectory_v2) -> None:
    """Use a palette of 8 bits. TIFF 6.0 requires 16 bits; like libtiff, this assumes 8 bits if no value is larger."""
    colours = _numbers(tags, COLORMAP)
    if image.mode in {"P", "PA"} and colours and max(colours) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(int(value) for value in colours))


def unsupported(tags: Mapping[int, Any], why: str) -> UnsupportedImageError:
    """Return the error for a variant. The message says what the file declares."""
    photometric = (_numbers(tags, PHOTOMETRIC_INTERPRETATION) or (WHITE_IS_ZERO,))[0]
    sample_format = (_numbers(tags, SAMPLEFORMAT) or (1,))[0]
    bits = _numbers(tags, BITSPERSAMPLE)[:8]
    parts = [
        f"PhotometricInterpretation {PHOTOMETRIC_NAMES.get(photometric, photometric)}",
        f"BitsPerSample {','.join(map(str, bits or (1,)))}",
        f"SampleFormat {FORMAT_NAMES.get(sample_format, sample_format)}",
    ]
    if extra := _numbers(tags, EXTRASAMPLES)[:8]:
        parts.append(f"ExtraSamples {','.join(map(str, extra))}")
    return UnsupportedImageError(f"it is a TIFF with {', '.join(parts)}: {why}")


def check_unread(content: bytes) -> None:
    """Raise UnsupportedImageError for a valid file of a variant that Pillow cannot read."""
    tags = _directory(content)
    if TiffImagePlugin.IMAGEWIDTH not in tags or TiffImagePlugin.IMAGELENGTH not in tags:
        return
    compression = _numbers(tags, COMPRESSION)[:1] or (1,)
    if compression[0] not in TiffImagePlugin.COMPRESSION_INFO:
        raise UnsupportedImageError(f"it is a TIFF with Compression {compression[0]}, which is not supported")
    if tags.get(PLANAR_CONFIGURATION) == (SEPARATE_PLANES,) and UNSPECIFIED in _numbers(tags, EXTRASAMPLES):
        raise unsupported(tags, PLANES)
    if _key_of(tags, content[:2]) not in TiffImagePlugin.OPEN_INFO:
        raise unsupported(tags, "this combination is not supported")


def _directory(content: bytes) -> dict[int, tuple[int, ...]]:
    """Return the short lists of numbers in the first directory; empty if the file is not a TIFF or is broken."""
    if not content.startswith(tuple(TiffImagePlugin.PREFIXES)):
        return {}
    order = "<" if content[:2] == b"II" else ">"
    is_big = content[2] == BIG_TIFF or content[3] == BIG_TIFF
    entry = struct.Struct(f"{order}HHQ8s" if is_big else f"{order}HHI4s")
    tags: dict[int, tuple[int, ...]] = {}
    try:
        (start,) = struct.unpack_from(f"{order}Q" if is_big else f"{order}I", content, 8 if is_big else 4)
        (entries,) = struct.unpack_from(f"{order}Q" if is_big else f"{order}H", content, start)
        at = start + (8 if is_big else 2)
        for index in range(min(entries, MAX_ENTRIES)):
            tag, kind, count, field = entry.unpack_from(content, at + index * entry.size)
            numbers = f"{order}{min(count, MAX_NUMBERS)}{NUMBER_KINDS[kind]}" if kind in NUMBER_KINDS else ""
            if numbers and struct.calcsize(numbers) <= len(field):
                tags[tag] = struct.unpack_from(numbers, field)
            elif numbers:
                (offset,) = struct.unpack(f"{order}Q" if is_big else f"{order}I", field)
                tags[tag] = struct.unpack_from(numbers, content, offset)
    except (struct.error, OverflowError):
        return {}
    return tags


def _key_of(tags: Mapping[int, Any], prefix: bytes) -> tuple[Any, ...]:
    """Return Pillow's key of a file's variant."""
    bits = _numbers(tags, BITSPERSAMPLE) or (1,)
    samples = (_numbers(tags, SAMPLESPERPIXEL) or (1,))[0]
    formats = _numbers(tags, SAMPLEFORMAT) or (1,)
    return (
        prefix,
        (_numbers(tags, PHOTOMETRIC_INTERPRETATION) or (WHITE_IS_ZERO,))[0],
        formats[:1] if min(formats) == max(formats) else formats,
        (_numbers(tags, FILLORDER) or (1,))[0],
        bits * samples if len(bits) == 1 and samples <= MAX_NUMBERS else bits,
        _numbers(tags, EXTRASAMPLES),
    )


def _numbers(tags: Mapping[int, Any], tag: int) -> tuple[Any, ...]:
    value = tags.get(tag, ())
    return tuple(value) if isinstance(value, tuple | bytes) else (value,)
