"""What a GIF file declares about pixels that its first frame does not cover."""

from PIL import Image

WHITE = (255, 255, 255)
HAS_PALETTE = 0x80


def background_of(content: bytes) -> tuple[int, int, int]:
    """Return the colour of pixels that no frame covers.

    GIF89a, section 18: it is an entry of the global palette; without one the background has no meaning, and is white.
    """
    flags, index = content[10:12]
    start = 13 + 3 * index
    colour = content[start : start + 3]
    if not flags & HAS_PALETTE or index >= 2 << (flags & 7) or len(colour) < 3:
        return WHITE
    return colour[0], colour[1], colour[2]


def on_background(frame: Image.Image, box: tuple[int, int, int, int], content: bytes) -> Image.Image:
    """Return a frame in RGB, which is at `box`, on the background."""
    canvas = Image.new("RGB", frame.size, background_of(content))
    canvas.paste(frame.crop(box), box)
    canvas.info = dict(frame.info)
    return canvas
