"""Refuses JPEG files of unsupported variants."""

import re

from imagesearch_pixels.guards import UnsupportedImageError

SIGNATURE = b"\xff\xd8\xff"
JPEG_LS = 0xF7
# Frame markers of hierarchical JPEG.
HIERARCHICAL = {0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF}
FRAMES = {*range(0xC0, 0xD0), JPEG_LS} - {0xC4, 0xC8, 0xCC}
START_OF_SCAN, START_OF_IMAGE = 0xDA, 0xD8
# Maximum number of segments that are read. Files with more segments in the header are refused elsewhere.
MAX_SEGMENTS = 5000
SEGMENT = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")


def check(content: bytes) -> None:
    """Raise UnsupportedImageError for a valid file with an unsupported process, precision or number of components."""
    if not content.startswith(SIGNATURE):
        return
    frame = _frame_of(content)
    if frame is None:
        return
    marker, precision, components = frame
    if marker == JPEG_LS:
        raise UnsupportedImageError("it is a JPEG-LS file, which is not supported")
    if marker in HIERARCHICAL:
        raise UnsupportedImageError(f"it is a hierarchical JPEG (SOF{marker - 0xC0}), which is not supported")
    if precision != 8 and 2 <= precision <= 16:
        raise UnsupportedImageError(f"it is a JPEG with samples of {precision} bits; only 8 are supported")
    if components == 2:
        raise UnsupportedImageError("it is a JPEG with 2 components; only 1, 3 and 4 are supported")


def _frame_of(content: bytes) -> tuple[int, int, int] | None:
    """Return the marker, the precision and the number of components of the frame; None if there is no frame."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        found = SEGMENT.search(content, at)
        if found is None or found[1][0] == START_OF_SCAN:
            return None
        marker, at = found[1][0], found.end()
        if marker in FRAMES:
            return (marker, content[at + 2], content[at + 7]) if at + 8 <= len(content) else None
        if marker != START_OF_IMAGE:
            at += max(2, int.from_bytes(content[at : at + 2]))
    return None
