"""Broken image files, generated with a seed: the same seed and number give the same file."""

import random
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
from PIL import ExifTags, Image

SIZE = (48, 32)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# One in so many is a bomb: they take long.
BOMBS_EVERY = 25
# One in so many is made of random bytes alone.
NOISE_EVERY = 20

Change: TypeAlias = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True)
class Mutation:
    """A file, and how it was made."""

    name: str
    content: bytes


@cache
def samples() -> Mapping[str, bytes]:
    """Small files in all formats, and in the modes that each can have."""
    noise = np.random.default_rng(1).integers(0, 256, (*SIZE[::-1], 4), np.uint8)
    slope = np.linspace(0, 255, SIZE[0], dtype=np.uint8)[None, :, None]
    image = Image.fromarray((noise // 2 + slope // 2).astype(np.uint8), "RGBA")
    rgb = image.convert("RGB")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Artist] = "somebody"
    frames: dict[str, Any] = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)], "duration": 40}
    sixteen = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    real = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.float32))
    made: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "JPEG RGB": (rgb, "JPEG", {}),
        "JPEG grey": (rgb.convert("L"), "JPEG", {}),
        "JPEG CMYK": (rgb.convert("CMYK"), "JPEG", {}),
        "JPEG progressive": (rgb, "JPEG", {"progressive": True}),
        "JPEG optimised": (rgb, "JPEG", {"optimize": True, "subsampling": 0, "restart_marker_blocks": 2}),
        "JPEG EXIF": (rgb, "JPEG", {"exif": exif, "comment": b"a comment", "icc_profile": b"no profile"}),
        "PNG RGB": (rgb, "PNG", {}),
        "PNG 1": (rgb.convert("1"), "PNG", {}),
        "PNG grey": (rgb.convert("L"), "PNG", {}),
        "PNG 16": (sixteen, "PNG", {}),
        "PNG palette": (rgb.quantize(17), "PNG", {"transparency": 3}),
        "PNG RGBA": (image, "PNG", {"exif": exif}),
        "PNG LA": (image.convert("LA"), "PNG", {}),
        "PNG animated": (rgb, "PNG", frames),
        "WEBP lossy": (rgb, "WEBP", {"exif": exif}),
        "WEBP lossless": (image, "WEBP", {"lossless": True}),
        "WEBP animated": (rgb, "WEBP", frames),
        "GIF": (rgb.quantize(64), "GIF", {"transparency": 1}),
        "GIF animated": (rgb, "GIF", frames),
        "TIFF raw": (rgb, "TIFF", {"exif": exif}),
        "TIFF LZW": (rgb, "TIFF", {"compression": "tiff_lzw"}),
        "TIFF deflate": (image, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "TIFF packbits": (rgb.convert("L"), "TIFF", {"compression": "packbits"}),
        "TIFF JPEG": (rgb, "TIFF", {"compression": "jpeg"}),
        "TIFF group 4": (rgb.convert("1"), "TIFF", {"compression": "group4"}),
        "TIFF CMYK": (rgb.convert("CMYK"), "TIFF", {}),
        "TIFF 16": (sixteen, "TIFF", {}),
        "TIFF float": (real, "TIFF", {}),
        "TIFF pages": (rgb, "TIFF", {"save_all": True, "append_images": [rgb, rgb]}),
        "TIFF big": (rgb, "TIFF", {"big_tiff": True}),
        "BMP RGB": (rgb, "BMP", {}),
        "BMP RGBA": (image, "BMP", {}),
        "BMP palette": (rgb.quantize(16), "BMP", {}),
        "BMP 1": (rgb.convert("1"), "BMP", {}),
    }
    files = {}
    for name, (picture, kind, options) in made.items():
        file = BytesIO()
        picture.save(file, kind, **options)
        files[name] = file.getvalue()
    return files


def mutations(count: int, seed: int) -> Iterator[Mutation]:
    """`count` files; equal seeds give equal files."""
    names = list(samples())
    for number in range(count):
        chance = random.Random(f"{seed} {number}")
        if number % BOMBS_EVERY == 0:
            how = list(BOMBS)[number // BOMBS_EVERY % len(BOMBS)]
            # Something at the end, so that no two are equal: those would be embedded once.
            yield Mutation(f"{number}: bomb, {how}", bomb(how) + struct.pack("<I", number))
            continue
        if number % NOISE_EVERY == 1:
            signature = chance.choice([content[: chance.randint(4, 32)] for content in samples().values()])
            noise = chance.randbytes(chance.choice([1, 10, 100, 3000]))
            yield Mutation(f"{number}: random bytes", chance.choice([b"", signature]) + noise)
            continue
        name = names[number % len(names)]
        content, hows = samples()[name], []
        for _ in range(chance.choice([1, 1, 1, 2, 3])):
            how = chance.choice(list(CHANGES))
            content = CHANGES[how](chance, content)
            hows.append(how)
        yield Mutation(f"{number}: {name}, {', '.join(hows)}", content)


def flip_bytes(chance: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice([1, 2, 4, 16])):
        if changed:
            changed[chance.randrange(len(changed))] = chance.choice([0, 0x7F, 0x80, 0xFF, chance.randrange(256)])
    return bytes(changed)


def flip_header(chance: random.Random, content: bytes) -> bytes:
    return flip_bytes(chance, content[:80]) + content[80:]


def truncate(chance: random.Random, content: bytes) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def insert(chance: random.Random, content: bytes) -> bytes:
    at = chance.randrange(len(content) + 1)
    return content[:at] + chance.randbytes(chance.choice([1, 2, 7, 200])) + content[at:]


def remove(chance: random.Random, content: bytes) -> bytes:
    at = chance.randrange(len(content) + 1)
    return content[:at] + content[at + chance.choice([1, 2, 7, 200]) :]


def repeat(chance: random.Random, content: bytes) -> bytes:
    at = chance.randrange(len(content) + 1)
    part = content[at : at + chance.choice([1, 8, 100])]
    return content[:at] + part * chance.choice([2, 3, 50]) + content[at:]


def blank(chance: random.Random, content: bytes) -> bytes:
    at, length = chance.randrange(len(content) + 1), chance.choice([4, 16, 100])
    part = content[at : at + length]
    return content[:at] + chance.choice([b"\x00", b"\xff"]) * len(part) + content[at + length :]


def concatenate(chance: random.Random, content: bytes) -> bytes:
    return content + chance.choice(list(samples().values()))


def confuse(chance: random.Random, content: bytes) -> bytes:
    """The begin of one format on the body of another."""
    at = chance.choice([4, 8, 16, 32, 64, 200])
    return chance.choice(list(samples().values()))[:at] + content[at:]


def lie(chance: random.Random, content: bytes) -> bytes:
    """Another width and height in the header, with checksums that fit."""
    width, height = (chance.choice([0, 1, 2, 47, 49, 224, 5000, 7000, 16383, 65535, 2**31 - 1]) for _ in range(2))
    changed = bytearray(content)
    layout: tuple[str, int] | None = None
    if content.startswith(PNG_SIGNATURE):
        layout = (">II", 16)
    elif content.startswith(b"\xff\xd8"):
        marker = next(
            (content.find(bytes([0xFF, kind])) for kind in (0xC0, 0xC2) if bytes([0xFF, kind]) in content), -1
        )
        layout = (">HH", marker + 5) if marker >= 0 else None
    elif content.startswith(b"GIF8"):
        layout = ("<HH", chance.choice([6, content.find(b",") + 5]))
    elif content.startswith(b"BM"):
        layout = ("<ii", 18)
    elif content[12:16] == b"VP8X":
        changed[24:27] = ((width - 1) & 0xFFFFFF).to_bytes(3, "little")
        changed[27:30] = ((height - 1) & 0xFFFFFF).to_bytes(3, "little")
    elif content[12:16] == b"VP8 ":
        layout = ("<HH", 26)
    elif content[:2] in {b"II", b"MM"}:
        return change_tag(chance, content)
    if layout is not None and len(changed) >= layout[1] + struct.calcsize(layout[0]):
        most = 0xFFFF if layout[0].endswith("HH") else 2**31 - 1
        struct.pack_into(layout[0], changed, layout[1], min(width, most), min(height, most))
    return fix_checksums(bytes(changed))


def change_tag(chance: random.Random, content: bytes) -> bytes:
    """Another value, count or type in an entry of a TIFF file's first directory."""
    order = "<" if content[:2] == b"II" else ">"
    if len(content) < 8 or content[2:4] not in {b"*\x00", b"\x00*"}:
        return flip_header(chance, content)
    (directory,) = struct.unpack_from(f"{order}I", content, 4)
    if directory + 2 > len(content):
        return content
    (entries,) = struct.unpack_from(f"{order}H", content, directory)
    entry = directory + 2 + 12 * chance.randrange(entries or 1)
    if entry + 12 > len(content):
        return content
    changed = bytearray(content)
    at, form = chance.choice([(0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "I"), (8, "H")])
    values = [0, 1, 2, 8, 0xFF, 5000, 0xFFFF, *([2**20, 2**31, 2**32 - 1] if form == "I" else [259, 322, 323])]
    struct.pack_into(f"{order}{form}", changed, entry + at, chance.choice(values))
    return bytes(changed)


def change_chunk(chance: random.Random, content: bytes) -> bytes:
    """Other bytes in a chunk of a PNG file, under a checksum that fits; with other formats, in the header."""
    if not content.startswith(PNG_SIGNATURE):
        return flip_header(chance, content)
    return fix_checksums(flip_bytes(chance, content[:60]) + flip_bytes(chance, content[60:]))


def fix_checksums(content: bytes) -> bytes:
    """A PNG file with the checksums that its chunks should have; anything else as it is."""
    if not content.startswith(PNG_SIGNATURE):
        return content
    changed, at = bytearray(content), len(PNG_SIGNATURE)
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        if at + 12 + length > len(content):
            break
        end = at + 8 + length
        struct.pack_into(">I", changed, end, zlib.crc32(content[at + 4 : end]))
        at = end + 4
    return bytes(changed)


CHANGES: dict[str, Change] = {
    "flip bytes": flip_bytes,
    "flip bytes of the header": flip_header,
    "truncate": truncate,
    "insert": insert,
    "remove": remove,
    "repeat": repeat,
    "blank": blank,
    "concatenate": concatenate,
    "confuse": confuse,
    "lie": lie,
    "change a tag": lambda chance, content: (
        change_tag(chance, content) if content[:2] in {b"II", b"MM"} else lie(chance, content)
    ),
    "change a chunk": change_chunk,
}


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, bits: int, colour: int, data: bytes, *more: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return PNG_SIGNATURE + header + b"".join(more) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def png_of_empty_rows(width: int, height: int, bits: int, colour: int, channels: int) -> bytes:
    row = bytes(1 + width * bits * channels // 8)
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return png_of(width, height, bits, colour, data)


def gif_of_frames(count: int, side: int) -> bytes:
    begin = b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\x00\x00" + b"\x00\x00\x00\xff\xff\xff"
    where = struct.pack("<HHHH", 0, 0, side, side)
    frame = b"\x21\xf9\x04\x08\x01\x00\x00\x00\x2c" + where + b"\x00\x02\x02\x4c\x01\x00"
    return begin + frame * count + b"\x3b"


def tiff_of(entries: Mapping[int, int], following: int = 0) -> bytes:
    """A TIFF file of one directory whose values are numbers."""
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return b"II*\x00" + struct.pack("<IH", 8, len(entries)) + rows + struct.pack("<I", following) + bytes(64)


def tiff_of_tiles(width: int, height: int, side: int, compression: int) -> bytes:
    tags = {256: width, 257: height, 258: 8, 259: compression, 262: 1, 277: 1, 322: side, 323: side, 324: 8, 325: 64}
    return tiff_of(tags)


def jpeg_of_scans(count: int) -> bytes:
    content = samples()["JPEG progressive"]
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * count + content[-2:]


def jpeg_of_size(width: int, height: int, sample: str) -> bytes:
    content = bytearray(samples()[sample])
    marker = content.find(b"\xff\xc2" if sample == "JPEG progressive" else b"\xff\xc0")
    struct.pack_into(">HH", content, marker + 5, height, width)
    return bytes(content)


def webp_of_size(side: int) -> bytes:
    content = bytearray(samples()["WEBP animated"])
    content[24:30] = (side - 1).to_bytes(3, "little") * 2
    return bytes(content)


def bmp_of_runs(width: int, height: int) -> bytes:
    """A BMP file of 8 bits in runs, of which there is none."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 1024) + header + bytes(1024) + b"\x00\x01"


def png_with_text(size: int) -> bytes:
    text = png_chunk(b"zTXt", b"key\x00\x00" + zlib.compress(bytes(size), 9))
    profile = png_chunk(b"iCCP", b"icc\x00\x00" + zlib.compress(bytes(size), 9))
    return png_of(8, 8, 8, 0, zlib.compress(bytes(72)), text, profile)


BOMBS: dict[str, Callable[[], bytes]] = {
    "PNG of 10 gigapixels without data": lambda: png_of(100_000, 100_000, 8, 2, b""),
    "PNG of 49 megapixels with little data": lambda: png_of(7000, 7000, 8, 6, zlib.compress(bytes(100))),
    "PNG of 49 megapixels, all empty": lambda: png_of_empty_rows(7000, 7000, 8, 0, 1),
    "PNG of 49 megapixels in colour, all empty": lambda: png_of_empty_rows(7000, 7000, 8, 2, 3),
    "PNG of 25 megapixels of 16 bits with alpha": lambda: png_of_empty_rows(5000, 5000, 16, 6, 4),
    "PNG of one row": lambda: png_of_empty_rows(49_000_000, 1, 8, 0, 1),
    "PNG of one column": lambda: png_of_empty_rows(1, 5_000_000, 8, 0, 1),
    "PNG with much compressed text": lambda: png_with_text(100_000_000),
    "PNG of many chunks": lambda: png_of(
        8, 8, 8, 0, zlib.compress(bytes(72)), *[png_chunk(b"tEXt", b"a\x00b")] * 50_000
    ),
    "GIF of many frames": lambda: gif_of_frames(20_000, 1),
    "GIF of many large frames": lambda: gif_of_frames(500, 7000),
    "TIFF of tiles of a terapixel": lambda: tiff_of_tiles(48, 32, 1 << 20, 1),
    "TIFF of tiles of 49 megapixels": lambda: tiff_of_tiles(48, 32, 7000, 8),
    "TIFF of 49 megapixels without data": lambda: tiff_of({
        256: 7000, 257: 7000, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 7000, 279: 49_000_000,
    }),
    "TIFF of 49 megapixels in LZW without data": lambda: tiff_of({
        256: 7000, 257: 7000, 258: 8, 259: 5, 262: 1, 273: 8, 277: 1, 278: 1, 279: 64,
    }),
    "TIFF that follows itself": lambda: tiff_of({256: 48, 257: 32, 258: 8, 259: 1, 262: 1, 273: 8, 279: 64}, 8),
    "JPEG of 150 scans": lambda: jpeg_of_scans(150),
    "JPEG of 20,000 scans": lambda: jpeg_of_scans(20_000),
    "JPEG of 49 megapixels with little data": lambda: jpeg_of_size(7000, 7000, "JPEG RGB"),
    "progressive JPEG of 49 megapixels with little data": lambda: jpeg_of_size(7000, 7000, "JPEG progressive"),
    "JPEG of a row of 65,500": lambda: jpeg_of_size(65_500, 1, "JPEG grey"),
    "WebP of 268 megapixels": lambda: webp_of_size(16_384),
    "WebP of 49 megapixels": lambda: webp_of_size(7000),
    "BMP of 49 megapixels in runs": lambda: bmp_of_runs(7000, 7000),
    "BMP of a height below zero": lambda: bmp_of_runs(7000, -7000),
}  # fmt: skip


@cache
def bomb(how: str) -> bytes:
    return BOMBS[how]()
