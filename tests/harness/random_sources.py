"""Random folders, lists, manifests and archives, each with the expected result of a load.

A grammar of odd names, cells and members builds a source from a seed. The expected result follows from how each entry
was made, never from the code under test.
"""

import csv
import hashlib
import io
import json
import os
import random
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from imagesearch_client.types import AttributeValue

SUPPORTED: Final = (".jpg", ".JPG", ".jpeg", ".jfif", ".jpe", ".png", ".PNG", ".webp", ".bmp", ".gif", ".tif", ".tiff")
UNSUPPORTED: Final = (".psd", ".svg", ".cr2", ".NEF")
OTHER: Final = (".txt", ".json", ".mp4", ".py", "")
SYSTEM_PATHS: Final = (
    "._photo.jpg",
    ".DS_Store",
    "Thumbs.db",
    "@eaDir/thumb.jpg",
    "__MACOSX/photo.jpg",
    ".thumbnails/1.png",
)
WORDS: Final = (
    "photo", "IMG_0001", "a b", " lead", "trail ", "a#1", "b?x=1", "100%", "a%20b", "%2e%2e", "x::y", "R&amp;D",
    "a&b=c", "it's", 'say "hi"', "-k", "--all", "null", "None", "[1]", "{2}", "*", "~", "$HOME", "`id`", "a\\b",
    "a;b", "a,b", "a\tb", "naïve", "nai\u0308ve", "日本", "🙂", "א", "e.f.g", "..hidden", "con", "0", "007",
    "1e400", "@x", "+", "=1+1", "x" * 120,
)  # fmt: skip
# Names that cannot be ids: a control character, bytes that are not UTF-8, too many bytes.
REFUSED: Final = ("line\nbreak", "bell\a", os.fsdecode(b"\xff\xfe"))
TEXTS: Final = ("hat", "a,b", 'say "hi"', "two\nlines", "naïve", "日本", "007", "1_000", "x" * 300, "=1+1", "🙂", "[1]")

Content: TypeAlias = bytes
Attributes: TypeAlias = Mapping[str, AttributeValue]


@dataclass
class Expected:
    """The expected result of a load."""

    stored: dict[str, tuple[str, Attributes]] = field(default_factory=dict)
    """The content's SHA-256 and the attributes, by id."""
    failed: int = 0
    """Entries that are rejected."""
    repeated: int = 0
    """Entries that list an image again without any difference."""
    system_files: int = 0
    unsupported: int = 0
    other_files: int = 0

    @property
    def listed(self) -> int:
        """Entries that count as listed."""
        return len(self.stored) + self.failed + self.repeated


@dataclass(frozen=True)
class RandomSource:
    """A source on disk."""

    argument: str
    """The argument of `imagesearch ingest`."""
    expected: Expected
    counts_files: bool
    """Whether the source counts skipped files, as folders and archives do."""


def image_pool(count: int = 16) -> list[Content]:
    """Yield different valid image files of several formats."""
    rng = np.random.default_rng(17)
    pool = []
    for number in range(count):
        file = io.BytesIO()
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
        image = Image.fromarray(pixels).resize((40, 40), Image.Resampling.BICUBIC)
        image.save(file, ("JPEG", "PNG", "WEBP", "BMP")[number % 4])
        pool.append(file.getvalue())
    return pool


POOL: Final = image_pool()
BROKEN: Final = (b"", b"no image", POOL[0][:200], POOL[1][:60])


def random_source(seed: int, folder: Path) -> RandomSource:
    """Build the source of a seed in an empty folder."""
    chosen = random.Random(seed)
    build = chosen.choice([_folder, _list, _csv, _json_lines, _parquet, _tar])
    return build(chosen, folder)


def digest(content: Content) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _names(chosen: random.Random, *, refused: float = 0.0) -> Iterator[str]:
    """Yield different relative paths without suffixes."""
    number = 0
    while True:
        number += 1
        folders = [f"{chosen.choice(WORDS)}{number}" for _ in range(chosen.choice([0, 0, 0, 1, 2]))]
        word = chosen.choice(REFUSED if chosen.random() < refused else WORDS)
        yield "/".join([*folders, f"{word}{number}"])


def _is_storable(image_id: str) -> bool:
    try:
        size = len(image_id.encode())
    except UnicodeEncodeError:
        return False
    return size <= 512 and not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in image_id)


def _write(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _folder(chosen: random.Random, folder: Path) -> RandomSource:
    root = folder / "photos"
    root.mkdir()
    expected = Expected()
    names = _names(chosen, refused=0.1)
    last: Path | None = None
    # One image always exists: a folder without images is refused.
    for number in range(chosen.randint(1, 8)):
        kind = (
            "image"
            if number == 0
            else chosen.choice(["image"] * 4 + ["broken", "unsupported", "system", "other", "link", "dead"])
        )
        suffix = chosen.choice({"unsupported": UNSUPPORTED, "other": OTHER}.get(kind, SUPPORTED))
        name = next(names) + suffix
        if number == 0:
            name = f"first{suffix}"
        path = root / name
        match kind:
            case "image" | "broken":
                content = chosen.choice(POOL if kind == "image" else BROKEN)
                _write(path, content)
                _expect(expected, name, content, {}, is_image=kind == "image")
                last = path if kind == "image" else last
            case "link" if last is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(last)
                _expect(expected, name, last.read_bytes(), {}, is_image=True)
            case "dead":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(folder / "nothing")
                expected.failed += 1
            case "unsupported":
                _write(path, b"8BPS")
                expected.unsupported += 1
            case "system":
                _write(root / f"f{number}" / chosen.choice(SYSTEM_PATHS), POOL[0])
                expected.system_files += 1
            case _:
                _write(path.with_name(path.name), b"words")
                expected.other_files += 1
    return RandomSource(str(root), expected, counts_files=True)


def _expect(expected: Expected, image_id: str, content: Content, attributes: Attributes, *, is_image: bool) -> None:
    if is_image and _is_storable(image_id):
        expected.stored[image_id] = (digest(content), attributes)
    else:
        expected.failed += 1


@dataclass(frozen=True)
class _Row:
    """A row of a list or manifest."""

    path: str
    image_id: str
    content: Content | None
    """None if the file does not exist."""
    attributes: Attributes


def _rows(
    chosen: random.Random, root: Path, attributes: Callable[[], Attributes], expected: Expected, *, has_ids: bool = True
) -> list[_Row]:
    """Return rows, some of them with a broken or missing file, or with an earlier id."""
    kinds = ["image"] * 4 + ["broken", "missing", "again"] + ["other"] * has_ids
    rows: list[_Row] = []
    names = _names(chosen)
    first: dict[str, _Row] = {}
    for number in range(chosen.randint(1, 8)):
        name = f"{'first' if number == 0 else next(names).strip()}{number}{chosen.choice(SUPPORTED)}"
        kind = "image" if number == 0 else chosen.choice(kinds)
        if kind in ("again", "other"):
            before = chosen.choice(rows)
            row = before if kind == "again" else _Row(name, before.image_id, chosen.choice(POOL), attributes())
        else:
            content = None if kind == "missing" else chosen.choice(POOL if kind == "image" else BROKEN)
            row = _Row(name, name, content, attributes())
        if row.content is not None:
            _write(root / row.path, row.content)
        rows.append(row)
        if (known := first.get(row.image_id)) is None:
            first[row.image_id] = row
            is_image = row.content is not None and row.content not in BROKEN
            _expect(expected, row.image_id, row.content or b"", row.attributes, is_image=is_image)
        elif known is row:
            expected.repeated += 1
        else:
            expected.failed += 1
    return rows


def _list(chosen: random.Random, folder: Path) -> RandomSource:
    expected = Expected()
    lines = ["# paths", ""]
    for row in _rows(chosen, folder, dict, expected, has_ids=False):
        how = chosen.choice(["plain", "plain", "absolute", "dotted"])
        prefix = {"plain": "", "absolute": f"{folder}/", "dotted": "./"}[how]
        # A line that begins with # is a comment.
        lines.append(("./" if not prefix and row.path.startswith("#") else prefix) + row.path)
    path = folder / "list.txt"
    path.write_text("\n".join(lines) + chosen.choice(["", "\n"]))
    return RandomSource(str(path), expected, counts_files=False)


def _csv(chosen: random.Random, folder: Path) -> RandomSource:
    expected = Expected()
    kind = chosen.choice(["int", "float", "text"])
    choices: Mapping[str, Sequence[AttributeValue]] = {
        "int": [0, -3, 9007199254740993, 12],
        "float": [0.5, -3.25, 1e300, 12.0],
        # One of the cells makes the column text.
        "text": ["cheap", "12"],
    }
    numbers = choices[kind]

    def attributes() -> Attributes:
        found: dict[str, AttributeValue] = {}
        if chosen.random() < 0.8:
            found["price"] = chosen.choice(numbers)
        if chosen.random() < 0.8:
            found["name"] = chosen.choice(TEXTS)
        return found

    rows = _rows(chosen, folder, attributes, expected)
    delimiter, suffix = chosen.choice([(",", ".csv"), ("\t", ".tsv")])
    space = chosen.choice(["", " "])
    end = chosen.choice([[], [""]])
    path = folder / f"table{suffix}"
    with path.open("w", newline="", encoding=chosen.choice(["utf-8", "utf-8-sig"])) as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator=chosen.choice(["\n", "\r\n"]))
        writer.writerow(["path", f"{space}id", f"price{space}", "name", *end])
        if kind == "text":
            _write(folder / "text.png", POOL[2])
            writer.writerow(["text.png", "text", "cheap", "cap", *end])
            expected.stored["text"] = (digest(POOL[2]), {"price": "cheap", "name": "cap"})
        for row in rows:
            price = row.attributes.get("price")
            cell = chosen.choice(["", "null"]) if price is None else repr(price) if kind == "float" else str(price)
            writer.writerow([row.path, row.image_id, cell, row.attributes.get("name", ""), *end])
        if chosen.random() < 0.3:
            writer.writerow(["first.jpg"])
            expected.failed += 1
        if chosen.random() < 0.3:
            writer.writerow(["a.jpg", "b", "1", "c", "d", "e", "f"])
            expected.failed += 1
        if chosen.random() < 0.3:
            writer.writerow(["", "nopath", "1" if kind != "text" else "x", "c", *end])
            expected.failed += 1
    return RandomSource(str(path), expected, counts_files=False)


VALUES: Final[Sequence[AttributeValue]] = (
    1,
    -7,
    9007199254740993,
    0.25,
    1e300,
    True,
    False,
    "",
    "null",
    *TEXTS,
    ["a", "b c"],
)


def _json_lines(chosen: random.Random, folder: Path) -> RandomSource:
    expected = Expected()

    def attributes() -> Attributes:
        return {name: chosen.choice(VALUES) for name in chosen.sample(["price", "name", "tags"], chosen.randint(0, 3))}

    lines = []
    for row in _rows(chosen, folder, attributes, expected):
        nested = bool(chosen.getrandbits(1))
        fields: dict[str, object] = {"path": row.path, "id": row.image_id, "missing": None, "_note": "left out"}
        fields |= {"attributes": row.attributes} if nested else row.attributes
        lines.append(json.dumps(fields, ensure_ascii=bool(chosen.getrandbits(1))))
    for odd in ("{", "[1]", '{"id": "x"}', '{"path": 7}', '"text"'):
        if chosen.random() < 0.15:
            lines.append(odd)
            expected.failed += 1
    path = folder / "table.jsonl"
    path.write_text("\n".join(lines) + chosen.choice(["", "\n", "\n\n"]), encoding="utf-8")
    return RandomSource(str(path), expected, counts_files=False)


def _parquet(chosen: random.Random, folder: Path) -> RandomSource:
    expected = Expected()
    columns: Mapping[str, tuple[pa.DataType, Sequence[AttributeValue]]] = {
        "count": (pa.int64(), [1, -7, 9007199254740993]),
        "price": (pa.float64(), [0.25, -3.5, 1e300]),
        "name": (chosen.choice([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]), TEXTS),
        "is_new": (pa.bool_(), [True, False]),
        "tags": (pa.list_(pa.string()), [["a"], ["b c", "d,e"]]),
    }

    def attributes() -> Attributes:
        return {name: chosen.choice(values) for name, (_, values) in columns.items() if chosen.getrandbits(1)}

    rows = _rows(chosen, folder, attributes, expected)
    table: dict[str, pa.Array] = {"path": pa.array([row.path for row in rows])}
    table["id"] = pa.array([row.image_id for row in rows])
    for name, (kind, _) in columns.items():
        values = pa.array([row.attributes.get(name) for row in rows])
        table[name] = pa.nulls(len(rows), kind) if pa.types.is_null(values.type) else values.cast(kind)
    if chosen.getrandbits(1):
        table["__index_level_0__"] = pa.array(range(len(rows)))
    path = folder / "table.parquet"
    pq.write_table(pa.table(table), path)
    return RandomSource(str(path), expected, counts_files=False)


def _tar(chosen: random.Random, folder: Path) -> RandomSource:
    expected = Expected()
    names = _names(chosen)
    members: list[tuple[str, Content]] = []
    late: list[tuple[str, Content]] = []
    shard = f"shard.tar{chosen.choice(['', '.gz'])}"
    for number in range(chosen.randint(1, 6)):
        kind = "image" if number == 0 else chosen.choice(["image"] * 4 + ["broken", "unsupported", "system", "other"])
        # A sample's name ends at the first dot.
        name = f"{'first' if number == 0 else next(names).replace('.', '_').strip()}{number}"
        suffix = chosen.choice(SUPPORTED)
        match kind:
            case "image" | "broken":
                content = chosen.choice(POOL if kind == "image" else BROKEN)
                members.append((name + suffix, content))
                attributes: dict[str, AttributeValue] = {}
                if chosen.getrandbits(1):
                    attributes = {"price": chosen.choice([1, 9007199254740993]), "name": chosen.choice(TEXTS)}
                    where = chosen.choice([members, members, late])
                    beside = chosen.choice([f"{name}.json", f"{name}{suffix}.json"])
                    where.append((beside, json.dumps(attributes).encode()))
                    expected.other_files += 1
                _expect(expected, f"{shard}/{name}{suffix}", content, attributes, is_image=kind == "image")
            case "unsupported":
                members.append((name + chosen.choice(UNSUPPORTED), b"8BPS"))
                expected.unsupported += 1
            case "system":
                members.append((f"f{number}/{chosen.choice(SYSTEM_PATHS)}", POOL[0]))
                expected.system_files += 1
            case _:
                members.append((f"{name}.bin", b"bytes"))
                expected.other_files += 1
    chosen.shuffle(late)
    path = folder / shard
    prefix = chosen.choice(["", "./"])
    mode = "w:gz" if shard.endswith(".gz") else "w:"
    with tarfile.open(path, mode, format=chosen.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])) as archive:  # type: ignore[call-overload]
        for name, content in [*members, *late]:
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return RandomSource(str(path), expected, counts_files=True)
