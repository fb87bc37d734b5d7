"""Reads the chunks of a PNG file, and applies its transparent colour."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from PIL import Image, ImageChops

from imagesearch_pixels.guards import PillowGuard, UnsupportedImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, COLOUR, INDEXED = 0, 2, 3
# Pillow's modes by colour type and depth. Pillow may read another header if a broken file has two.
MODES = {(GREY, 1): "1", (GREY, 2): "L", (GREY, 4): "L", (GREY, 8): "L", (GREY, 16): "I;16"}
MODES |= {(COLOUR, 8): "RGB", (COLOUR, 16): "RGB"}
WANTED = (b"IHDR", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"cICP")
WHITE = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class PngFacts:
    """The header of a PNG file, and the chunks before its pixels that describe the samples."""

    depth: int
    colour: int
    chunks: dict[bytes, bytes] = field(default_factory=dict)


def check(content: bytes) -> None:
    """Raise UnsupportedImageError for Apple's variant, which has another sample order and premultiplied alpha."""
    if content.startswith(SIGNATURE) and content[12:16] == b"CgBI":
        raise UnsupportedImageError("it is a PNG in Apple's CgBI variant, which is not supported; use a standard PNG")


def facts_of(content: bytes) -> PngFacts | None:
    """Return the header and the chunks of a PNG file; None if the file has another format."""
    if not content.startswith(SIGNATURE):
        return None
    chunks: dict[bytes, bytes] = {}
    for kind, start, size in chunks_of(content):
        if kind == b"IDAT":
            break
        if kind in WANTED:
            # The specification allows one chunk of a kind, so the first one counts.
            chunks.setdefault(kind, content[start : start + size])
    header = chunks.get(b"IHDR", b"")
    return PngFacts(header[8], header[9], chunks) if len(header) >= 10 else None


def chunks_of(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, the start of the data and the size of each chunk."""
    at = len(SIGNATURE)
    while at + 12 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        yield kind, at + 8, size
        at += size + 12


def mark_transparent(image: Image.Image, png: PngFacts, content: bytes, guard: PillowGuard) -> None:
    """Apply the transparent colour of a PNG file to the loaded image, in which Pillow has scaled the samples.

    PNG (third edition), 11.3.1.1: the chunk has raw samples, and only their lowest `depth` bits count. A pixel is
    transparent if all its samples equal these.
    """
    # A text chunk of this name may have replaced the value.
    image.info.pop("transparency", None)
    data = png.chunks.get(b"tRNS")
    channels = {GREY: 1, COLOUR: 3}.get(png.colour)
    if data is None:
        return
    if png.colour == INDEXED:
        image.info["transparency"] = data[:256]
        return
    if channels is None or len(data) < 2 * channels or image.mode != MODES.get((png.colour, png.depth)):
        return
    max_sample = (1 << png.depth) - 1
    samples = [sample & max_sample for sample in struct.unpack_from(f">{channels}H", data)]
    if png.depth < 16:
        scaled = tuple(sample * 255 // max_sample for sample in samples)
        image.info["transparency"] = scaled if channels > 1 else scaled[0]
    elif channels > 1:
        image.paste(WHITE, mask=_equal_to(image, _low_bytes(content, guard), samples))
    else:
        values = np.asarray(image)
        image.paste(0xFFFF, mask=Image.fromarray(np.where(values == samples[0], np.uint8(255), np.uint8(0))))


def _low_bytes(content: bytes, guard: PillowGuard) -> Image.Image:
    """Return the lower bytes of 16-bit colours, because Pillow keeps the upper bytes only.

    Samples are big-endian. If Pillow reads them as little-endian, it keeps the lower bytes.
    """
    file = SIGNATURE + b"".join(
        content[start - 8 : start + size + 4]
        for kind, start, size in chunks_of(content)
        if kind in {b"IHDR", b"IDAT", b"IEND"}
    )
    with guard():
        image = Image.open(BytesIO(file), formats=("PNG",))
        image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
        image.load()
    return image


def _equal_to(upper: Image.Image, lower: Image.Image, samples: Sequence[int]) -> Image.Image:
    """Return a mask of the pixels with these three 16-bit samples."""
    mask = Image.new("L", upper.size, 255)
    for band, sample in enumerate(samples):
        for image, byte in ((upper, sample >> 8), (lower, sample & 0xFF)):
            equal = image.getchannel(band).point([255 if value == byte else 0 for value in range(256)])
            mask = ImageChops.darker(mask, equal)
    return mask
