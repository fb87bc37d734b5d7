"""Finds out what kind of source a path or URL is."""

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
# What may be said by --as; an image is one by its name.
CHOICES = ("folder", "list", "csv", "jsonl", "parquet", "tar")

TABLE = frozenset({"--root", "--path-column", "--id-column", "--map"})
EFFECTIVE: Mapping[str, frozenset[str]] = {
    "folder": frozenset(),
    "image": frozenset(),
    "list": frozenset({"--root"}),
    "csv": TABLE | {"--type"},
    "jsonl": TABLE,
    "parquet": TABLE,
    "tar": frozenset({"--map"}),
}


def open_source(argument: str, options: SourceOptions) -> Source:
    """The source that a path, a URL or "-" for the standard input names. Raises SourceError."""
    if options.kind and options.kind not in CHOICES:
        raise SourceError(f"{options.kind!r} is no kind of source; {', '.join(CHOICES)} are")
    argument = local_path(argument)
    kind = _kind(argument, options)
    _check(kind, options)
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
    location = SourceFile(argument)
    if kind == "tar":
        return TarSource(location, options.by_content, options.max_bytes, options.columns, options.any_name)
    openers: dict[str, Callable[[SourceFile, SourceOptions], Source]] = {
        "csv": open_csv,
        "jsonl": open_json_lines,
        "parquet": open_parquet,
    }
    return openers[kind](location, options)


def _kind(argument: str, options: SourceOptions) -> str:
    if argument == STANDARD_INPUT:
        if options.kind not in ("", "list"):
            raise SourceError(f"standard input is a list of paths; a source of the kind {options.kind} is a file")
        return "list"
    if is_url(argument):
        if not argument.partition("://")[2].strip("/"):
            raise SourceError(f"{without_password(argument)} names no bucket or server")
        return options.kind or _by_name(url_path(argument)) or "folder"
    if os.path.isdir(argument):  # noqa: PTH112 - a text
        if options.kind not in ("", "folder"):
            raise SourceError(f"{argument} is a folder, and none of the kind {options.kind}")
        return "folder"
    if not os.path.exists(argument):  # noqa: PTH110 - a text
        raise SourceError(f"there is no file or folder {argument}")
    if options.kind == "folder":
        raise SourceError(f"{argument} is no folder")
    if kind := options.kind or _by_name(argument) or _by_content(argument, options):
        return kind
    taken = ", ".join(suffix for suffixes in KINDS.values() for suffix in suffixes)
    raise SourceError(
        f"{argument} is of no kind that is known by its name; folders are taken, and files that end in {taken}. "
        f"--as says what a file is: {', '.join(CHOICES)}; --any-name takes an image of any name"
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


def _check(kind: str, options: SourceOptions) -> None:
    given = {
        "--root": options.root,
        "--path-column": options.path_column,
        "--id-column": options.id_column,
        "--map": options.columns,
        "--type": options.types,
    }
    if useless := [name for name, value in given.items() if value and name not in EFFECTIVE[kind]]:
        raise SourceError(f"{', '.join(useless)}: without effect for a source of the kind {kind}")
    if options.by_content and options.id_column:
        raise SourceError("--id-column: without effect where ids are the images' contents")
