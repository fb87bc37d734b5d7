"""Reads from the boxes of an AVIF or HEIC file how many pixels its decoder decodes.

Such a file consists of boxes (ISO/IEC 14496-12, 23008-12). The size in its boxes may differ from the size of its coded
data: a grid may show one pixel of a large tile. A decoder allocates memory for the coded data. So the sizes are read
from the headers of the AV1 and HEVC streams of the first image.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from imagesearch_pixels.bit_reader import BitReader

AVIF_BRANDS = frozenset((b"avif", b"avis"))
HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
# Brands of both formats; the compatible brands distinguish them.
IMAGE_BRANDS = frozenset((b"mif1", b"msf1"))
# The nested boxes that contain the samples of a track.
TRACK = (b"mdia", b"minf", b"stbl")
# Maximum number of boxes, items and extents, and of units in a stream. One image has far fewer.
MAX_BOXES, MAX_UNITS = 100_000, 10_000
METADATA = (b"Exif", b"mime")
ALPHA = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1")
SEQUENCE_HEADER, PARAMETER_SET = 1, 33


@dataclass(frozen=True, slots=True)
class Coded:
    """The size of a coded image."""

    width: int
    height: int
    max_pixels: int
    """Pixels of the largest frame that its stream may contain."""


def brand_of(content: bytes) -> bytes:
    """Return the major brand of an AVIF or HEIC file, or the first compatible brand that distinguishes the formats.

    Return b"" for other files.
    """
    if content[4:8] != b"ftyp":
        return b""
    end = min(int.from_bytes(content[:4]), 512)
    brands = [content[8:12], *(content[at : at + 4] for at in range(16, end, 4))]
    known = AVIF_BRANDS | HEIC_BRANDS
    if brands[0] in IMAGE_BRANDS:
        return next((brand for brand in brands if brand in known), brands[0])
    return brands[0] if brands[0] in known else b""


def without_metadata_items(content: bytes) -> bytes:
    """Return an AVIF or HEIC file whose EXIF and XMP items have a kind that decoders ignore."""
    changed = bytearray(content)
    try:
        for kind, begin, end in _boxes(content, 0, len(content)):
            if kind == b"meta":
                for place in _Items.of(content, begin, end).metadata:
                    changed[place : place + 4] = b"skip"
    except (IndexError, struct.error):
        return content
    return bytes(changed)


def coded_images(content: bytes) -> list[Coded]:
    """Return the coded images of the first image of an AVIF or HEIC file, and of its transparency.

    The list is empty if the file is broken or has too many parts.
    """
    try:
        found: list[Coded] = []
        for kind, begin, end in _boxes(content, 0, len(content)):
            if kind == b"meta":
                found += _Items.of(content, begin, end).coded()
            if kind == b"moov":
                found += _of_tracks(content, begin, end)
    except (IndexError, struct.error):
        return []
    return found


def _boxes(content: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each box, and the begin and end of its content."""
    for _ in range(MAX_BOXES):
        if at + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", content, at)
        begin = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", content, begin)
            begin += 8
        last = end if size == 0 else min(at + size, end)
        if last < begin:
            return
        yield kind, begin, last
        at = last


def _inner(content: bytes, extent: tuple[int, int], kind: bytes) -> tuple[int, int]:
    """Return the extent of the content of the first box of a kind; an empty extent if there is none."""
    return next(((begin, end) for found, begin, end in _boxes(content, *extent) if found == kind), (0, 0))


def _number(content: bytes, at: int, size: int) -> int:
    return int.from_bytes(content[at : at + size])


@dataclass
class _Items:
    """The items of a meta box."""

    content: bytes
    primary: int = 0
    kinds: dict[int, bytes] = field(default_factory=dict)
    extents: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """Begins and ends of the data of an item."""
    parts: dict[int, list[int]] = field(default_factory=dict)
    """The items of which an item consists."""
    auxiliary: dict[int, list[int]] = field(default_factory=dict)
    """The auxiliary items of an item."""
    properties: dict[int, list[tuple[bytes, int, int]]] = field(default_factory=dict)

    metadata: list[int] = field(default_factory=list)
    """Positions of the kinds of metadata items."""

    @classmethod
    def of(cls, content: bytes, begin: int, end: int) -> "_Items":
        items = cls(content)
        meta = {kind: (first, last) for kind, first, last in _boxes(content, begin + 4, end)}
        if b"pitm" in meta:
            at = meta[b"pitm"][0]
            items.primary = _number(content, at + 4, 2 if content[at] == 0 else 4)
        if b"iinf" in meta:
            items._read_kinds(*meta[b"iinf"])
        if b"iloc" in meta:
            items._read_extents(*meta[b"iloc"], data=meta.get(b"idat", (0, 0))[0])
        if b"iref" in meta:
            items._read_references(*meta[b"iref"])
        if b"iprp" in meta:
            items._read_properties(meta[b"iprp"])
        return items

    def coded(self) -> list[Coded]:
        """Return the coded images of the primary item, of its parts and of their transparency."""
        pending, seen, found = [self.primary], set[int](), list[Coded]()
        read = 0
        while pending:
            item = pending.pop()
            if item in seen:
                continue
            seen.add(item)
            pending += self.parts.get(item, [])
            pending += [other for other in self.auxiliary.get(item, []) if self._is_alpha(other)]
            extents = self.extents.get(item, [])
            # Images do not share bytes. Shared bytes could multiply the data.
            read += sum(end - begin for begin, end in extents)
            if read > len(self.content):
                raise IndexError("its items have more bytes than the file")
            data = b"".join(self.content[begin:end] for begin, end in extents)
            if self.kinds.get(item) == b"av01":
                found += _av1_sizes(data)
            elif self.kinds.get(item) in {b"hvc1", b"hev1"}:
                found += _hevc_sizes(data, self._configuration(item))
        return found

    def _is_alpha(self, item: int) -> bool:
        return any(
            kind == b"auxC" and self.content.startswith(ALPHA, begin + 4)
            for kind, begin, _ in self.properties.get(item, [])
        )

    def _configuration(self, item: int) -> bytes:
        of_item = self.properties.get(item, [])
        return next((self.content[begin:end] for kind, begin, end in of_item if kind == b"hvcC"), b"")

    def _read_kinds(self, begin: int, end: int) -> None:
        for kind, at, _ in _boxes(self.content, begin + (6 if self.content[begin] == 0 else 8), end):
            version = self.content[at]
            if kind == b"infe" and version >= 2:
                size = 2 if version == 2 else 4
                place = at + 6 + size
                self.kinds[_number(self.content, at + 4, size)] = self.content[place : place + 4]
                self.metadata += [place] if self.content[place : place + 4] in METADATA else []

    def _read_extents(self, begin: int, end: int, data: int) -> None:
        content, version = self.content, self.content[begin]
        sizes = _number(content, begin + 4, 2)
        offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
        index_size = sizes & 15 if version else 0
        wide = 2 if version < 2 else 4
        count, at, left = _number(content, begin + 6, wide), begin + 6 + wide, MAX_BOXES
        for _ in range(min(count, MAX_BOXES)):
            item, at = _number(content, at, wide), at + wide
            method, at = (_number(content, at, 2) & 15, at + 2) if version else (0, at)
            base, at = _number(content, at + 2, base_size), at + 2 + base_size
            extent_count, at = _number(content, at, 2), at + 2
            start = base + (data if method == 1 else 0)
            left -= extent_count
            if left < 0:
                raise IndexError("its items have too many extents")
            extents = self.extents[item] = []
            for _ in range(extent_count):
                at += index_size
                offset = start + _number(content, at, offset_size)
                length = _number(content, at + offset_size, length_size) or len(content)
                at += offset_size + length_size
                if at > end:
                    return
                extents.append((min(offset, len(content)), min(offset + length, len(content))))

    def _read_references(self, begin: int, end: int) -> None:
        size = 2 if self.content[begin] == 0 else 4
        for kind, at, last in _boxes(self.content, begin + 4, end):
            origin, count = _number(self.content, at, size), _number(self.content, at + size, 2)
            first = at + size + 2
            if first + count * size > last:
                continue
            targets = [_number(self.content, place, size) for place in range(first, first + count * size, size)]
            if kind == b"dimg":
                self.parts.setdefault(origin, []).extend(targets)
            if kind == b"auxl":
                for target in targets:
                    self.auxiliary.setdefault(target, []).append(origin)

    def _read_properties(self, place: tuple[int, int]) -> None:
        content = self.content
        known = list(_boxes(content, *_inner(content, place, b"ipco")))
        for kind, begin, end in _boxes(content, *place):
            if kind != b"ipma":
                continue
            item_size = 2 if content[begin] == 0 else 4
            index_size = 2 if content[begin + 3] & 1 else 1
            at = begin + 8
            for _ in range(min(_number(content, begin + 4, 4), MAX_BOXES)):
                item, count, at = _number(content, at, item_size), content[at + item_size], at + item_size + 1
                indices = [
                    _number(content, at + number * index_size, index_size) & (2 ** (8 * index_size - 1) - 1)
                    for number in range(count)
                ]
                at += count * index_size
                if at > end:
                    return
                self.properties[item] = [known[index - 1] for index in indices if 0 < index <= len(known)]


def _of_tracks(content: bytes, begin: int, end: int) -> list[Coded]:
    """Return the coded images of the first sample of each track."""
    found: list[Coded] = []
    for kind, *place in _boxes(content, begin, end):
        if kind != b"trak":
            continue
        inner = (place[0], place[1])
        for step in TRACK:
            inner = _inner(content, inner, step)
        tables = {name: (first, last) for name, first, last in _boxes(content, *inner)}
        if b"stsz" not in tables or not ({b"stco", b"co64"} & tables.keys()):
            continue
        sizes = tables[b"stsz"][0]
        size = _number(content, sizes + 4, 4) or _number(content, sizes + 12, 4)
        name = b"stco" if b"stco" in tables else b"co64"
        offset = _number(content, tables[name][0] + 8, 4 if name == b"stco" else 8)
        found += _av1_sizes(content[offset : offset + size])
    return found


def _av1_sizes(data: bytes) -> list[Coded]:
    """Return the sizes in the sequence headers of an AV1 stream."""
    found: list[Coded] = []
    at = 0
    for _ in range(MAX_UNITS):
        if at >= len(data):
            return found
        header, at = data[at], at + 1
        at += header >> 2 & 1
        size = len(data) - at
        if header & 2:
            size, at = _leb128(data, at)
        if header >> 3 & 15 == SEQUENCE_HEADER:
            found.append(_av1_size(BitReader(data[at : at + min(size, 1024)])))
        at += size
    raise IndexError("its stream has too many units")


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 56, 7):
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
    return value, at


def _av1_size(bits: BitReader) -> Coded:
    """Return the size in a sequence header (AV1 specification, 5.5.1)."""
    bits.skip(4)
    is_reduced = bits.read(1)
    if is_reduced:
        bits.skip(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    width, height = bits.read(width_bits) + 1, bits.read(height_bits) + 1
    # With a full header each frame may have its own size.
    return Coded(width, height, width * height if is_reduced else 2 ** (width_bits + height_bits))


def _skip_operating_points(bits: BitReader) -> None:
    has_model, delay_bits = 0, 0
    if bits.read(1):
        bits.skip(64)
        if bits.read(1):
            bits.read_exponential()
        has_model = bits.read(1)
        if has_model:
            delay_bits = bits.read(5) + 1
            bits.skip(42)
    has_delay = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.skip(12)
        if bits.read(5) > 7:
            bits.skip(1)
        if has_model and bits.read(1):
            bits.skip(2 * delay_bits + 1)
        if has_delay and bits.read(1):
            bits.skip(4)


def _hevc_sizes(data: bytes, configuration: bytes) -> list[Coded]:
    """Return the sizes in the parameter sets of an HEVC stream and of its configuration."""
    found: list[Coded] = []
    length_size, at = (configuration[21] & 3) + 1, 23
    for _ in range(configuration[22]):
        count, at = _number(configuration, at + 1, 2), at + 3
        for _ in range(count):
            size, at = _number(configuration, at, 2), at + 2
            found += _hevc_size(configuration[at : at + min(size, 1024)])
            at += size
    at = 0
    for _ in range(MAX_UNITS):
        if at >= len(data):
            return found
        size, at = _number(data, at, length_size), at + length_size
        found += _hevc_size(data[at : at + min(size, 1024)])
        at += size
    raise IndexError("its stream has too many units")


def _hevc_size(unit: bytes) -> list[Coded]:
    """Return the size in a NAL unit if it is a sequence parameter set (ITU-T H.265, 7.3.2.2)."""
    if len(unit) < 2 or unit[0] >> 1 & 63 != PARAMETER_SET:
        return []
    # A byte 3 after two zeros is not part of the data.
    bits = BitReader(unit[2:].replace(b"\0\0\3", b"\0\0"))
    bits.skip(4)
    layers = bits.read(3)
    bits.skip(1 + 96)
    flags = [(bits.read(1), bits.read(1)) for _ in range(layers)]
    bits.skip(2 * (8 - layers) if layers else 0)
    for has_profile, has_level in flags:
        bits.skip(88 * has_profile + 8 * has_level)
    bits.read_exponential()
    if bits.read_exponential() == 3:
        bits.skip(1)
    width, height = bits.read_exponential(), bits.read_exponential()
    return [Coded(width, height, width * height)]
