"""Files that Pillow does not write: small files that are costly to decode, and JPEG streams scan by scan."""

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence

BASELINE, PROGRESSIVE, LOSSLESS = 0xC0, 0xC2, 0xC3
APP1, COMMENT = 0xE1, 0xFE
END_OF_IMAGE = b"\xff\xd9"


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def _table(kind: int, symbol: int) -> bytes:
    """A Huffman table of one code, the bit 0."""
    return segment(0xC4, bytes([kind, 1, *[0] * 15, symbol]))


def _frame(kind: int, width: int, height: int, components: int) -> bytes:
    rows = b"".join(bytes([number, 0x11, 0]) for number in range(1, components + 1))
    return segment(kind, struct.pack(">BHHB", 8, height, width, components) + rows)


def _scan(components: Iterable[int], first: int, last: int, bits: int, data: bytes) -> bytes:
    named = b"".join(bytes([number, 0]) for number in components)
    return segment(0xDA, bytes([len(named) // 2]) + named + bytes([first, last, bits])) + data


def _blocks(width: int, height: int) -> int:
    return -(-width // 8) * -(-height // 8)


TABLES = segment(0xDB, bytes([0] + [1] * 64)) + _table(0x00, 0) + _table(0x10, 0)


def grey_jpeg(width: int, height: int, *before: bytes, components: int = 3, together: bool = False) -> bytes:
    """A grey baseline JPEG file with a scan for each component, or one for all; `before` are segments."""
    numbers = range(1, components + 1)
    groups = [list(numbers)] if together else [[number] for number in numbers]
    scans = [_scan(group, 0, 63, 0, bytes(_blocks(width, height) * len(group) // 4 + 1)) for group in groups]
    head = b"\xff\xd8" + b"".join(before) + TABLES + _frame(BASELINE, width, height, components)
    return head + b"".join(scans) + END_OF_IMAGE


def jpeg_of_scans(width: int, height: int, scans: int, *before: bytes) -> bytes:
    """A grey progressive JPEG file whose scans after the first go over all blocks and change nothing."""
    blocks = _blocks(width, height)
    # The one code means "end of band" for as many blocks as the 14 bits behind it say.
    runs = ("0" + "1" * 14) * (blocks // 32767 + 1)
    runs += "0" * (-len(runs) % 8)
    data = int(runs, 2).to_bytes(len(runs) // 8, "big").replace(b"\xff", b"\xff\0")
    tables = segment(0xDB, bytes([0] + [1] * 64)) + _table(0x00, 0) + _table(0x10, 0xE0)
    first = _scan([1], 0, 0, 0, bytes(blocks // 8 + 1))
    more = _scan([1], 1, 63, 0x10, data) * (scans - 1)
    return b"\xff\xd8" + b"".join(before) + tables + _frame(PROGRESSIVE, width, height, 1) + first + more + END_OF_IMAGE


def lossless_jpeg(width: int, height: int) -> bytes:
    """A grey JPEG file that is coded without loss."""
    scan = _scan([1], 1, 0, 0, bytes(width * height // 8 + 1))
    return b"\xff\xd8" + _table(0x00, 0) + _frame(LOSSLESS, width, height, 1) + scan + END_OF_IMAGE


def tiff_file(data: bytes, tags: Mapping[int, int], shared: Mapping[int, tuple[int, int]]) -> bytes:
    """A grey TIFF file of 8 bits: its strips or tiles are all `data`, which begins at byte 8.

    `shared` has tags of many equal numbers: the number, and how many there are.
    """
    data += bytes(len(data) % 2)
    arrays = {tag: struct.pack("<I", number) * count for tag, (number, count) in shared.items()}
    entries: list[bytes] = []
    blob, at = b"", 8 + len(data)
    for tag, array in arrays.items():
        if len(array) > 4:
            entries.append(struct.pack("<HHII", tag, 4, len(array) // 4, at + len(blob)))
            blob += array
        else:
            entries.append(struct.pack("<HHI", tag, 4, 1) + array)
    entries += [struct.pack("<HHII", tag, 4, 1, value) for tag, value in {258: 8, 262: 1, 277: 1, **tags}.items()]
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry)[0])
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", at + len(blob)) + data + blob + directory


def tiff_of_strips(
    width: int, height: int, rows: int, compression: int, data: bytes, *, count: int | None = None
) -> bytes:
    count = -(-height // rows) if count is None else count
    tags = {256: width, 257: height, 259: compression, 278: rows}
    return tiff_file(data, tags, {273: (8, count), 279: (len(data), count)})


def tiff_of_tiles(width: int, height: int, side: int, compression: int, data: bytes) -> bytes:
    count = -(-width // side) * -(-height // side)
    tags = {256: width, 257: height, 259: compression, 322: side, 323: side}
    return tiff_file(data, tags, {324: (8, count), 325: (len(data), count)})


def deflated(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def png_of_chunks(*chunks: bytes) -> bytes:
    """A grey PNG file of 8 x 8 pixels with chunks before its pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IDAT", deflated(72)) + png_chunk(b"IEND", b"")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def gif_of_extensions(extensions: bytes) -> bytes:
    screen = b"GIF89a" + struct.pack("<HH", 8, 8) + b"\x80\x00\x00" + b"\x00\x00\x00\xff\xff\xff"
    return screen + extensions + b"\x2c" + struct.pack("<HHHH", 0, 0, 8, 8) + b"\x00\x02\x02\x4c\x01\x00\x3b"


def gif_frame(
    at: tuple[int, int],
    side: int,
    palette: Sequence[tuple[int, int, int]],
    *,
    background: int = 0,
    transparent: int | None = None,
) -> bytes:
    """A GIF file of 8 x 8 pixels and two colours, whose one frame is a square of the first colour."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, background, 0) + b"".join(map(bytes, palette))
    control = b"" if transparent is None else b"\x21\xf9\x04\x01\x00\x00" + bytes([transparent, 0])
    # Codes of 3 bits: clear (4), a pixel (0), and so on, so that no code is longer; then the end (5).
    bits = "".join(f"{code:03b}"[::-1] for code in [code for _ in range(side * side) for code in (4, 0)] + [5])
    data = bytes(int(bits[start : start + 8][::-1], 2) for start in range(0, len(bits), 8))
    frame = b"\x2c" + struct.pack("<HHHH", *at, side, side) + b"\x00\x02" + bytes([len(data)]) + data + b"\x00;"
    return screen + control + frame


def bmp_of_runs(width: int, height: int, runs: bytes) -> bytes:
    """A BMP file of 8 bits in runs."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 1024) + header + bytes(1024) + runs
