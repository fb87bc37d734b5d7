"""Open a source by its path or URL."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from imagesearch_ingest.sources.file_errors import without_password
from imagesearch_ingest.sources.folder_source import FileSource, FolderSource
from imagesearch_ingest.sources.image_formats import FORMATS, HEADER_BYTES, has_image_suffix, is_image_content
from imagesearch_ingest.sources.items import Source, SourceError
from imagesearch_ingest.sources.local_files import read_file
from imagesearch_ingest.sources.manifest_source import (
    STANDARD_INPUT,
    ListSource,
    open_csv,
    open_json_lines,
    open_parquet,
)
from imagesearch_ingest.sources.remote_files import RemoteFileSource, is_url, url_path
from imagesearch_ingest.sources.remote_folder_source import RemoteFolderSource
from imagesearch_ingest.sources.source_file import SourceFile, local_path
from imagesearch_ingest.sources.source_options import SourceOptions
from imagesearch_ingest.sources.tar_source import TarSource

__all__ = ["SourceOptions", "open_source"]

KINDS = {
    "csv": (".csv", ".tsv"),
    "jsonl": (".jsonl", ".ndjson"),
    "parquet": (".parquet", ".pq"),
    "tar": (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz"),
    "list": (".txt",),
    "image": tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes),
}
# Values of --format. An image is recognised by its name.
CHOICES = ("folder", "list", "csv", "jsonl", "parquet", "tar")

TABLE = frozenset({"--root", "--path-column", "--id-column", "--map"})
OPTIONS_BY_KIND: Mapping[str, frozenset[str]] = {
    "folder": frozenset(),
    "image": frozenset(),
    "list": frozenset({"--root"}),
    "csv": TABLE | {"--column-type"},
    "jsonl": TABLE,
    "parquet": TABLE,
    "tar": frozenset({"--map"}),
}


def open_source(argument: str, options: SourceOptions) -> Source:
    """Return the source at a path or a URL, or standard input for "-". Raises SourceError."""
    if options.kind and options.kind not in CHOICES:
        raise SourceError(f"{options.kind!r} is not a kind of source; use one of {', '.join(CHOICES)}")
    argument = local_path(argument)
    kind = _kind(argument, options)
    _check_options(kind, options)
    if kind == "folder":
        is_remote = is_url(argument)
        folder = RemoteFolderSource if is_remote else FolderSource
        root = argument if is_remote else Path(argument)
        return folder(root, options.by_content, options.any_name)  # type: ignore[arg-type]
    if kind == "image":
        is_remote = is_url(argument)
        single = RemoteFileSource if is_remote else FileSource
        return single(argument if is_remote else Path(argument), options.by_content)  # type: ignore[arg-type]
    if kind == "list":
        return ListSource(argument, options)
    source_file = SourceFile(argument)
    if kind == "tar":
        return TarSource(source_file, options.by_content, options.max_bytes, options.columns, options.any_name)
    openers: dict[str, Callable[[SourceFile, SourceOptions], Source]] = {
        "csv": open_csv,
        "jsonl": open_json_lines,
        "parquet": open_parquet,
    }
    return openers[kind](source_file, options)


def _kind(argument: str, options: SourceOptions) -> str:
    if argument == STANDARD_INPUT:
        if options.kind not in ("", "list"):
            raise SourceError(f"standard input is a list of paths, not {options.kind}; write it to a file first")
        return "list"
    if is_url(argument):
        if not argument.partition("://")[2].strip("/"):
            raise SourceError(f"{without_password(argument)} has no bucket or server")
        return options.kind or _by_name(url_path(argument)) or "folder"
    if os.path.isdir(argument):  # noqa: PTH112 - a string
        if options.kind not in ("", "folder"):
            raise SourceError(f"{argument} is a folder, not {options.kind}")
        return "folder"
    if not os.path.exists(argument):  # noqa: PTH110 - a string
        raise SourceError(f"{argument} does not exist")
    if options.kind == "folder":
        raise SourceError(f"{argument} is not a folder")
    if kind := options.kind or _by_name(argument) or _by_content(argument, options):
        return kind
    taken = ", ".join(suffix for suffixes in KINDS.values() for suffix in suffixes)
    raise SourceError(
        f"{argument} is of no kind that is known by its name; folders are taken, and files that end in {taken}. "
        f"--format names the format of a file: {', '.join(CHOICES)}; --any-name takes an image of any name"
    )


def _by_name(path: str) -> str:
    if path.endswith("/"):
        return ""
    if has_image_suffix(path):
        return "image"
    return next((kind for kind, suffixes in KINDS.items() if path.lower().endswith(suffixes)), "")


def _by_content(path: str, options: SourceOptions) -> str:
    with suppress(OSError):
        if options.any_name and is_image_content(read_file(path, HEADER_BYTES)):
            return "image"
    return ""


def _check_options(kind: str, options: SourceOptions) -> None:
    given = {
        "--root": options.root,
        "--path-column": options.path_column,
        "--id-column": options.id_column,
        "--map": options.columns,
        "--column-type": options.types,
    }
    if useless := [name for name, value in given.items() if value and name not in OPTIONS_BY_KIND[kind]]:
        raise SourceError(f"{', '.join(useless)} has no effect on a source of the kind {kind}; remove it")
    if options.by_content and options.id_column:
        raise SourceError("--id-column has no effect if ids are made of the images' contents; remove it")
