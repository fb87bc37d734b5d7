"""Export and import of collections, on both backends."""

import dataclasses
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from imagesearch_cli.app import app
from imagesearch_client import (
    AttributeValue,
    Client,
    Consistency,
    Embedding,
    Image,
    Index,
    InvalidArgumentError,
    IvfParameters,
    Metric,
    NewImage,
    Region,
    equals,
)
from imagesearch_ingest.sources.items import Item
from imagesearch_ingest.vector_files import export as export_module
from imagesearch_ingest.vector_files.export import export_collection
from imagesearch_ingest.vector_files.export_parts import ExportError
from imagesearch_ingest.vector_files.vector_file_source import VectorFileSource, VectorOptions

COUNT = 2500
# The order of these differs between UTF-16 and UTF-8.
FIRST = "i\uffee\U0001f600"
FILES = ["out.parquet", "out.h5", "out.npz"]


class StoppedError(Exception):
    """Stops a run."""


@pytest.fixture
def client(search_address: str) -> Iterator[Client]:
    with Client(search_address) as client:
        yield client


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "PART_ROWS", 1000)


def fill(client: Client, name: str, count: int, dimension: int = 8) -> dict[str, Image]:
    """Create a collection with unusual images, and return the images as the service has them."""
    client.create_collection(name, dimension=dimension, fingerprint="elsewhere", description="odd")
    vectors = np.random.default_rng(1).normal(size=(count, dimension))
    odd: list[AttributeValue] = [1, 1.0, True, "1", ["1", ""], 2**62 + 1]
    images = [
        NewImage(
            f"{FIRST[number % 3]}{number:05d}",
            Embedding(vectors[number].tolist(), "elsewhere"),
            f"u/ü/{number}" if number % 2 else "",
            dict[str, AttributeValue](number=number, odd=odd[number % 6]) if number % 5 else {},
            Region(0, 0.25, 0.5, 1) if number % 7 == 0 else None,
            "ab" * 32 if number % 3 else "",
        )
        for number in range(count)
    ]
    assert [result.error for result in client.write(name, images) if result.error] == []
    return {image.id: image for image in client.list(name, with_vector=True, page_size=500, strong=True)}


def check(target: Path, expected: dict[str, Image]) -> None:
    found = []
    for item in VectorFileSource(target, VectorOptions()):
        assert isinstance(item, Item)
        assert isinstance(item.content, Embedding)
        image = expected[item.id]
        found.append(item.id)
        assert image.embedding is not None
        assert list(item.content.values) == list(image.embedding.values)
        assert repr(sorted((item.attributes or {}).items())) == repr(sorted(image.attributes.items()))
        assert (item.uri, item.region, item.content_sha256) == (image.uri, image.region, image.content_sha256)
    assert found == list(expected)
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def stop(seen: int) -> None:
    if seen >= COUNT - 1:
        raise StoppedError


@pytest.mark.parametrize("file", FILES)
def test_export_has_every_image_of_the_collection(client: Client, name: str, tmp_path: Path, file: str) -> None:
    images = fill(client, name, COUNT)
    client.set_alias(f"{name}_now", name)
    report = export_collection(client, f"{name}_now", tmp_path / file)
    assert (report.collection, report.rows, report.pages) == (name, COUNT, 3)
    check(tmp_path / file, images)
    client.delete_alias(f"{name}_now")


@pytest.mark.parametrize("file", FILES)
def test_import_of_an_export_restores_the_collection(client: Client, name: str, tmp_path: Path, file: str) -> None:
    images = fill(client, name, 300)
    export_collection(client, name, tmp_path / file)
    source = VectorFileSource(tmp_path / file, VectorOptions())
    again = f"{name}_2"
    client.create_collection(again, dimension=source.dimension, fingerprint=source.fingerprint)
    new = [
        NewImage(
            item.id,
            item.content,
            item.uri,
            item.attributes or {},
            item.region,
            item.content_sha256,
        )
        for item in source
        if isinstance(item, Item) and isinstance(item.content, Embedding)
    ]
    assert [result.error for result in client.write(again, new) if result.error] == []
    assert {
        image.id: dataclasses.replace(
            image, create_time=images[image.id].create_time, update_time=images[image.id].update_time
        )
        for image in client.list(again, with_vector=True, page_size=500, strong=True)
    } == images


def test_export_and_import_keep_all_settings(client: Client, search_address: str, name: str, tmp_path: Path) -> None:
    made = client.create_collection(
        name,
        dimension=8,
        fingerprint="elsewhere",
        metric=Metric.L2,
        index=Index.IVF_FLAT,
        index_parameters=IvfParameters(16),
        consistency=Consistency.STRONG,
        ttl=timedelta(hours=5),
        description="die schönen",
        labels={"team": "shop"},
    )
    assert [result.error for result in client.write(name, [NewImage("a", Embedding([1.0] * 8, "elsewhere"))])] == [None]
    client.create_collection(f"{name}_other", dimension=8, fingerprint="elsewhere")
    environment = {"IMAGESEARCH_TARGET": search_address, "XDG_STATE_HOME": str(tmp_path)}

    def run(*arguments: str) -> Result:
        found = CliRunner().invoke(app, list(arguments), env=environment)
        assert found.exit_code == 0, found.output
        return found

    file = str(tmp_path / "a.parquet")
    run("export", "-o", file, "-c", name)
    assert json.loads(run("import", file, "-c", f"{name}_copy", "--json").stdout)["remarks"] == []
    copy = client.get_collection(f"{name}_copy")
    assert dataclasses.replace(copy, name=name, create_time=made.create_time) == made
    # A second import, into the existing collection.
    assert "note:" not in run("import", file, "-c", f"{name}_copy").stderr
    reported = run("import", file, "-c", f"{name}_other").stderr
    assert (
        f"note: {name}_other exists and keeps its settings, which differ from the file's: metric is cosine" in reported
    )
    assert "ttl is none, but 18000 s in the file" in reported
    (remark,) = json.loads(run("import", file, "-c", f"{name}_other", "--json").stdout)["remarks"]
    assert "description is none, but 'die schönen' in the file" in remark


def test_interrupted_export_is_resumed(client: Client, name: str, tmp_path: Path) -> None:
    images = fill(client, name, COUNT)
    target = tmp_path / "out.parquet"
    with pytest.raises(StoppedError):
        export_collection(client, name, target, on_progress=stop)
    with pytest.raises(ExportError, match="filter was None"):
        export_collection(client, name, target, where=equals("number", 1))
    report = export_collection(client, name, target)
    assert (report.rows, report.resumed_rows, report.pages) == (COUNT, 2000, 1)
    check(target, images)


def test_export_applies_the_filter(client: Client, name: str, tmp_path: Path) -> None:
    images = fill(client, name, 300)
    export_collection(client, name, tmp_path / "out.h5", where=equals("odd", "1"))
    # A string, and a list that contains it.
    check(
        tmp_path / "out.h5",
        {key: image for key, image in images.items() if image.attributes.get("odd") in ("1", ["1", ""])},
    )


def test_export_continues_after_an_invalid_page_token(client: Client, name: str, tmp_path: Path) -> None:
    images = fill(client, name, COUNT)
    target = tmp_path / "out.npz"
    with pytest.raises(StoppedError):
        export_collection(client, name, target, on_progress=stop)
    state = target.parent / "out.npz.parts" / "state.json"
    text = state.read_text()
    # As if the key of the service had changed.
    state.write_text(text.replace('"token": "', '"token": "AAAA'))
    assert state.read_text() != text
    report = export_collection(client, name, target)
    assert (report.rows, report.resumed_rows, report.pages) == (COUNT, 2000, 3)
    check(target, images)


def test_export_reads_long_vectors_in_small_pages(client: Client, name: str, tmp_path: Path) -> None:
    images = fill(client, name, 130, dimension=32768)
    report = export_collection(client, name, tmp_path / "out.parquet")
    assert (report.rows, report.pages) == (130, 3)
    check(tmp_path / "out.parquet", images)


def test_export_continues_only_with_its_own_page_token(client: Client, name: str) -> None:
    images = fill(client, name, 25)
    first, token = client.list_page(name, page_size=10, strong=True)
    rest, end = client.list_page(name, page_size=20, page_token=token, strong=True)
    assert [image.id for image in (*first, *rest)] == list(images)
    assert end == ""
    with pytest.raises(InvalidArgumentError) as caught:
        client.list_page(name, page_size=10, page_token=token, strong=True, with_vector=True)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"
