"""Estimates from its headers the memory and the work to decode an image, and refuses images that cost too much.

A file of some kilobytes can make a decoder process its pixels many times. Such files are refused, so that no image
takes much longer than an ordinary image of the largest size.
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

from embedder_service.core.batching import TimeLeft, out_of_time
from embedder_service.core.decoding_faults import corrupt, reading_the_file, too_costly
from imagesearch_pixels.image_boxes import Coded
from imagesearch_pixels.picture_parts import (
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
# Reads of a file, which Pillow does one by one in Python. For a JPEG file it joins some pieces again with each read. In
# a BMP file with runs each run takes two reads.
MAX_READS = 500_000
MAX_READS_OF = {JPEG_SIGNATURE: 5_000, BMP_SIGNATURE: 1_500_000}
# Bytes of a JPEG file's header that belong to no segment; Pillow reads them one by one.
MAX_RUBBISH = 100_000
# Pixels of a side. Pillow keeps a pointer for each row, and its filter keeps numbers for each row and column. In an
# image of one column these take far more memory than the pixels.
MAX_SIDE = 1_000_000
# A BMP file with runs may have the largest image's pixels divided by this: Pillow decodes runs in Python.
RUNS_SHARE = 4
# A read of this many bytes or more reads pixels.
LARGE_READ = 4096
# Smaller reads check the clock only this often.
LOOK_EVERY = 64
# The strips or tiles of a TIFF file, or the coded images of an AVIF or HEIC file, together may have the largest image's
# pixels times this.
MAX_OVERLAP = 2

SCAN = bytes([0xFF, START_OF_SCAN])
# Markers that no header may have; libjpeg ends at them.
UNKNOWN = {0xC8, START_OF_IMAGE, *range(0xF0, 0xFE)}
# The frames of lossless JPEG, which cannot be scaled while they are decoded.
LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}

# Values of TIFF tags: planes that are stored one after the other; one strip for all rows; most rows for the decoder.
SEPARATE, ALL_ROWS, MAX_ROWS = 2, 2**32 - 1, 2**31 - 1
# Tags of further directories that Pillow reads: EXIF, GPS and interoperability, which is inside EXIF.
DIRECTORIES, MAX_DEPTH = set(TiffTags.TAGS_V2_GROUPS), 2
# Bytes and texts. Pillow keeps them as they are, and turns all other types into Python numbers.
TIFF_BYTES = {1, 2, 6, 7}


class CountedFile(BytesIO):
    """An image's bytes for Pillow, with limits on the reads and the caller's deadline."""

    def __init__(self, content: bytes, patience: TimeLeft) -> None:
        """A `patience` that is already over is ignored: then no caller waits."""
        super().__init__(content)
        self._reads = self._rubbish = 0
        self._is_jpeg = content.startswith(JPEG_SIGNATURE)
        self._most = next((most for begin, most in MAX_READS_OF.items() if content.startswith(begin)), MAX_READS)
        self._patience = patience if patience.remaining() > 0 else None

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes. Raises InvalidArgumentError after too many reads, and DeadlineExceededError."""
        self._reads += 1
        self._rubbish += self._is_jpeg and size == 1
        is_small = size is not None and 0 <= size < LARGE_READ
        if not is_small or self._reads % LOOK_EVERY == 0:
            self._check()
        return super().read(size)

    def _check(self) -> None:
        if self._rubbish > MAX_RUBBISH:
            raise corrupt(f"it has more than {MAX_RUBBISH} bytes between the segments of its header")
        if self._reads - self._rubbish > self._most:
            raise too_costly(f"it is read in more than {self._most} parts")
        if self._patience is not None and self._patience.remaining() <= 0:
            raise out_of_time()


def check_header(content: bytes) -> None:
    """Refuse a file with a costly header: Pillow makes objects of it before the size of the image is known."""
    if content.startswith(JPEG_SIGNATURE):
        _check_segments(content)
    elif layout := TiffLayout.of(content):
        _check_directories(content, layout.start, layout.number, layout.entry)


def _check_segments(content: bytes) -> None:
    """Refuse too many segments, and markers that libjpeg does not accept."""
    for segments, (marker, _) in enumerate(jpeg_markers(content, 2, len(content))):
        if marker == START_OF_SCAN:
            return
        if segments >= MAX_READS_OF[JPEG_SIGNATURE]:
            raise too_costly(f"its header has more than {segments} segments")
        if marker in UNKNOWN:
            raise corrupt(f"its header has the marker {marker:02X}")


def _check_directories(content: bytes, start: int, number: struct.Struct, entry: struct.Struct) -> None:
    """Refuse an entry of too many numbers in a directory of a TIFF file, and in the directories that it refers to.

    Directories may refer to themselves and to each other, so each is read once, at its least depth.
    """
    seen: set[int] = set()
    waiting, entries = deque([(start, 0)]), 0
    while waiting:
        start, depth = waiting.popleft()
        if start in seen or start + number.size > len(content):
            continue
        seen.add(start)
        at = start + number.size
        here = min(number.unpack_from(content, start)[0], (len(content) - at) // entry.size)
        entries += here
        if entries > MAX_PARTS:
            raise too_costly(f"its directories have more than {MAX_PARTS} entries")
        for tag, kind, count, value in entry.iter_unpack(content[at : at + here * entry.size]):
            # Pillow skips an entry that is larger than the file.
            if MAX_PARTS < count <= len(content) and kind not in TIFF_BYTES:
                raise too_costly(f"tag {tag} has {count} numbers; at most {MAX_PARTS} are taken")
            if tag in DIRECTORIES and depth < MAX_DEPTH:
                waiting.append((value, depth + 1))


def check_cost(image: Image.Image, content: bytes, most: int) -> None:
    """Refuse an opened image whose pixels would be decoded many times. `most` is the limit in pixels."""
    if max(image.size) > MAX_SIDE:
        raise too_costly(f"a side has {max(image.size)} pixels; at most {MAX_SIDE} are taken")
    if content.startswith(JPEG_SIGNATURE):
        _check_scans(image.width * image.height, _count_scans(content, 0, len(content)), most)
    if isinstance(image, TiffImageFile):
        _check_parts(image, content, most)
    if _is_in_runs(image) and image.width * image.height > most // RUNS_SHARE:
        raise too_costly(f"it is a BMP with runs of more than {most // RUNS_SHARE} pixels")


def check_sum(images: Sequence[Coded], most: int) -> None:
    """Refuse an image that is made of far more pixels than an image may have."""
    if sum(image.width * image.height for image in images) > MAX_OVERLAP * most:
        raise too_costly(f"it is made of {len(images)} coded images with too many pixels together")


def _is_in_runs(image: Image.Image) -> bool:
    return isinstance(image, BmpImageFile) and any(tile.codec_name == "bmp_rle" for tile in image.tile)


def is_scalable(image: Image.Image, content: bytes) -> bool:
    """Return whether an image can be scaled while it is decoded."""
    return image.format in {"JPEG", "MPO"} and _first_scan(content)[0] not in LOSSLESS


def charge(image: Image.Image, content: bytes, scale: int) -> int:
    """Return the number of pixels in memory while an image is decoded at 1 / scale of its size.

    libjpeg keeps the coefficients of the whole JPEG, unless its first scan has all components.
    """
    pixels = image.width * image.height
    if scale == 1:
        return pixels
    _, components = _first_scan(content)
    kept_whole = image.info.get("progressive") or components < len(image.getbands())
    return pixels * scale * scale if kept_whole else pixels


def _first_scan(content: bytes) -> tuple[int, int]:
    """Return a JPEG stream's frame marker, and the number of components in its first scan; zeros without a scan."""
    frame = 0
    for marker, at in jpeg_markers(content, 0, len(content)):
        if marker in FRAMES:
            frame = marker
        if marker == START_OF_SCAN:
            return frame, content[at + 2] if at + 2 < len(content) else 0
    return 0, 0


def _count_scans(content: bytes, at: int, end: int) -> int:
    """Return the number of scans of a JPEG stream, or a larger number that is within the limit."""
    # Much faster, and never too low.
    if (at_most := content.count(SCAN, at, end)) <= MAX_SCANS_OF_LARGEST:
        return at_most
    scans = 0
    for parts, (marker, _) in enumerate(jpeg_markers(content, at, end)):
        scans += marker == START_OF_SCAN
        if parts >= MAX_PARTS:
            raise too_costly(f"it has more than {MAX_PARTS} parts")
        if scans > MAX_SCANS:
            break
    return scans


def _check_scans(pixels: int, scans: int, most: int) -> None:
    allowed = min(MAX_SCANS, MAX_SCANS_OF_LARGEST * most // max(1, pixels))
    if scans > allowed:
        raise too_costly(f"it is a JPEG of more than {allowed} scans, the most for {pixels} pixels")


def _check_parts(image: TiffImageFile, content: bytes, most: int) -> None:
    """Refuse too many strips or tiles, or strips or tiles with far more pixels together than an image may have."""
    width, height = tag_number(image, IMAGEWIDTH, 1), tag_number(image, IMAGELENGTH, 1)
    planes = tag_number(image, SAMPLESPERPIXEL, 1) if tag_number(image, PLANAR_CONFIGURATION, 1) == SEPARATE else 1
    columns, rows = tag_number(image, TILEWIDTH, 0), tag_number(image, TILELENGTH, 0)
    if columns <= 0 or rows <= 0:
        rows = tag_number(image, ROWSPERSTRIP, ALL_ROWS)
        if MAX_ROWS < rows != ALL_ROWS:
            # The decoder would report a lack of memory.
            raise corrupt(f"it has {rows} rows in a strip")
        columns, rows = width, min(height, rows) if rows > 0 else height
    # The decoder ends at the first strip or tile without an offset.
    offsets = _tag_numbers(image, TILEOFFSETS) or _tag_numbers(image, STRIPOFFSETS)
    parts = min(math.ceil(width / columns) * math.ceil(height / rows) * planes, len(offsets))
    drawn = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (tile.extents for tile in image.tile if tile.extents))
    if parts > MAX_PARTS or max(parts * columns * rows, drawn) > MAX_OVERLAP * most * planes:
        raise too_costly(f"it is a TIFF of {parts} strips or tiles of {columns} x {rows} pixels")
    if image.info.get("compression") == "jpeg":
        _check_scans_of_parts(image, content, parts, columns * rows, most)


def _check_scans_of_parts(image: TiffImageFile, content: bytes, parts: int, pixels: int, most: int) -> None:
    """Refuse strips or tiles that are JPEG streams of too many scans."""
    # Parts may share their bytes.
    if content.count(SCAN) * parts * pixels <= MAX_SCANS_OF_LARGEST * most:
        return
    tags = (TILEOFFSETS, TILEBYTECOUNTS) if TILEOFFSETS in image.tag_v2 else (STRIPOFFSETS, STRIPBYTECOUNTS)
    offsets, sizes = (_tag_numbers(image, tag) for tag in tags)
    if sum(sizes) > MAX_OVERLAP * len(content):
        raise too_costly("its strips or tiles share their bytes")
    scans = [_count_scans(content, at, at + size) for at, size in zip(offsets, sizes, strict=False)]
    if max(scans, default=0) > MAX_SCANS or sum(scans) * pixels > MAX_SCANS_OF_LARGEST * most:
        raise too_costly("its strips or tiles are JPEG streams of too many scans")


def tag_number(image: TiffImageFile, tag: int, default: int) -> int:
    """Return the value of a TIFF tag. Raises InvalidArgumentError if it is no number."""
    with reading_the_file():
        value = image.tag_v2.get(tag, default)
    if not isinstance(value, int):
        raise corrupt(f"its tag {tag} is no number")
    return value


def _tag_numbers(image: TiffImageFile, tag: int) -> Sequence[int]:
    with reading_the_file():
        values = image.tag_v2.get(tag, ())
    if not isinstance(values, tuple | bytes) or not all(isinstance(value, int) for value in values):
        raise corrupt(f"its tag {tag} is no list of numbers")
    return values
