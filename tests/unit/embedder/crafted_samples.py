"""Small PNG, TIFF, BMP and GIF files with unusual samples. Pillow writes none of them."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tests.unit.embedder.crafted_files import png_chunk

Samples: TypeAlias = NDArray[Any]
TagValue: TypeAlias = int | tuple[int, ...] | bytes

UNSIGNED, SIGNED, FLOAT, UNDEFINED = 1, 2, 3, 4
UNCOMPRESSED, LZW, DEFLATE = 1, 5, 8
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, CMYK, YCBCR, CIELAB, ICCLAB = 0, 1, 2, 3, 4, 5, 6, 8, 9
LOGL = 32844
SHORT, LONG, UNDEFINED_BYTES = 3, 4, 7


def rows_of(samples: Samples) -> list[NDArray[Any]]:
    return list(samples.reshape(samples.shape[0], -1))


def packed_bits(row: NDArray[Any], depth: int) -> bytes:
    """Samples of any number of bits, the highest bit first; a row fills whole bytes."""
    shifts = np.arange(depth - 1, -1, -1)
    bits = (row.astype(np.uint64)[:, None] >> shifts.astype(np.uint64)) & 1
    return np.packbits(bits.astype(np.uint8).ravel()).tobytes()


def packed(row: NDArray[Any], depth: int, order: str, sample_format: int) -> bytes:
    if sample_format == FLOAT:
        return row.astype(f"{order}f{depth // 8}").tobytes()
    if depth in {16, 32}:
        return row.astype(f"{order}{'i' if sample_format == SIGNED else 'u'}{depth // 8}").tobytes()
    if sample_format == SIGNED:
        return row.astype(np.int8).tobytes()
    return packed_bits(row, depth)


# --- PNG

ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(samples: Samples, depth: int, colour: int, *chunks: bytes, interlaced: bool = False) -> bytes:
    """A PNG file of raw samples, [height, width] or [height, width, channels]; `chunks` stand before the pixels."""
    height, width = samples.shape[:2]
    passes = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [samples]
    rows = b"".join(b"\0" + packed(row, depth, ">", UNSIGNED) for part in passes if part.size for row in rows_of(part))
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    end = png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + end


def transparent(*samples: int) -> bytes:
    return png_chunk(b"tRNS", struct.pack(f">{len(samples)}H", *samples))


# --- TIFF


def tiff(
    samples: Samples,
    depth: int,
    photometric: int,
    *,
    order: str = "<",
    sample_format: int = UNSIGNED,
    extra: Sequence[int] = (),
    compression: int = UNCOMPRESSED,
    planar: bool = False,
    reversed_bits: bool = False,
    tags: Mapping[int, TagValue] | None = None,
) -> bytes:
    """A TIFF file of raw samples, [height, width] or [height, width, channels], in one strip or one for each plane."""
    height, width = samples.shape[:2]
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    planes = [samples[..., band] for band in range(channels)] if planar and channels > 1 else [samples]
    strips = []
    for plane in planes:
        data = b"".join(packed(row, depth, order, sample_format) for row in rows_of(plane))
        data = zlib.compress(data) if compression == DEFLATE else data
        if reversed_bits:
            data = np.packbits(np.unpackbits(np.frombuffer(data, np.uint8)), bitorder="little").tobytes()
        strips.append(data)
    values: dict[int, TagValue] = {
        256: width,
        257: height,
        258: (depth,) * channels,
        259: compression,
        262: photometric,
        277: channels,
        278: height,
        284: 2 if planar else 1,
    }
    values |= {338: tuple(extra)} if extra else {}
    values |= {339: (sample_format,) * channels} if sample_format != UNSIGNED else {}
    values |= {266: 2} if reversed_bits else {}
    values |= tags or {}
    offsets, data = [], b""
    for strip in strips:
        offsets.append(8 + len(data))
        data += strip + bytes(len(strip) % 2)
    values |= {273: tuple(offsets), 279: tuple(len(strip) for strip in strips)}
    return _tiff_file(data, values, order)


def _tiff_file(data: bytes, values: Mapping[int, TagValue], order: str) -> bytes:
    entries, blob, start = b"", b"", 8 + len(data)
    for tag, value in sorted(values.items()):
        kind = LONG if tag in {256, 257, 273, 278, 279} else SHORT
        if isinstance(value, bytes):
            kind, count, content = UNDEFINED_BYTES, len(value), value
        else:
            numbers = value if isinstance(value, tuple) else (value,)
            count, content = len(numbers), struct.pack(f"{order}{len(numbers)}{'I' if kind == LONG else 'H'}", *numbers)
        if len(content) <= 4:
            field = content.ljust(4, b"\0")
        else:
            field = struct.pack(f"{order}I", start + len(blob))
            blob += content + bytes(len(content) % 2)
        entries += struct.pack(f"{order}HHI", tag, kind, count) + field
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start + len(blob))
    return head + data + blob + struct.pack(f"{order}H", len(values)) + entries + bytes(4)


# --- BMP

BI_RGB, BI_BITFIELDS, BI_JPEG, BI_ALPHABITFIELDS = 0, 3, 4, 6


def bmp(
    rows: Sequence[bytes],
    width: int,
    bits: int,
    *,
    compression: int = BI_RGB,
    masks: Sequence[int] = (),
    palette: Sequence[tuple[int, int, int]] = (),
    header: int = 40,
) -> bytes:
    """A BMP file of packed rows, the uppermost first. `palette` is RGB; `header` is the size of its header."""
    body = b"".join(row + bytes(-len(row) % 4) for row in reversed(rows))
    info = struct.pack("<IiiHHIIiiII", header, width, len(rows), 1, bits, compression, len(body), 0, 0, len(palette), 0)
    fields = struct.pack(f"<{len(masks)}I", *masks)
    info = info + fields if header == 40 else (info + fields).ljust(header, b"\0")
    colours = b"".join(bytes([b, g, r, 0]) for r, g, b in palette)
    offset = 14 + len(info) + len(colours)
    return b"BM" + struct.pack("<IHHI", offset + len(body), 0, 0, offset) + info + colours + body
