"""What a PNG file declares about its samples beside their values."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from PIL import Image, ImageChops

from imagesearch_pixels.reading import Reading, UnsupportedImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, COLOUR, INDEXED = 0, 2, 3
# What Pillow makes of colour types and depths. It reads another header if a broken file has two.
MODES = {(GREY, 1): "1", (GREY, 2): "L", (GREY, 4): "L", (GREY, 8): "L", (GREY, 16): "I;16"}
MODES |= {(COLOUR, 8): "RGB", (COLOUR, 16): "RGB"}
WANTED = (b"IHDR", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"cICP")
WHITE = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class PngFacts:
    """The header of a PNG file, and chunks before its pixels."""

    depth: int
    colour: int
    chunks: dict[bytes, bytes] = field(default_factory=dict)


def check(content: bytes) -> None:
    """Raise UnsupportedImageError for Apple's variant, whose samples are in another order and premultiplied."""
    if content.startswith(SIGNATURE) and content[12:16] == b"CgBI":
        raise UnsupportedImageError("it is a PNG in Apple's CgBI variant; a standard PNG is taken")


def facts_of(content: bytes) -> PngFacts | None:
    """Return what a PNG file declares; None if it is another file."""
    if not content.startswith(SIGNATURE):
        return None
    chunks: dict[bytes, bytes] = {}
    for kind, start, size in chunks_of(content):
        if kind == b"IDAT":
            break
        if kind in WANTED:
            # The first of a kind counts; the specification allows no second one.
            chunks.setdefault(kind, content[start : start + size])
    header = chunks.get(b"IHDR", b"")
    return PngFacts(header[8], header[9], chunks) if len(header) >= 10 else None


def chunks_of(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk, where its data start, and their size."""
    at = len(SIGNATURE)
    while at + 12 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        yield kind, at + 8, size
        at += size + 12


def mark_transparent(image: Image.Image, png: PngFacts, content: bytes, reading: Reading) -> None:
    """Apply the transparent samples that a PNG file declares to the loaded image, whose values Pillow has scaled.

    PNG (third edition), 11.3.1.1: the chunk has raw samples, of which only the lowest `depth` bits count; a pixel is
    transparent if all its samples equal these.
    """
    # A text of that name would take the place of the chunk.
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
    most = (1 << png.depth) - 1
    samples = [sample & most for sample in struct.unpack_from(f">{channels}H", data)]
    if png.depth < 16:
        scaled = tuple(sample * 255 // most for sample in samples)
        image.info["transparency"] = scaled if channels > 1 else scaled[0]
    elif channels > 1:
        image.paste(WHITE, mask=_equal_to(image, _low_bytes(content, reading), samples))
    else:
        values = np.asarray(image)
        image.paste(0xFFFF, mask=Image.fromarray(np.where(values == samples[0], np.uint8(255), np.uint8(0))))


def _low_bytes(content: bytes, reading: Reading) -> Image.Image:
    """Return the lower bytes of 16-bit colours, of which Pillow keeps the upper ones.

    The samples have their upper byte first. Pillow takes the lower one if it is told that it comes first.
    """
    file = SIGNATURE + b"".join(
        content[start - 8 : start + size + 4]
        for kind, start, size in chunks_of(content)
        if kind in {b"IHDR", b"IDAT", b"IEND"}
    )
    with reading():
        image = Image.open(BytesIO(file), formats=("PNG",))
        image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
        image.load()
    return image


def _equal_to(upper: Image.Image, lower: Image.Image, samples: Sequence[int]) -> Image.Image:
    """Return a mask of the pixels whose three samples of 16 bits are these."""
    mask = Image.new("L", upper.size, 255)
    for band, sample in enumerate(samples):
        for image, byte in ((upper, sample >> 8), (lower, sample & 0xFF)):
            equal = image.getchannel(band).point([255 if value == byte else 0 for value in range(256)])
            mask = ImageChops.darker(mask, equal)
    return mask
