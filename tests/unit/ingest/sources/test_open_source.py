"""The kind of source of an argument, and the errors for invalid ones."""

from pathlib import Path
from typing import Any

import pytest

from imagesearch_ingest.sources.folder_source import FileSource, FolderSource
from imagesearch_ingest.sources.items import SourceError
from imagesearch_ingest.sources.manifest_source import ListSource, ManifestSource
from imagesearch_ingest.sources.open_source import open_source
from imagesearch_ingest.sources.remote_files import RemoteFileSource
from imagesearch_ingest.sources.remote_folder_source import RemoteFolderSource
from imagesearch_ingest.sources.source_options import SourceOptions
from imagesearch_ingest.sources.tar_source import TarSource


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("a.JPG", "", FileSource),
        ("a.csv", "", ManifestSource),
        ("a.TSV", "", ManifestSource),
        ("a.jsonl", "", ManifestSource),
        ("a.ndjson", "", ManifestSource),
        ("a.tar", "", TarSource),
        ("a.tar.gz", "", TarSource),
        ("a.tgz", "", TarSource),
        ("a.txt", "", ListSource),
        ("a.data", "list", ListSource),
        ("a.data", "csv", ManifestSource),
        ("a.data", "jsonl", ManifestSource),
        ("a.data", "tar", TarSource),
        ("a.jpg", "list", ListSource),
    ],
)
def test_kind_of_source_follows_from_its_name(tmp_path: Path, name: str, kind: str, expected: type) -> None:
    path = tmp_path / name
    path.write_text("path\n" if kind == "csv" or name.lower().endswith(("csv", "tsv")) else "")
    for argument in (str(path), f"file://{path}"):
        source = open_source(argument, SourceOptions(kind=kind))
        assert type(source) is expected
        assert source.name == str(path)


def test_kind_of_folders_and_urls(tmp_path: Path) -> None:
    (tmp_path / "a.tar").mkdir()
    assert type(open_source(str(tmp_path / "a.tar"), SourceOptions())) is FolderSource
    assert type(open_source("-", SourceOptions())) is ListSource
    for url, expected in {
        "memory://x/": RemoteFolderSource,
        "memory://x": RemoteFolderSource,
        "memory://x.jpg/": RemoteFolderSource,
        "memory://x.jpg": RemoteFileSource,
        "http://127.0.0.1/a.jpg?size=2": RemoteFileSource,
        "http://127.0.0.1/a?file=b.jpg": RemoteFolderSource,
    }.items():
        assert type(open_source(url, SourceOptions())) is expected


@pytest.mark.parametrize(
    ("argument", "options", "message"),
    [
        ("gone.jpg", {}, "gone.jpg does not exist"),
        ("gone.csv", {}, "gone.csv does not exist"),
        ("a.doc", {}, r"of no kind that is known.*\.jpg.*--format"),
        ("a.doc", {"kind": "folder"}, "is not a folder"),
        ("a.doc", {"kind": "film"}, "'film' is not a kind of source; use one of folder, list"),
        (".", {"kind": "csv"}, "is a folder"),
        ("-", {"kind": "csv"}, "standard input"),
        (".", {"columns": {"a": "b"}}, "--map has no effect"),
        (".", {"root": "x", "types": {"a": "b"}}, "--root, --column-type has no effect"),
        ("a.jpg", {"id_column": "x"}, "--id-column has no effect"),
        ("a.txt", {"path_column": "x"}, "--path-column has no effect"),
        ("a.tar", {"root": "x"}, "--root has no effect"),
        ("a.jsonl", {"types": {"a": "int"}}, "--column-type has no effect"),
        ("a.csv", {"by_content": True, "id_column": "x"}, "--id-column has no effect"),
        ("memory://gone.csv", {}, "cannot be read"),
        ("memory://gone.tar", {}, "cannot be read"),
        ("memory://gone.txt", {}, "cannot be read"),
        ("nothing://x/", {}, "nothing"),
        ("s3:///", {}, "no bucket or server"),
    ],
)
def test_invalid_sources_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.doc", "a.jpg", "a.txt", "a.tar", "a.jsonl", "a.csv"):
        (tmp_path / name).touch()
    with pytest.raises(SourceError, match=message):
        open_source(argument, SourceOptions(**options))
