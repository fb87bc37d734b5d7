"""A small file of each format, colour type and bit depth, with its pixels or the reason of its refusal."""

import struct
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.unit.embedder.crafted_files import gif_frame, lossless_jpeg, png_chunk, segment
from tests.unit.embedder.crafted_samples import (
    BI_ALPHABITFIELDS,
    BI_BITFIELDS,
    BI_JPEG,
    BLACK_IS_ZERO,
    CIELAB,
    CMYK,
    DEFLATE,
    FLOAT,
    ICCLAB,
    LOGL,
    MASK,
    PALETTE,
    SIGNED,
    UNCOMPRESSED,
    WHITE_IS_ZERO,
    YCBCR,
    bmp,
    packed,
    png,
    tiff,
    transparent,
)
from tests.unit.embedder.crafted_samples import RGB as TIFF_RGB
from tests.unit.embedder.test_image_decoding import ALPHA, GREY, HEIGHT, RGB, WIDTH, encode, over_white

Picture = NDArray[Any]


@dataclass(frozen=True)
class Shown:
    """A file, what it shows, and how far a value may be off."""

    content: bytes
    picture: Picture
    tolerance: int = 1
    differs: str = ""
    """Why libvips shows something else, by the specification; empty if it does not."""


def scaled(picture: Picture, depth: int) -> Picture:
    """Samples of a depth for a picture of 0..255."""
    samples: Picture = np.round(picture / 255.0 * (2**depth - 1)).astype(np.uint64)
    return samples


def visible(samples: Picture, depth: int) -> Picture:
    picture: Picture = np.floor(samples / (2**depth - 1) * 255).astype(np.uint8)
    return picture


def white_where(mask: Picture, picture: Picture) -> Picture:
    return np.where(mask if picture.ndim == mask.ndim else mask[..., None], 255, picture).astype(np.uint8)


SHOWN: dict[str, Shown] = {}
REFUSED: dict[str, tuple[bytes, str]] = {}
HIGH_BITS = 0xFF00

# --- PNG: the third edition of the specification; 11.3.1.1 is on transparency.

for depth, interlaced in product((1, 2, 4, 8, 16), (False, True)):
    grey = scaled(GREY, depth)
    name = f"PNG, grey of {depth} bits{', interlaced' * interlaced}"
    SHOWN[name] = Shown(png(grey, depth, 0, interlaced=interlaced), visible(grey, depth))
    for clear in sorted({0, int(grey[3, 20]), 2**depth - 1}):
        SHOWN[f"{name}, {clear} transparent"] = Shown(
            png(grey, depth, 0, transparent(clear), interlaced=interlaced),
            white_where(grey == clear, visible(grey, depth)),
        )
for depth in (1, 2, 4, 8):
    grey, clear = scaled(GREY, depth), 2 ** (depth - 1)
    SHOWN[f"PNG, grey of {depth} bits, bits of the transparent sample that do not count"] = Shown(
        png(grey, depth, 0, transparent(HIGH_BITS | clear)),
        white_where(grey == clear, visible(grey, depth)),
    )
NEAR = np.full((HEIGHT, WIDTH, 3), (0x1234, 0x5678, 0x9ABC), np.uint64)
NEAR[:, WIDTH // 2 :, 1] += 1
NEAR_GREY = np.full((HEIGHT, WIDTH), 0x1234, np.uint64)
NEAR_GREY[:, WIDTH // 2 :] += 1
for depth, interlaced in product((8, 16), (False, True)):
    colours = scaled(RGB, depth)
    name = f"PNG, colours of {depth} bits{', interlaced' * interlaced}"
    clear = tuple(int(sample) for sample in colours[9, 9])
    SHOWN[name] = Shown(png(colours, depth, 2, interlaced=interlaced), RGB)
    SHOWN[f"{name}, one transparent"] = Shown(
        png(colours, depth, 2, transparent(*clear), interlaced=interlaced),
        white_where((colours == clear).all(axis=2), RGB),
    )
    for colour_type, raw, picture in (
        (4, np.stack([GREY, ALPHA], axis=2), over_white(GREY, ALPHA)),
        (6, np.dstack([RGB, ALPHA]), over_white(RGB, ALPHA)),
    ):
        content = png(scaled(raw, depth), depth, colour_type, interlaced=interlaced)
        SHOWN[f"{name}, type {colour_type} with alpha"] = Shown(content, picture, 2)
SHOWN["PNG, colours of 16 bits, only one exact sample transparent"] = Shown(
    png(NEAR, 16, 2, transparent(0x1234, 0x5678, 0x9ABC)),
    white_where((NEAR[0, 0] == NEAR).all(axis=2), (NEAR >> 8).astype(np.uint8)),
)
SHOWN["PNG, grey of 16 bits, only one exact sample transparent"] = Shown(
    png(NEAR_GREY, 16, 0, transparent(0x1234)), white_where(NEAR_GREY == 0x1234, (NEAR_GREY >> 8).astype(np.uint8))
)
SHOWN["PNG, colours of 8 bits, bits of the transparent sample that do not count"] = Shown(
    png(RGB, 8, 2, transparent(*(HIGH_BITS | int(sample) for sample in RGB[9, 9]))),
    white_where((RGB[9, 9] == RGB).all(axis=2), RGB),
)
for depth in (1, 2, 4, 8):
    indices, entries = np.asarray(scaled(GREY, depth)), 2**depth
    colours = np.random.default_rng(depth).integers(0, 256, (entries, 3), np.uint8)
    for name, alpha in (
        ("opaque", np.full(entries, 255)),
        ("one transparent", np.where(np.arange(entries) == 1, 0, 255)),
        ("translucent", np.linspace(0, 255, entries).astype(int)),
    ):
        chunks = [png_chunk(b"PLTE", colours.tobytes()), png_chunk(b"tRNS", bytes(alpha.tolist()))]
        SHOWN[f"PNG, palette of {depth} bits, {name}"] = Shown(
            png(indices, depth, 3, *chunks), over_white(colours[indices], alpha[indices])
        )
SHOWN["PNG with texts named like Pillow's own facts"] = Shown(
    png(RGB, 8, 2, *(png_chunk(b"tEXt", key + b"\x00no") for key in (b"transparency", b"icc_profile", b"gamma"))), RGB
)
REFUSED["PNG in Apple's variant"] = (
    png(RGB, 8, 2).replace(b"\x00\x00\x00\rIHDR", png_chunk(b"CgBI", bytes(4)) + b"\x00\x00\x00\rIHDR"),
    "CgBI",
)

# --- TIFF 6.0

ORDERS = {"<": "II", ">": "MM"}
COMPRESSIONS = {UNCOMPRESSED: "", DEFLATE: ", deflate"}
VIPS_DEPTHS = {1, 2, 4, 8, 16}
for depth, order, compression in product((1, 2, 4, 8, 10, 12, 14, 16, 32), ORDERS, COMPRESSIONS):
    samples = scaled(GREY, depth)
    for photometric, raw in ((BLACK_IS_ZERO, samples), (WHITE_IS_ZERO, (2**depth - 1) - samples)):
        kind = "WhiteIsZero" if photometric == WHITE_IS_ZERO else "BlackIsZero"
        name = f"TIFF {ORDERS[order]}, {kind} of {depth} bits{COMPRESSIONS[compression]}"
        content = tiff(raw, depth, photometric, order=order, compression=compression)
        if depth in {10, 14}:
            REFUSED[name] = (content, f"{kind}, BitsPerSample {depth}")
        else:
            why = "libvips takes neither 12 nor 32 bits for a picture" if depth not in VIPS_DEPTHS else ""
            SHOWN[name] = Shown(content, visible(samples, depth), differs=why)
        if depth <= 8:
            content = tiff(raw, depth, photometric, order=order, compression=compression, reversed_bits=True)
            SHOWN[f"{name}, FillOrder 2"] = Shown(content, visible(samples, depth))
for order, compression in product(ORDERS, COMPRESSIONS):
    options: dict[str, Any] = {"order": order, "compression": compression}
    name = f"TIFF {ORDERS[order]}{COMPRESSIONS[compression]}, "
    for photometric, most in product((BLACK_IS_ZERO, WHITE_IS_ZERO), (1, 255, 65535)):
        floats = (255.0 - GREY if photometric == WHITE_IS_ZERO else GREY) / 255.0 * most
        SHOWN[f"{name}floats of 0..{most}, photometric {photometric}"] = Shown(
            tiff(floats, 32, photometric, sample_format=FLOAT, **options),
            GREY,
            differs=""
            if (photometric, most) == (BLACK_IS_ZERO, 255)
            else "no specification states the range of floats; libvips takes 0..255, and most files hold 0..1",
        )
    highlights = GREY / 255.0
    highlights[:2] = 7.5
    SHOWN[f"{name}floats of 0..1 with highlights"] = Shown(
        tiff(highlights, 32, BLACK_IS_ZERO, sample_format=FLOAT, **options),
        np.where(highlights > 1, 255, GREY),
        differs="as above",
    )
    REFUSED[f"{name}floats without a range"] = (
        tiff(GREY * 1e6, 32, BLACK_IS_ZERO, sample_format=FLOAT, **options),
        "floating-point samples reach",
    )
    SHOWN[f"{name}32 bits that hold 16"] = Shown(
        tiff(GREY.astype(np.int64) * 257, 32, BLACK_IS_ZERO, sample_format=SIGNED, **options),
        GREY,
        differs="signed samples have no white; programs store 16 bits in them",
    )
    for depth in (8, 16):
        content = tiff(GREY.astype(np.int64) // 2, depth, BLACK_IS_ZERO, sample_format=SIGNED, **options)
        REFUSED[f"{name}signed {depth} bits"] = (content, f"BitsPerSample {depth}, SampleFormat signed")
    REFUSED[f"{name}floats of 16 bits"] = (
        tiff(GREY / 255.0, 16, BLACK_IS_ZERO, sample_format=FLOAT, **options),
        "BitsPerSample 16, SampleFormat floating point",
    )
    for kind, photometric in {"TransparencyMask": MASK, "ICCLab": ICCLAB, "LogL": LOGL}.items():
        channels = RGB if photometric == ICCLAB else scaled(GREY, 1)
        content = tiff(channels, 8 if photometric == ICCLAB else 1, photometric, **options)
        REFUSED[f"{name}{kind}"] = (content, f"PhotometricInterpretation {kind}")

YCBCR_ONLY_IN_JPEG = (
    "libvips converts YCbCr only if it is compressed as JPEG; TIFF 6.0, section 21, does not ask for that"
)
ASSOCIATED = np.round(RGB * (ALPHA[..., None] / 255.0)).astype(np.uint8)
ASSOCIATED_GREY = np.round(GREY * (ALPHA / 255.0)).astype(np.uint8)
INKS = np.dstack([255 - RGB, np.zeros_like(ALPHA)])
for depth, order, compression, planar in product((8, 16), ORDERS, COMPRESSIONS, (False, True)):
    options = {"order": order, "compression": compression, "planar": planar}
    name = f"TIFF {ORDERS[order]} of {depth} bits{', planes' * planar}{COMPRESSIONS[compression]}, "
    is_raw_in_planes = planar and compression == UNCOMPRESSED
    SHOWN[f"{name}RGB"] = Shown(tiff(scaled(RGB, depth), depth, TIFF_RGB, **options), RGB)
    for kind, extra, raw, picture in (
        ("unassociated alpha", 2, RGB, over_white(RGB, ALPHA)),
        ("associated alpha", 1, ASSOCIATED, over_white(RGB, ALPHA)),
        ("unspecified", 0, RGB, RGB),
    ):
        content = tiff(scaled(np.dstack([raw, ALPHA]), depth), depth, TIFF_RGB, extra=(extra,), **options)
        if is_raw_in_planes and extra == 0:
            REFUSED[f"{name}RGB and {kind}"] = (content, "ExtraSamples 0: its planes are separate")
        else:
            why = "libvips takes any fourth sample for alpha; TIFF 6.0: 'unspecified data'" if extra == 0 else ""
            SHOWN[f"{name}RGB and {kind}"] = Shown(content, picture, 2, differs=why)
    for kind, extra, raw, picture in (
        ("unassociated alpha", 2, GREY, over_white(GREY, ALPHA)),
        ("associated alpha", 1, ASSOCIATED_GREY, over_white(GREY, ALPHA)),
    ):
        content = tiff(scaled(np.dstack([raw, ALPHA]), depth), depth, BLACK_IS_ZERO, extra=(extra,), **options)
        if depth == 8 and not planar:
            SHOWN[f"{name}grey and {kind}"] = Shown(content, picture, 2)
        else:
            REFUSED[f"{name}grey and {kind}"] = (content, f"ExtraSamples {extra}")
    SHOWN[f"{name}CMYK"] = Shown(
        tiff(scaled(INKS, depth), depth, CMYK, **options), RGB, 2, differs="libvips converts by a profile of its own"
    )
    REFUSED[f"{name}other inks"] = (
        tiff(scaled(INKS, depth), depth, CMYK, tags={332: 2}, **options),
        "its inks are not",
    )
    REFUSED[f"{name}CMYK and alpha"] = (
        tiff(scaled(np.dstack([INKS, ALPHA]), depth), depth, CMYK, extra=(2,), **options),
        "PhotometricInterpretation Separated",
    )
for order, compression in product(ORDERS, COMPRESSIONS):
    options = {"order": order, "compression": compression}
    name = f"TIFF {ORDERS[order]}{COMPRESSIONS[compression]}, "
    chroma = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
    SHOWN[f"{name}YCbCr"] = Shown(
        tiff(chroma, 8, YCBCR, tags={530: (1, 1)}, **options), RGB, 3, differs=YCBCR_ONLY_IN_JPEG
    )
    SHOWN[f"{name}no alpha declared, and all of it zero"] = Shown(
        tiff(np.dstack([RGB, ALPHA * 0]), 8, TIFF_RGB, **options),
        RGB,
        differs="libvips takes a fourth sample for alpha",
    )
    for depth, wide in product((1, 2, 4, 8), (True, False)):
        indices = np.asarray(scaled(GREY, depth))
        colours = np.random.default_rng(depth).integers(0, 256, (2**depth, 3), np.uint8)
        colour_map = tuple(int(value) * (257 if wide else 1) for value in colours.T.ravel())
        SHOWN[f"{name}palette of {depth} bits, map of {16 if wide else 8}"] = Shown(
            tiff(indices, depth, PALETTE, tags={320: colour_map}, **options), colours[indices]
        )
chroma = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
for kind, tags in {
    "two by two pixels for each chroma sample": {},
    "another range": {530: (1, 1), 532: (15, 235, 128, 240, 128, 240)},
}.items():
    REFUSED[f"TIFF, uncompressed YCbCr, {kind}"] = (
        tiff(chroma, 8, YCBCR, tags=tags),
        "PhotometricInterpretation YCbCr",
    )
for compression, planar in product(COMPRESSIONS, (False, True)):
    options = {"compression": compression, "planar": planar}
    for kind, kinds, raw, picture in (
        ("unassociated alpha and another", (2, 0), np.dstack([RGB, ALPHA, GREY]), over_white(RGB, ALPHA)),
        ("associated alpha and another", (1, 0), np.dstack([ASSOCIATED, ALPHA, GREY]), over_white(RGB, ALPHA)),
        ("two others", (0, 0), np.dstack([RGB, ALPHA, GREY]), RGB),
        ("another and alpha", (0, 2), np.dstack([RGB, GREY, ALPHA]), RGB),
    ):
        name = f"TIFF, RGB and {kind}{', planes' * planar}{COMPRESSIONS[compression]}"
        content = tiff(raw, 8, TIFF_RGB, extra=kinds, **options)
        is_taken = kinds != (0, 2) if not planar else compression == DEFLATE and kinds == (0, 0)
        if not is_taken:
            REFUSED[name] = (content, f"ExtraSamples {kinds[0]},{kinds[1]}")
        else:
            why = "libvips takes the last sample for alpha, whatever the file declares"
            SHOWN[name] = Shown(content, picture, 2, differs=why)
    for depth in (4, 12):
        content = tiff(scaled(RGB, depth), depth, TIFF_RGB, **options)
        REFUSED[f"TIFF, RGB of {depth} bits, planar {planar}, compression {compression}"] = (
            content,
            f"{depth},{depth}",
        )
colours = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
colour_map = tuple(int(value) * 257 for value in colours.T.ravel())
for extra, picture in ((2, over_white(colours[GREY], ALPHA)), (0, colours[GREY])):
    SHOWN[f"TIFF, palette and a sample of the kind {extra}"] = Shown(
        tiff(np.dstack([GREY, ALPHA]), 8, PALETTE, extra=(extra,), tags={320: colour_map}),
        picture,
        differs="" if extra else "libvips takes the further sample for alpha",
    )
for photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO):
    declared = struct.pack("<HHII", 262, 3, 1, photometric)
    content = tiff(GREY, 8, photometric).replace(declared, struct.pack("<HHII", 263, 3, 1, 1))
    REFUSED[f"TIFF, nothing declared in the place of {photometric}"] = (content, "without PhotometricInterpretation")
FAX = encode(Image.fromarray(GREY).convert("1"), "TIFF", compression="group4")
SHOWN["TIFF, a fax without PhotometricInterpretation"] = Shown(
    FAX.replace(struct.pack("<HHII", 262, 3, 1, 1), struct.pack("<HHII", 263, 3, 1, 1)),
    255 - np.asarray(Image.fromarray(GREY).convert("1")) * 255,
    differs="libvips takes zero for black; for libtiff the zero of a fax is white, as in ITU-T T.4",
)
for most in (1_000_000, 2**31 - 1):
    content = tiff((GREY / 255.0 * most).astype(np.int64), 32, BLACK_IS_ZERO, sample_format=SIGNED)
    REFUSED[f"TIFF, signed samples up to {most}"] = (content, "its signed samples range from 0 to")
REFUSED["TIFF, compressed as WebP"] = (tiff(RGB, 8, TIFF_RGB, compression=50001), "Compression WebP")
REFUSED["TIFF, a compression of its own"] = (tiff(GREY, 8, BLACK_IS_ZERO, compression=34712), "Compression 34712")
REFUSED["TIFF, planes of Lab"] = (tiff(RGB, 8, CIELAB, planar=True), "PhotometricInterpretation CIELab")

# --- BMP

MASKS_ALPHA = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
BGRA = np.dstack([RGB[..., ::-1], ALPHA])
BGR0 = np.dstack([RGB[..., ::-1], ALPHA * 0])


def rows(samples: Picture, depth: int) -> list[bytes]:
    return [packed(row.ravel(), depth, "<", 1) for row in samples]


for header in (56, 108, 124):
    options = {"compression": BI_BITFIELDS, "masks": MASKS_ALPHA, "header": header}
    SHOWN[f"BMP, header of {header}, alpha"] = Shown(
        bmp(rows(BGRA, 8), WIDTH, 32, **options), over_white(RGB, ALPHA), 2
    )
    SHOWN[f"BMP, header of {header}, alpha that is all zero"] = Shown(bmp(rows(BGR0, 8), WIDTH, 32, **options), RGB, 0)
SHOWN["BMP of 32 bits whose fourth byte is reserved"] = Shown(bmp(rows(BGRA, 8), WIDTH, 32), RGB, 0)
SHOWN["BMP of 32 bits whose fourth byte is zero"] = Shown(bmp(rows(BGR0, 8), WIDTH, 32), RGB, 0)
for green, masks in ((5, ()), (5, (0x7C00, 0x3E0, 0x1F)), (6, (0xF800, 0x7E0, 0x1F))):
    red, blue = scaled(RGB[..., 0], 5), scaled(RGB[..., 2], 5)
    words = (red << (5 + green)) | (scaled(RGB[..., 1], green) << 5) | blue
    picture = np.dstack([visible(red, 5), visible(scaled(RGB[..., 1], green), green), visible(blue, 5)])
    options = {"compression": BI_BITFIELDS, "masks": masks} if masks else {}
    SHOWN[f"BMP of 16 bits, {green} of green, {len(masks)} masks"] = Shown(
        bmp(rows(words, 16), WIDTH, 16, **options), picture
    )
GREYS = {"black and white": [0, 255], "white and black": [255, 0], "black alone": [0], "steps": range(16)}
for depth, (name, greys) in product((1, 4, 8), GREYS.items()):
    if len(greys) > 2**depth:
        continue
    indices = np.asarray(GREY.astype(int) * len(greys) // 256)
    palette = [(value, value, value) for value in greys]
    picture = np.array(list(greys), np.uint8)[indices]
    SHOWN[f"BMP of {depth} bits, palette of {name}"] = Shown(
        bmp(rows(indices, depth), WIDTH, depth, palette=palette), picture, 0
    )
REFUSED["BMP of 2 bits"] = (bmp(rows(scaled(GREY, 2), 2), WIDTH, 2, palette=[(0, 0, 0)] * 4), "BMP of 2 bits")
REFUSED["BMP with a JPEG inside"] = (bmp(rows(RGB, 8), WIDTH, 24, compression=BI_JPEG), "compression JPEG")
REFUSED["BMP with masks of alpha behind a short header"] = (
    bmp(rows(BGRA, 8), WIDTH, 32, compression=BI_ALPHABITFIELDS, masks=MASKS_ALPHA),
    "compression ALPHABITFIELDS",
)
REFUSED["BMP with unusual masks"] = (
    bmp(rows(words, 16), WIDTH, 16, compression=BI_BITFIELDS, masks=(0xF000, 0xF00, 0xF0)),
    "masks 0000F000, 00000F00, 000000F0",
)

# --- JPEG, GIF, WebP

CMYK_JPEG = encode(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=100, subsampling=0)
ADOBE = CMYK_JPEG[CMYK_JPEG.index(b"\xff\xee") :][:16]
SHOWN["JPEG, CMYK of Adobe"] = Shown(CMYK_JPEG, RGB, 8, differs="libvips converts by a profile of its own")
SHOWN["JPEG, CMYK without Adobe's marker"] = Shown(
    encode(Image.fromarray(255 - INKS, "CMYK"), "JPEG", quality=100, subsampling=0).replace(ADOBE, b""),
    RGB,
    8,
    differs="libvips converts by a profile of its own",
)
RGB_JPEG = encode(Image.fromarray(RGB), "JPEG", quality=100, subsampling=0)
SHOWN["JPEG, RGB that is not YCbCr"] = Shown(
    encode(Image.fromarray(RGB), "JPEG", quality=100, subsampling=0, keep_rgb=True), RGB, 6
)
JPEG_FRAME = RGB_JPEG.index(b"\xff\xc0")
REFUSED["JPEG of 12 bits"] = (RGB_JPEG[: JPEG_FRAME + 4] + b"\x0c" + RGB_JPEG[JPEG_FRAME + 5 :], "samples of 12 bits")
REFUSED["JPEG, hierarchical"] = (RGB_JPEG.replace(b"\xff\xc0", b"\xff\xc5", 1), "hierarchical JPEG (SOF5)")
REFUSED["JPEG of 2 components"] = (
    b"\xff\xd8" + segment(0xC0, struct.pack(">BHHB", 8, 8, 8, 2) + b"\x01\x11\x00\x02\x11\x00") + b"\xff\xd9",
    "2 components",
)
REFUSED["JPEG-LS"] = (b"\xff\xd8" + segment(0xF7, struct.pack(">BHHB", 8, 8, 8, 1) + b"\x01\x11\x00"), "JPEG-LS")
SHOWN["JPEG without loss"] = Shown(lossless_jpeg(32, 24), np.full((24, 32), 128))
SHOWN["WebP, translucent"] = Shown(
    encode(Image.fromarray(np.dstack([RGB, ALPHA])), "WEBP", lossless=True, exact=True), over_white(RGB, ALPHA), 2
)
WINDOW = np.zeros((8, 8, 3), np.uint8)
for index, background in enumerate([(0, 0, 255), (9, 200, 9)]):
    picture = np.full((8, 8, 3), background, np.uint8)
    picture[2:6, 1:5] = (0, 0, 255)
    SHOWN[f"GIF whose first frame leaves the background {index} free"] = Shown(
        gif_frame((1, 2), 4, [(0, 0, 255), (9, 200, 9)], background=index),
        picture,
        0,
        differs="libvips shows it transparent; GIF89a, 18: 'the color used for those pixels that are not covered'",
    )
    SHOWN[f"GIF of a transparent sample, background {index}"] = Shown(
        gif_frame((1, 2), 4, [(0, 0, 255), (9, 200, 9)], background=index, transparent=0), np.full((8, 8, 3), 255), 0
    )
