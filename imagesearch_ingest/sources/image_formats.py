"""Which files are images: the suffixes of the formats that are taken and of others, and what is left out.

This is the one list. Folders, archives, buckets, messages and documentation follow it.
"""

import os
from collections.abc import Callable, Mapping

from imagesearch_ingest.sources.items import SkippedFile, SkipReason

# Suffixes of the formats that the embedder decodes.
FORMATS: Mapping[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".mpo"),
    "PNG": (".png", ".apng"),
    "WebP": (".webp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "AVIF": (".avif", ".avifs"),
    "HEIC": (".heic", ".heics", ".heif", ".heifs", ".hif"),
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
SUPPORTED_SUFFIXES = ", ".join(suffix for suffixes in FORMATS.values() for suffix in suffixes)

# Suffixes of other images: layers and drawings, camera raw files, and formats that few programs read.
UNSUPPORTED_SUFFIXES = frozenset({
    ".psd", ".psb", ".xcf", ".kra", ".ora", ".ai", ".eps", ".svg", ".svgz", ".cdr", ".emf", ".wmf", ".pict",
    ".pct", ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef",
    ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw",
    ".x3f", ".j2c", ".j2k", ".jp2", ".jpf", ".jpm", ".jpx", ".jxl", ".jxr", ".hdp", ".wdp", ".bpg", ".flif",
    ".qoi", ".cur", ".dds", ".dcm", ".djvu", ".exr", ".fit", ".fits", ".hdr", ".icns", ".ico", ".pam", ".pbm",
    ".pcx", ".pfm", ".pgm", ".pnm", ".ppm", ".ras", ".sgi", ".tga", ".xbm", ".xpm",
})  # fmt: skip

# Folders and files that systems and programs make beside images, in small letters.
SYSTEM_FOLDERS = frozenset({
    "__macosx", ".appledouble", ".spotlight-v100", ".fseventsd", ".temporaryitems", ".documentrevisions-v100",
    "@eadir", "#recycle", "@recycle", "@recently-snapshot", ".@__thumb", "$recycle.bin", ".thumbnails",
    ".picasaoriginals", ".dtrash", ".git", ".hg", ".svn", "lost+found", "system volume information",
})  # fmt: skip
SYSTEM_FOLDER_PREFIX = ".trash"
SYSTEM_FILES = frozenset({".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", ".picasa.ini"})
SYSTEM_FILE_PREFIX = "._"

# Bytes from its beginning that tell what a file is.
HEADER_BYTES = 32
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")
BRANDS = frozenset((b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
# Lengths of a BMP file's second header.
BMP_HEADERS = frozenset((12, 40, 52, 56, 64, 108, 124))

CONVERT = f"{', '.join(FORMATS)} are taken; convert it to one of these"


def suffix_of(name: str) -> str:
    """Return the suffix of a file's name in small letters, empty if it has none."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - for speed


def has_image_suffix(name: str) -> bool:
    """Whether a name ends as the names of images do that are taken."""
    return suffix_of(name) in SUFFIXES


def is_system_folder(name: str) -> bool:
    """Whether a folder holds what a system or a program keeps beside images."""
    name = name.lower()
    return name in SYSTEM_FOLDERS or name.startswith(SYSTEM_FOLDER_PREFIX)


def is_system_file(path: str) -> bool:
    """Whether a file, by its path below a source with slashes, is made by a system or a program beside images."""
    *folders, name = path.split("/")
    name = name.lower()
    return name in SYSTEM_FILES or name.startswith(SYSTEM_FILE_PREFIX) or any(map(is_system_folder, folders))


def is_image_content(beginning: bytes, suffix: str = "") -> bool:
    """Whether a file is an image of a format that is taken, by its first BEGINNING bytes.

    A file of TIFF with the suffix of a camera raw file is none: what TIFF shows of it is a preview.
    """
    if beginning.startswith(TIFF_SIGNATURES):
        return suffix not in UNSUPPORTED_SUFFIXES
    if beginning.startswith(b"BM"):
        return int.from_bytes(beginning[14:18], "little") in BMP_HEADERS
    if beginning[4:8] == b"ftyp":
        return beginning[8:12] in BRANDS
    return beginning.startswith(SIGNATURES) or (beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP")


def skipped_file(where: str, name: str, beginning: Callable[[], bytes] | None, *, any_name: bool) -> SkippedFile | None:
    """Return why a file is not an item; None if it is one.

    Args:
        where: the file, for people.
        name: its path below the source, with slashes.
        beginning: reads its first BEGINNING bytes; None if that takes long, and `any_name` is not asked for.
        any_name: take files of any name whose content is an image.
    """
    if is_system_file(name):
        return SkippedFile(where, SkipReason.LEFT_OUT)
    suffix = suffix_of(name)
    if suffix in SUFFIXES:
        return None
    if beginning is not None and (any_name or not suffix) and is_image_content(beginning(), suffix):
        if any_name:
            return None
        return SkippedFile(
            where, SkipReason.NOT_TAKEN, "", "its name has no suffix, and its content is an image; --any-name takes it"
        )
    if suffix in UNSUPPORTED_SUFFIXES:
        return SkippedFile(where, SkipReason.NOT_TAKEN, suffix, f"{suffix} is not taken; {CONVERT}")
    return SkippedFile(where, SkipReason.OTHER)


def describe_unsupported(suffixes: Mapping[str, int]) -> str:
    """Return how many files were not taken, by suffix, such as "3 files not taken: 2 .psd, 1 without a suffix"."""
    total = sum(suffixes.values())
    parts = [f"{count} {suffix or 'without a suffix'}" for suffix, count in sorted(suffixes.items())]
    return f"{total} file{'s' if total > 1 else ''} not taken: {', '.join(parts)}"
