"""`imagesearch export` and `imagesearch import`, and loads of manifests and shards, against both services."""

import csv
import io
import json
import tarfile
import uuid
from pathlib import Path

import h5py
import numpy as np
import pytest

from imagesearch_client import Client
from tests.harness.command import Command


def hits(command: Command, query: Path, collection: str, *options: str) -> list[dict[str, object]]:
    (answer,) = json.loads(command("search", str(query), "-c", collection, "--json", *options))
    found: list[dict[str, object]] = answer["hits"]
    return found


@pytest.fixture(scope="module")
def products(
    lite_address: str, embedder_address: str, photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A collection of the photographs with attributes of all types, loaded from a manifest."""
    folder, collection = tmp_path_factory.mktemp("products"), f"products_{uuid.uuid4().hex[:16]}"
    manifest = folder / "products.jsonl"
    with manifest.open("w") as file:
        for number, path in enumerate(sorted(photographs.rglob("*.*"))):
            row = {"path": str(path), "id": f"sku-{number}", "price": number + 0.5, "number": number, "ja": number < 9}
            row |= {"tags": ["a", f"ü{number}"], "mixed": number if number % 2 else str(number)}
            file.write(json.dumps(row) + "\n")
    command = Command(
        {
            "IMAGESEARCH_TARGET": lite_address,
            "IMAGESEARCH_EMBEDDER": embedder_address,
            "XDG_STATE_HOME": str(folder),
        }
    )
    command("ingest", manifest, "-c", collection)
    return collection


@pytest.mark.parametrize("suffix", [".parquet", ".h5", ".npz"])
def test_an_imported_export_finds_the_same_hits(
    command: Command, lite_address: str, products: str, name: str, photographs: Path, tmp_path: Path, suffix: str
) -> None:
    file, few = tmp_path / f"products{suffix}", f"{name}_few"
    assert f"18 images of {products}" in command("export", "-o", str(file), "-c", products)
    account = json.loads(command("import", str(file), "-c", name, "--json"))
    assert (account["stored"], account["failed"]) == (18, 0)
    query = photographs / "coffee.jpg"
    for options in (["-k", "18"], ["--where", "number<4", "--where", "ja"]):
        found, expected = (hits(command, query, collection, *options) for collection in (name, products))
        assert [(hit["id"], hit["attributes"]) for hit in found] == [(hit["id"], hit["attributes"]) for hit in expected]
        # Rows lie otherwise in the copy, and a sum in another order may differ in its last bit.
        assert [hit["score"] for hit in found] == pytest.approx([hit["score"] for hit in expected], abs=1e-6)
    with Client(lite_address) as client:
        old, new = (list(client.list(kept, with_vector=True, strong=True)) for kept in (products, name))
        assert [image.embedding for image in new] == [image.embedding for image in old]
        for one, other in zip(old, new, strict=True):
            assert (one.id, one.uri, one.content_sha256) == (other.id, other.uri, other.content_sha256)
            assert {key: (type(value), value) for key, value in one.attributes.items()} == {
                key: (type(value), value) for key, value in other.attributes.items()
            }
        # It takes images as well: its model is known.
        assert client.get_collection(name).model == "mobilenet"
    again = json.loads(command("import", str(file), "-c", name, "--json"))
    assert again["skipped"] == 18
    assert "exists" in command("export", "-o", str(file), "-c", products, code=3)
    command("export", "-o", str(file), "-c", products, "--force", "--where", "number<4")
    partly = json.loads(command("import", str(file), "-c", few, "--json"))
    assert partly["stored"] == 4


def test_import_loads_vectors_of_another_program(
    command: Command, lite_address: str, name: str, tmp_path: Path
) -> None:
    file = tmp_path / "features.h5"
    vectors = np.random.default_rng(1).normal(size=(50, 64)).astype(np.float32)
    vectors[7] = 0
    with h5py.File(file, "w") as features:
        features["dataset_1"] = vectors
        features["dataset_2"] = np.array([f"{number}.jpg" for number in range(50)], dtype="S")
    assert "--fingerprint" in command("import", str(file), "-c", name, code=2)
    rejects = tmp_path / "rejects.jsonl"
    arguments = ["import", str(file), "-c", name, "--fingerprint", "resnet50", "--metric", "l2"]
    account = json.loads(command(*arguments, "--json", "--rejects", str(rejects), code=1).splitlines()[0])
    assert (account["stored"], account["reasons"]) == (49, {"ROW_INVALID": 1})
    with Client(lite_address) as client:
        made = client.get_collection(name)
        assert (made.dimension, made.fingerprint, made.model, made.metric.value) == (64, "resnet50", "", "l2")
        hit = client.search_by_id(name, "3.jpg", limit=1, include_query=True, strong=True)[0]
        assert hit.image.id == "3.jpg"
    assert "vectors of 64 x resnet50" in command("import", str(file), "-c", name, "--fingerprint", "vgg", code=2)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"x")
    assert "come from elsewhere" in command("ingest", str(folder), "-c", name, code=3)


def test_ingest_reads_ids_and_attributes_from_a_manifest(command: Command, photographs: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "products.csv"
    with manifest.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "sku", "Product name", "price", "cost", "ean"])
        rows.writerow(["coffee.jpg", "17", "Becher, blau", "3.5", "1", "0042"])
        rows.writerow(["coins.jpg", "18", "เหรียญ", "4", "2", "0043"])
        rows.writerow(["nowhere.jpg", "19", "", "", "3", "0044"])
    options = ["--root", str(photographs), "--id-column", "sku", "--map", "cost="]
    refused = command("ingest", str(manifest), *options, code=2)
    assert "--map" in refused.replace("\n", " ")
    options += ["--map", "Product name=name"]
    account = json.loads(command("ingest", str(manifest), *options, "--json", code=1).splitlines()[0])
    assert (account["stored"], account["reasons"]) == (2, {"UNREADABLE": 1})
    found = [json.loads(line) for line in command("images", "list", "--json").splitlines()]
    assert [(image["id"], image["attributes"]) for image in found] == [
        ("17", {"name": "Becher, blau", "price": 3.5, "ean": "0042"}),
        ("18", {"name": "เหรียญ", "price": 4.0, "ean": "0043"}),
    ]
    listed = command("search", str(photographs / "coins.jpg"), "--where", "price<4", "--json")
    assert [hit["id"] for hit in json.loads(listed)[0]["hits"]] == ["17"]


def test_ingest_reads_images_and_attributes_from_a_shard(command: Command, photographs: Path, tmp_path: Path) -> None:
    shard = tmp_path / "shard-0001.tar"
    with tarfile.open(shard, "w") as archive:
        for number, name in enumerate(("coffee", "coins", "page")):
            (path,) = photographs.rglob(f"{name}.*")
            archive.add(path, f"{number:04}{path.suffix}")
            for suffix, content in ((".json", json.dumps({"price": number})), (".cls", str(number))):
                member = tarfile.TarInfo(f"{number:04}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content.encode()))
    account = json.loads(command("ingest", str(shard), "--json"))
    assert (account["listed"], account["stored"]) == (3, 3)
    found = [json.loads(line) for line in command("images", "list", "--json").splitlines()]
    assert [image["attributes"] for image in found] == [{"price": n, "cls": n} for n in range(3)]
    assert all(image["id"].startswith("shard-0001.tar/000") for image in found)
    assert json.loads(command("ingest", str(shard), "--json"))["skipped"] == 3


def test_rejects_never_replace_their_source(command: Command, photographs: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "rejects.jsonl"
    line = json.dumps({"uri": str(photographs / "nowhere.jpg")})
    manifest.write_text(line)
    assert "would be lost" in command("ingest", str(manifest), "--rejects", str(manifest), code=2)
    assert manifest.read_text() == line
