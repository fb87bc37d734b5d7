"""Removes what the first image of a file does not need: metadata, further images, and bytes after the image.

Pillow reads metadata when it opens a file, and refuses a valid image if the metadata is too large or broken. It also
reads all images of some files. Removal is cheap: it only reads headers, and does not decompress removed parts.
"""

import itertools
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from imagesearch_pixels.guards import TooManyPartsError
from imagesearch_pixels.image_boxes import brand_of, without_metadata_items

# Maximum number of chunks or segments of a file, and of entries of a directory.
MAX_PARTS = 200_000
# Maximum bytes of a decompressed profile, of EXIF data and of XMP data; Pillow has the same limit for PNG.
MAX_METADATA = 2**20

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS, PNG_END = b"IDAT", b"IEND"
# Other chunks that describe the pixels, or that are short and common, and their minimum bytes.
PNG_SHORT = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"cICP": 4, b"sBIT": 1, b"pHYs": 9, b"bKGD": 1, b"tIME": 7}
PNG_TRANSPARENT, PNG_PROFILE, PNG_EXIF = b"tRNS", b"iCCP", b"eXIf"
# Bytes of a transparent colour by colour type: grey, RGB, palette. Other types have none.
PNG_TRANSPARENT_BYTES = {0: 2, 2: 6, 3: 1}
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
# Keywords of texts that may contain the orientation of an image.
PNG_KEYWORDS = (b"Raw profile type exif", b"XML:com.adobe.xmp")

JPEG_SIGNATURE = b"\xff\xd8\xff"
# A marker that begins a segment. Stuffed bytes, fill bytes, restarts (D0 to D7) and 01 do not.
JPEG_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")
START_OF_IMAGE, END_OF_IMAGE, START_OF_SCAN = 0xD8, 0xD9, 0xDA
APP0, APP1, APP2, APP14, COMMENT = 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
EXIF, MAX_EXIF_SEGMENTS = b"Exif\0\0", 32
# First bytes and minimum bytes of the application segments that describe the pixels.
JPEG_SEGMENTS = {
    APP0: ((b"JFIF\0", 14),),
    APP1: ((EXIF, 6), (b"http://ns.adobe.com/xap/1.0/\0", 29)),
    APP2: ((b"ICC_PROFILE\0", 14),),
    APP14: ((b"Adobe", 12),),
}

# Chunks of a WebP file: chunks of the image, and metadata with their bits in the flags of VP8X.
WEBP_FRAME, WEBP_PICTURE = b"ANMF", {b"VP8X", b"ANIM", b"ALPH", b"VP8 ", b"VP8L"}
WEBP_METADATA = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}
WEBP_FLAGS = 20

BIG_TIFF = 43
# Bytes of a BigTIFF file's header. Other TIFF headers are shorter, but each file is longer.
TIFF_HEADER = 16

# TIFF tags that a decoder needs: those of TIFF 6.0, libtiff's tags for YCbCr, JPEG, inks, samples and profiles, and the
# orientation.
TIFF_TAGS = frozenset({
    *range(254, 260), 262, 266, *range(273, 280), *range(280, 282), 284, *range(290, 294), 301, 317, 318, 319, 320,
    *range(321, 326), 332, 333, 334, 336, *range(338, 348), 400, *range(512, 522), 529, 530, 531, 532, 34675,
})  # fmt: skip


class KeptRanges:
    """Ranges of a file that are kept, in their new order. The first range begins with the file."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.ranges: list[tuple[int, int]] = []

    def add(self, begin: int, end: int) -> None:
        """Keep a range, up to the end of the file."""
        end = min(end, len(self._content))
        if self.ranges and self.ranges[-1][1] == begin:
            begin, _ = self.ranges.pop()
        self.ranges.append((begin, end))

    def joined(self) -> bytes:
        """Return the kept ranges; the file itself if it begins with them."""
        whole = memoryview(self._content)
        return self._content if len(self.ranges) == 1 else b"".join(whole[begin:end] for begin, end in self.ranges)


@dataclass(frozen=True)
class TiffLayout:
    """The position of a TIFF file's first directory, and the layout of directories."""

    start: int
    number: struct.Struct
    """Layout of the number of entries."""
    entry: struct.Struct
    """Layout of an entry: tag, type, count, and the value or its position."""

    @classmethod
    def of(cls, content: bytes) -> "TiffLayout | None":
        """Return the layout of a file that Pillow recognises as TIFF, or None."""
        if content[:2] not in {b"II", b"MM"} or len(content) < TIFF_HEADER:
            return None
        order = "<" if content[:2] == b"II" else ">"
        if content[2] == BIG_TIFF:
            return cls(
                struct.unpack_from(f"{order}Q", content, 8)[0],
                struct.Struct(f"{order}Q"),
                struct.Struct(f"{order}HHQQ"),
            )
        return cls(
            struct.unpack_from(f"{order}I", content, 4)[0], struct.Struct(f"{order}H"), struct.Struct(f"{order}HHII")
        )


def without_metadata(content: bytes, *, bare: bool = False) -> bytes:
    """Return the parts that the first image of a file needs; the file itself if nothing needs to be removed.

    Metadata on the orientation and on colours is kept if it is valid and not too large; `bare` removes it too. Harmless
    parts may be kept. Raises TooManyPartsError.
    """
    if content.startswith(PNG_SIGNATURE):
        return _png(content, bare=bare)
    if content.startswith(JPEG_SIGNATURE):
        return _jpeg(content, bare=bare)
    if content[:4] == b"RIFF" and content[8:16] == b"WEBPVP8X" and len(content) > WEBP_FLAGS:
        return _webp(content, bare=bare)
    if brand_of(content):
        return without_metadata_items(content) if bare else content
    layout = TiffLayout.of(content)
    return _tiff(content, layout) if layout else content


def _png(content: bytes, *, bare: bool) -> bytes:
    """Return the chunks before the pixels, EXIF data after them, and the pixels of the default image."""
    head, pixels, at = KeptRanges(content), KeptRanges(content), len(PNG_SIGNATURE)
    head.add(0, at)
    seen: set[bytes] = set()
    for count in itertools.count():
        if count > MAX_PARTS:
            raise TooManyPartsError(f"it is a PNG of more than {MAX_PARTS} chunks")
        kind = content[at + 4 : at + 8]
        if kind == PNG_END or not (len(kind) == len(PNG_END) and kind.isalpha()):
            break
        end = at + 12 + int.from_bytes(content[at : at + 4])
        if kind == PNG_PIXELS:
            pixels.add(at, end)
        elif kind[:1].isupper() or (not bare and _is_useful(kind, content, at, end, seen)):
            # Chunks with a capital first letter are critical, even if they are unknown.
            head.add(at, end)
        at = end
    if not pixels.ranges:
        return content
    for kept_range in pixels.ranges:
        head.add(*kept_range)
    # In a file without an end chunk, the bytes after the pixels are not a whole chunk.
    head.add(*((at, at + 12) if kind == PNG_END else (len(content), len(content))))
    return head.joined()


def _is_useful(kind: bytes, content: bytes, at: int, end: int, seen: set[bytes]) -> bool:
    """Return whether a chunk describes the pixels, is valid and not too large, and is the first of its kind.

    `seen` contains the kinds of earlier chunks, and the keywords of texts.
    """
    length = end - at - 12
    if end > len(content) or length > MAX_METADATA:
        return False
    data = content[at + 8 : end - 4]
    name = data.partition(b"\0")[0] if kind in PNG_TEXTS else kind
    if name in seen or (kind in PNG_TEXTS and name not in PNG_KEYWORDS):
        return False
    # At most one chunk of a kind is decompressed, even if it is not useful.
    seen.add(name)
    if kind in PNG_SHORT:
        useful = length >= PNG_SHORT[kind]
    elif kind == PNG_TRANSPARENT:
        useful = length >= PNG_TRANSPARENT_BYTES.get(int.from_bytes(content[25:26]), MAX_METADATA)
    else:
        useful = kind == PNG_EXIF or (kind in {PNG_PROFILE, *PNG_TEXTS} and _fits(kind, data))
    # Like other decoders, ignore a chunk with a wrong checksum.
    return useful and zlib.crc32(content[at + 4 : end - 4]) == int.from_bytes(content[end - 4 : end])


def _fits(kind: bytes, data: bytes) -> bool:
    """Return whether a profile or a text is valid, and has at most MAX_METADATA bytes when decompressed."""
    rest = data.partition(b"\0")[2]
    if kind == b"tEXt" or (kind == b"iTXt" and rest[:1] == b"\0"):
        return True
    if kind == b"iTXt":
        rest = rest[1:2] + rest[2:].split(b"\0", 2)[-1]
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(rest[1:], MAX_METADATA)
    except zlib.error:
        return False
    return rest[:1] == b"\0" and not unpacker.unconsumed_tail


def jpeg_markers(content: bytes, at: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield each marker of a JPEG stream and the start of its segment, like libjpeg, until the image ends.

    This skips the content of segments, such as thumbnails, and bytes after the image.
    """
    while found := JPEG_MARKER.search(content, at, end):
        marker, at = found[1][0], found.end()
        if marker == END_OF_IMAGE:
            return
        yield marker, at
        if marker != START_OF_IMAGE:
            at += max(2, int.from_bytes(content[at : at + 2]))


def _jpeg(content: bytes, *, bare: bool) -> bytes:
    """Return a JPEG file without the segments of its header that its image does not need."""
    kept, last, exif, is_removed = KeptRanges(content), 0, 0, False
    for count, (marker, at) in enumerate(jpeg_markers(content, 2, len(content))):
        if count >= MAX_PARTS:
            raise TooManyPartsError(f"its header has more than {MAX_PARTS} segments")
        # Bytes between a removed segment and the next one are removed too.
        last, is_removed = (at - 2 if is_removed else last), False
        if marker == START_OF_SCAN:
            kept.add(last, len(content))
            return kept.joined()
        if APP0 <= marker <= APP0 + 15 or marker == COMMENT:
            length = max(2, int.from_bytes(content[at : at + 2]))
            exif += marker == APP1 and content.startswith(EXIF, at + 2)
            begins = () if bare and marker in {APP1, APP2} else JPEG_SEGMENTS.get(marker, ())
            needed = any(content.startswith(begin, at + 2) and length >= size + 2 for begin, size in begins)
            if not needed or (marker == APP1 and exif > MAX_EXIF_SEGMENTS):
                kept.add(last, at - 2)
                is_removed = True
    return content


def _webp(content: bytes, *, bare: bool) -> bytes:
    """Return the first frame of an extended WebP file, and its metadata if it is not too large."""
    kept, at, flags, pictures = KeptRanges(content), 12, content[WEBP_FLAGS], 0
    kept.add(0, at)
    missing = sum(WEBP_METADATA.values())
    for count in itertools.count():
        if count > MAX_PARTS:
            raise TooManyPartsError(f"it is a WebP of more than {MAX_PARTS} chunks")
        kind, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        end = at + 8 + size + size % 2
        if len(kind) < len(WEBP_FRAME) or at + 8 + size > len(content):
            break
        if kind in WEBP_METADATA:
            useful = not bare and size <= MAX_METADATA and bool(missing & WEBP_METADATA[kind])
            missing &= ~WEBP_METADATA[kind] if useful else ~0
        else:
            useful = kind in WEBP_PICTURE or (kind == WEBP_FRAME and not pictures)
            pictures += kind == WEBP_FRAME
        if useful:
            kept.add(at, end)
        at = end
    if len(kept.ranges) == 1 and at >= len(content):
        return content
    # If the file ends within a chunk, the chunk is removed.
    parts = b"".join(memoryview(content)[begin:end] for begin, end in kept.ranges)
    length = struct.pack("<I", len(parts) - 8)
    return parts[:4] + length + parts[8:WEBP_FLAGS] + bytes([flags & ~missing]) + parts[WEBP_FLAGS + 1 :]


def _tiff(content: bytes, layout: TiffLayout) -> bytes:
    """Return a TIFF file with one directory, which contains the tags that its pixels need, and the orientation."""
    number, entry, at = layout.number, layout.entry, layout.start + layout.number.size
    if at > len(content):
        return content
    count = min(number.unpack_from(content, layout.start)[0], (len(content) - at) // entry.size, MAX_PARTS)
    entries = [content[place : place + entry.size] for place in range(at, at + count * entry.size, entry.size)]
    needed = b"".join(each for each in entries if entry.unpack(each)[0] in TIFF_TAGS)
    directory = number.pack(len(needed) // entry.size) + needed
    if len(needed) == count * entry.size:
        return content
    # Zeros mean that no further directory follows.
    room = len(content) - layout.start - len(directory)
    ended = directory + bytes(min(8, room))
    return content[: layout.start] + ended + content[layout.start + len(ended) :]
