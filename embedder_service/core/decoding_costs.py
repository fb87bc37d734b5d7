"""Estimates the memory and the work to decode an image from its headers, and refuses images that cost too much.

A file of some kilobytes can make a decoder process its pixels many times. Such files are refused. So no image takes
much longer than an ordinary image of the largest size.
"""

import math
import struct
from collections import deque
from collections.abc import Sequence
from io import BytesIO

from PIL import Image, TiffTags
from PIL.BmpImagePlugin import BmpImageFile
from PIL.TiffImagePlugin import (
    IMAGELENGTH,
    IMAGEWIDTH,
    PLANAR_CONFIGURATION,
    ROWSPERSTRIP,
    SAMPLESPERPIXEL,
    STRIPBYTECOUNTS,
    STRIPOFFSETS,
    TILEBYTECOUNTS,
    TILELENGTH,
    TILEOFFSETS,
    TILEWIDTH,
    TiffImageFile,
)

from embedder_service.core.deadlines import AnyDeadline, deadline_exceeded
from embedder_service.core.decoding_faults import corrupt, reading_the_file, too_costly
from imagesearch_pixels.image_boxes import Coded
from imagesearch_pixels.metadata_removal import (
    JPEG_SIGNATURE,
    MAX_PARTS,
    START_OF_IMAGE,
    START_OF_SCAN,
    TiffLayout,
    jpeg_markers,
)

# A progressive JPEG has 10 to 14 scans, and each processes all pixels. The first limit is for images of the largest
# size; smaller images may have more, up to the second limit.
MAX_SCANS_OF_LARGEST = 30
MAX_SCANS = 200
BMP_SIGNATURE = b"BM"
# Maximum number of reads of a file; Pillow reads in Python. In a JPEG file a read may also copy earlier pieces. In a
# BMP file with runs each run takes two reads.
MAX_READS = 500_000
MAX_READS_BY_SIGNATURE = {JPEG_SIGNATURE: 5_000, BMP_SIGNATURE: 1_500_000}
# Maximum number of bytes between the segments of a JPEG header; Pillow reads them one by one.
MAX_STRAY_BYTES = 100_000
# Maximum side in pixels. Pillow keeps a pointer for each row, and its filter keeps numbers for each row and column. In
# an image of one column these need far more memory than the pixels.
MAX_SIDE = 1_000_000
# A BMP file with runs may have the maximum number of pixels divided by this, because Pillow decodes runs in Python.
RUNS_DIVISOR = 4
# A read of at least this many bytes reads pixels. Each such read checks the limits.
LARGE_READ = 4096
# Of the smaller reads, only one in this many checks the limits.
SMALL_READS_PER_CHECK = 64
# The strips or tiles of a TIFF file together may have the maximum number of pixels times this. So may the coded images
# of an AVIF or HEIC file.
MAX_OVERLAP = 2

SCAN = bytes([0xFF, START_OF_SCAN])
# Markers that are invalid in a header; libjpeg stops at them.
INVALID_MARKERS = {0xC8, START_OF_IMAGE, *range(0xF0, 0xFE)}
# Frame markers of lossless JPEG, which cannot be scaled while it is decoded.
LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}

# Values of TIFF tags: planes are stored one after the other; one strip has all rows; maximum rows of the decoder.
SEPARATE, ALL_ROWS, MAX_ROWS = 2, 2**32 - 1, 2**31 - 1
# Tags of further directories that Pillow reads: EXIF, GPS and interoperability (which is inside EXIF).
DIRECTORY_TAGS, MAX_DEPTH = set(TiffTags.TAGS_V2_GROUPS), 2
# Types of bytes and texts. Pillow keeps them as bytes, and converts values of all other types to Python numbers.
TIFF_BYTES = {1, 2, 6, 7}


class CountedFile(BytesIO):
    """The file object that Pillow reads. It limits the number of reads, and checks the caller's deadline."""

    def __init__(self, content: bytes, deadline: AnyDeadline) -> None:
        """A deadline that has already passed is ignored, because then no caller waits."""
        super().__init__(content)
        self._reads = self._stray_bytes = 0
        self._is_jpeg = content.startswith(JPEG_SIGNATURE)
        self._max_reads = next(
            (reads for signature, reads in MAX_READS_BY_SIGNATURE.items() if content.startswith(signature)), MAX_READS
        )
        self._deadline = deadline if deadline.remaining() > 0 else None

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes. Raises InvalidArgumentError after too many reads, and DeadlineExceededError."""
        self._reads += 1
        self._stray_bytes += self._is_jpeg and size == 1
        is_small = size is not None and 0 <= size < LARGE_READ
        if not is_small or self._reads % SMALL_READS_PER_CHECK == 0:
            self._check()
        return super().read(size)

    def _check(self) -> None:
        if self._stray_bytes > MAX_STRAY_BYTES:
            raise corrupt(f"it has more than {MAX_STRAY_BYTES} bytes between the segments of its header")
        if self._reads - self._stray_bytes > self._max_reads:
            raise too_costly(f"it is read in more than {self._max_reads} parts")
        if self._deadline is not None and self._deadline.remaining() <= 0:
            raise deadline_exceeded()


def check_header(content: bytes) -> None:
    """Refuse a file with a costly header. Pillow parses it before the size of the image is known."""
    if content.startswith(JPEG_SIGNATURE):
        _check_segments(content)
    elif layout := TiffLayout.of(content):
        _check_directories(content, layout.start, layout.number, layout.entry)


def _check_segments(content: bytes) -> None:
    """Refuse a JPEG header of too many segments or with an invalid marker."""
    for segments, (marker, _) in enumerate(jpeg_markers(content, 2, len(content))):
        if marker == START_OF_SCAN:
            return
        if segments >= MAX_READS_BY_SIGNATURE[JPEG_SIGNATURE]:
            raise too_costly(f"its header has more than {segments} segments")
        if marker in INVALID_MARKERS:
            raise corrupt(f"its header has the marker {marker:02X}")


def _check_directories(content: bytes, start: int, number: struct.Struct, entry: struct.Struct) -> None:
    """Refuse a TIFF directory with too many entries, or with an entry of too many numbers.

    Directories may refer to themselves and to each other. So each one is read once, at its minimum depth.
    """
    seen: set[int] = set()
    pending, entries = deque([(start, 0)]), 0
    while pending:
        start, depth = pending.popleft()
        if start in seen or start + number.size > len(content):
            continue
        seen.add(start)
        at = start + number.size
        count_here = min(number.unpack_from(content, start)[0], (len(content) - at) // entry.size)
        entries += count_here
        if entries > MAX_PARTS:
            raise too_costly(f"its directories have more than {MAX_PARTS} entries")
        for tag, kind, count, value in entry.iter_unpack(content[at : at + count_here * entry.size]):
            # Pillow skips an entry that is larger than the file.
            if MAX_PARTS < count <= len(content) and kind not in TIFF_BYTES:
                raise too_costly(f"tag {tag} has {count} numbers; the maximum is {MAX_PARTS}")
            if tag in DIRECTORY_TAGS and depth < MAX_DEPTH:
                pending.append((value, depth + 1))


def check_cost(image: Image.Image, content: bytes, max_pixels: int) -> None:
    """Refuse an opened image that would take too long to decode."""
    if max(image.size) > MAX_SIDE:
        raise too_costly(f"a side has {max(image.size)} pixels; the maximum is {MAX_SIDE}")
    if content.startswith(JPEG_SIGNATURE):
        _check_scans(image.width * image.height, _count_scans(content, 0, len(content)), max_pixels)
    if isinstance(image, TiffImageFile):
        _check_parts(image, content, max_pixels)
    if _is_in_runs(image) and image.width * image.height > max_pixels // RUNS_DIVISOR:
        raise too_costly(f"it is a BMP with runs of more than {max_pixels // RUNS_DIVISOR} pixels")


def check_sum(images: Sequence[Coded], max_pixels: int) -> None:
    """Refuse an image whose coded images together have far more pixels than an image may have."""
    if sum(image.width * image.height for image in images) > MAX_OVERLAP * max_pixels:
        raise too_costly(f"it is made of {len(images)} coded images with too many pixels together")


def _is_in_runs(image: Image.Image) -> bool:
    return isinstance(image, BmpImageFile) and any(tile.codec_name == "bmp_rle" for tile in image.tile)


def is_scalable(image: Image.Image, content: bytes) -> bool:
    """Return whether an image can be scaled while it is decoded."""
    return image.format in {"JPEG", "MPO"} and _first_scan(content)[0] not in LOSSLESS


def pixels_in_memory(image: Image.Image, content: bytes, scale: int) -> int:
    """Return the number of pixels in memory while an image is decoded at 1 / scale of its size.

    libjpeg keeps the coefficients of the whole JPEG, unless the first scan has all components.
    """
    pixels = image.width * image.height
    if scale == 1:
        return pixels
    _, components = _first_scan(content)
    kept_whole = image.info.get("progressive") or components < len(image.getbands())
    return pixels * scale * scale if kept_whole else pixels


def _first_scan(content: bytes) -> tuple[int, int]:
    """Return the frame marker of a JPEG stream and the number of components in its first scan; 0, 0 without a scan."""
    frame = 0
    for marker, at in jpeg_markers(content, 0, len(content)):
        if marker in FRAMES:
            frame = marker
        if marker == START_OF_SCAN:
            return frame, content[at + 2] if at + 2 < len(content) else 0
    return 0, 0


def _count_scans(content: bytes, at: int, end: int) -> int:
    """Return the number of scans of a JPEG stream; if a larger number is also within the limit, it may return that."""
    # This count is much faster, and never too low.
    if (upper_bound := content.count(SCAN, at, end)) <= MAX_SCANS_OF_LARGEST:
        return upper_bound
    scans = 0
    for parts, (marker, _) in enumerate(jpeg_markers(content, at, end)):
        scans += marker == START_OF_SCAN
        if parts >= MAX_PARTS:
            raise too_costly(f"it has more than {MAX_PARTS} parts")
        if scans > MAX_SCANS:
            break
    return scans


def _check_scans(pixels: int, scans: int, max_pixels: int) -> None:
    allowed = min(MAX_SCANS, MAX_SCANS_OF_LARGEST * max_pixels // max(1, pixels))
    if scans > allowed:
        raise too_costly(f"it is a JPEG of more than {allowed} scans, the maximum for {pixels} pixels")


def _check_parts(image: TiffImageFile, content: bytes, max_pixels: int) -> None:
    """Refuse too many strips or tiles, or strips or tiles that together have far more pixels than an image may have."""
    width, height = tag_number(image, IMAGEWIDTH, 1), tag_number(image, IMAGELENGTH, 1)
    planes = tag_number(image, SAMPLESPERPIXEL, 1) if tag_number(image, PLANAR_CONFIGURATION, 1) == SEPARATE else 1
    columns, rows = tag_number(image, TILEWIDTH, 0), tag_number(image, TILELENGTH, 0)
    if columns <= 0 or rows <= 0:
        rows = tag_number(image, ROWSPERSTRIP, ALL_ROWS)
        if MAX_ROWS < rows != ALL_ROWS:
            # For this the decoder would report a lack of memory.
            raise corrupt(f"it has {rows} rows in a strip")
        columns, rows = width, min(height, rows) if rows > 0 else height
    # The decoder stops at the first strip or tile without an offset.
    offsets = _tag_numbers(image, TILEOFFSETS) or _tag_numbers(image, STRIPOFFSETS)
    parts = min(math.ceil(width / columns) * math.ceil(height / rows) * planes, len(offsets))
    drawn = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (tile.extents for tile in image.tile if tile.extents))
    if parts > MAX_PARTS or max(parts * columns * rows, drawn) > MAX_OVERLAP * max_pixels * planes:
        raise too_costly(f"it is a TIFF of {parts} strips or tiles of {columns} x {rows} pixels")
    if image.info.get("compression") == "jpeg":
        _check_scans_of_parts(image, content, parts, columns * rows, max_pixels)


def _check_scans_of_parts(image: TiffImageFile, content: bytes, parts: int, pixels: int, max_pixels: int) -> None:
    """Refuse strips or tiles that are JPEG streams with too many scans."""
    # Each part may contain all of the file's scans, because parts may share bytes.
    if content.count(SCAN) * parts * pixels <= MAX_SCANS_OF_LARGEST * max_pixels:
        return
    tags = (TILEOFFSETS, TILEBYTECOUNTS) if TILEOFFSETS in image.tag_v2 else (STRIPOFFSETS, STRIPBYTECOUNTS)
    offsets, sizes = (_tag_numbers(image, tag) for tag in tags)
    if sum(sizes) > MAX_OVERLAP * len(content):
        raise too_costly("its strips or tiles overlap")
    scans = [_count_scans(content, at, at + size) for at, size in zip(offsets, sizes, strict=False)]
    if max(scans, default=0) > MAX_SCANS or sum(scans) * pixels > MAX_SCANS_OF_LARGEST * max_pixels:
        raise too_costly("its strips or tiles are JPEG streams of too many scans")


def tag_number(image: TiffImageFile, tag: int, default: int) -> int:
    """Return the value of a TIFF tag. Raises InvalidArgumentError if it is not an integer."""
    with reading_the_file():
        value = image.tag_v2.get(tag, default)
    if not isinstance(value, int):
        raise corrupt(f"its tag {tag} is not an integer")
    return value


def _tag_numbers(image: TiffImageFile, tag: int) -> Sequence[int]:
    with reading_the_file():
        values = image.tag_v2.get(tag, ())
    if not isinstance(values, tuple | bytes) or not all(isinstance(value, int) for value in values):
        raise corrupt(f"its tag {tag} is not a list of integers")
    return values
