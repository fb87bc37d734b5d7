"""Fills the pixels that the first frame of a GIF file does not cover."""

from PIL import Image

WHITE = (255, 255, 255)
HAS_PALETTE = 0x80


def background_of(content: bytes) -> tuple[int, int, int]:
    """Return the background colour.

    It is an entry of the global palette (GIF89a, section 18). Without such a palette it is white.
    """
    flags, index = content[10:12]
    start = 13 + 3 * index
    colour = content[start : start + 3]
    if not flags & HAS_PALETTE or index >= 2 << (flags & 7) or len(colour) < 3:
        return WHITE
    return colour[0], colour[1], colour[2]


def on_background(frame: Image.Image, box: tuple[int, int, int, int], content: bytes) -> Image.Image:
    """Return a frame, which covers `box`, on the background in RGB."""
    canvas = Image.new("RGB", frame.size, background_of(content))
    canvas.paste(frame.crop(box), box)
    canvas.info = dict(frame.info)
    return canvas
