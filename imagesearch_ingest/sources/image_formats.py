"""The one list of file suffixes: supported images, unsupported images, and files of systems and programs.

Folders, archives, buckets, messages and the documentation use this list.
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

# Suffixes of unsupported images: drawings, camera raw files, and formats that few programs read.
UNSUPPORTED_SUFFIXES = frozenset({
    ".psd", ".psb", ".xcf", ".kra", ".ora", ".ai", ".eps", ".svg", ".svgz", ".cdr", ".emf", ".wmf", ".pict",
    ".pct", ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef",
    ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw",
    ".x3f", ".j2c", ".j2k", ".jp2", ".jpf", ".jpm", ".jpx", ".jxl", ".jxr", ".hdp", ".wdp", ".bpg", ".flif",
    ".qoi", ".cur", ".dds", ".dcm", ".djvu", ".exr", ".fit", ".fits", ".hdr", ".icns", ".ico", ".pam", ".pbm",
    ".pcx", ".pfm", ".pgm", ".pnm", ".ppm", ".ras", ".sgi", ".tga", ".xbm", ".xpm",
})  # fmt: skip

# Folders and files that systems and programs make beside images, in lower case.
SYSTEM_FOLDERS = frozenset({
    "__macosx", ".appledouble", ".spotlight-v100", ".fseventsd", ".temporaryitems", ".documentrevisions-v100",
    "@eadir", "#recycle", "@recycle", "@recently-snapshot", ".@__thumb", "$recycle.bin", ".thumbnails",
    ".picasaoriginals", ".dtrash", ".git", ".hg", ".svn", "lost+found", "system volume information",
})  # fmt: skip
SYSTEM_FOLDER_PREFIX = ".trash"
SYSTEM_FILES = frozenset({".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", ".picasa.ini"})
SYSTEM_FILE_PREFIX = "._"

# Bytes at the header of a file that identify its format.
HEADER_BYTES = 32
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")
BRANDS = frozenset((b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
# Lengths of a BMP file's second header.
BMP_HEADERS = frozenset((12, 40, 52, 56, 64, 108, 124))

CONVERT = f"convert it to one of {', '.join(FORMATS)}"


def suffix_of(name: str) -> str:
    """Return the lower-case suffix of a file name; empty if it has none."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - for speed


def has_image_suffix(name: str) -> bool:
    """Return whether a name has the suffix of a supported image format."""
    return suffix_of(name) in SUFFIXES


def is_system_folder(name: str) -> bool:
    """Return whether a system or a program keeps its own files in a folder of this name."""
    name = name.lower()
    return name in SYSTEM_FOLDERS or name.startswith(SYSTEM_FOLDER_PREFIX)


def is_system_file(path: str) -> bool:
    """Return whether a system or a program made a file beside the images. `path` is relative to the source."""
    *folders, name = path.split("/")
    name = name.lower()
    return name in SYSTEM_FILES or name.startswith(SYSTEM_FILE_PREFIX) or any(map(is_system_folder, folders))


def is_image_content(header: bytes, suffix: str = "") -> bool:
    """Return whether a file is a supported image, by its first HEADER_BYTES bytes.

    A TIFF file with the suffix of a camera raw file is not supported: its TIFF image is only a preview.
    """
    if header.startswith(TIFF_SIGNATURES):
        return suffix not in UNSUPPORTED_SUFFIXES
    if header.startswith(b"BM"):
        return int.from_bytes(header[14:18], "little") in BMP_HEADERS
    if header[4:8] == b"ftyp":
        return header[8:12] in BRANDS
    return header.startswith(SIGNATURES) or (header[:4] == b"RIFF" and header[8:12] == b"WEBP")


def skipped_file(where: str, name: str, header: Callable[[], bytes] | None, *, any_name: bool) -> SkippedFile | None:
    """Return the entry of a file that is not an item; None if the file is an item.

    Args:
        where: the path or URL of the file, for people.
        name: the path relative to the source, with slashes.
        header: reads the first HEADER_BYTES bytes; None if reading is slow and `any_name` is False.
        any_name: accept files of any name whose content is an image.
    """
    if is_system_file(name):
        return SkippedFile(where, SkipReason.SYSTEM_FILE)
    suffix = suffix_of(name)
    if suffix in SUFFIXES:
        return None
    if header is not None and (any_name or not suffix) and is_image_content(header(), suffix):
        if any_name:
            return None
        return SkippedFile(
            where,
            SkipReason.UNSUPPORTED,
            "",
            "its content is an image, but its name has no suffix; --any-name accepts it",
        )
    if suffix in UNSUPPORTED_SUFFIXES:
        return SkippedFile(where, SkipReason.UNSUPPORTED, suffix, f"{suffix} is not supported; {CONVERT}")
    return SkippedFile(where, SkipReason.NOT_AN_IMAGE)


def describe_unsupported(suffixes: Mapping[str, int]) -> str:
    """Return a summary of unsupported files, such as "3 unsupported files: 2 .psd, 1 without a suffix"."""
    total = sum(suffixes.values())
    parts = [f"{count} {suffix or 'without a suffix'}" for suffix, count in sorted(suffixes.items())]
    return f"{total} unsupported file{'s' if total > 1 else ''}: {', '.join(parts)}"
