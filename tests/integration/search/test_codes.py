"""Binary codes through the service, with the client and the command; Milvus Lite rejects them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from grpc_kit.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, UnimplementedError
from imagesearch_analysis.codes import check_codes, mean_vector, random_hyperplanes
from imagesearch_analysis.snapshot_writer import take_snapshot
from imagesearch_analysis.vectors import sample_positions
from imagesearch_cli.app import app
from imagesearch_client import Client, Embedding, Index, Metric, NewImage, StoredImage, number
from tests.integration.search.conftest import StartSearch

DIMENSION, COUNT = 96, 1500
Command = Callable[..., Any]


def embedding(seed: int, dimension: int = DIMENSION) -> Embedding:
    """Return one of several vectors that are near to each other."""
    centre = np.random.default_rng(seed % 40).normal(size=dimension)
    return Embedding((centre + 0.4 * np.random.default_rng(1000 + seed).normal(size=dimension)).tolist(), "elsewhere")


def write(client: Client, name: str, count: int, begin: int = 0) -> None:
    images = (NewImage(f"i{n:04d}", embedding(n), attributes={"number": n}) for n in range(begin, begin + count))
    assert [result.error for result in client.write(name, images) if result.error] == []


@pytest.fixture(scope="module")
def address(start_search: StartSearch, milvus_uri: str) -> Iterator[str]:
    with start_search(milvus_uri=milvus_uri, embedder_target="127.0.0.1:1") as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


@pytest.fixture
def command(address: str, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs the command in this process, because a new process takes seconds."""
    monkeypatch.setenv("IMAGESEARCH_TARGET", address)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_command_creates_checks_and_deletes_codes(client: Client, command: Command, name: str) -> None:
    client.create_collection(name, dimension=DIMENSION, fingerprint="elsewhere", index=Index.HNSW)
    for action in ("create", "check"):
        empty = command("codes", action, "-c", name)
        assert (empty.exit_code, f"collection {name} has no images" in empty.stderr) == (1, True)
    write(client, name, COUNT)
    client.set_alias(f"{name}_now", name)
    missing = command("search", "--id", "i0007", "-c", name, "--code-candidates", "50")
    assert missing.exit_code == 1
    assert "CODES_MISSING" in missing.stderr
    assert f"imagesearch codes create -c {name}" in missing.stderr
    assert f"{name} has no codes" in command("codes", "get", "-c", name).stdout
    odd = command("codes", "create", "-c", name, "--bits", "70")
    assert (odd.exit_code, "70 is not a multiple of 8" in odd.stderr) == (2, True)

    made = command("codes", "create", "-c", f"{name}_now", "--bits", "64", "--json")
    assert made.exit_code == 0, made.stderr
    assert "created codes of 64 bits" in made.stderr
    report = json.loads(made.stdout)
    assert (report["encoded"], report["codes"]["bits"], report["codes"]["ready"]) == (COUNT, 64, True)
    status = json.loads(command("codes", "get", "-c", name, "--json").stdout)
    assert (status["collection"], status["images"]) == (name, COUNT)
    assert [(codes["code_count"], codes["code_bytes"]) for codes in status["sets"]] == [(COUNT, COUNT * 8)]

    searched = command("search", "--id", "i0007", "-c", f"{name}_now", "--code-candidates", "80", "--explain", "--json")
    (answer,) = json.loads(searched.stdout)
    assert len(answer["hits"]) == 10
    coarse = answer["explanation"]["coarse"]
    assert (coarse["version"], coarse["bits"], coarse["candidates"]) == (report["codes"]["version"], 64, 81)
    assert "codes " in command("search", "--id", "i0007", "-c", name, "--code-candidates", "80", "--explain").stdout
    few = command("search", "--id", "i0007", "-c", name, "--code-candidates", "5")
    assert (few.exit_code, "it must be between 10 (the limit)" in few.stderr) == (1, True)

    write(client, name, 5, begin=COUNT)
    checked = json.loads(
        command("codes", "check", "-c", name, "--queries", "30", "--code-candidates", "150", "--json").stdout
    )
    assert checked["recall"] > 0.95
    assert (checked["queries"], checked["codes"]["code_count"]) == (30, COUNT + 5)
    assert (checked["code_bytes"], checked["vector_bytes"]) == ((COUNT + 5) * 8, (COUNT + 5) * DIMENSION * 4)
    assert (checked["code_index"], checked["vector_index"]) == ("bin_flat", "hnsw")
    shown = command("codes", "check", "-c", name, "--queries", "5")
    assert "recall@10" in shown.stdout

    assert command("codes", "update", "-c", name).stdout.startswith("0 images encoded")
    assert command("codes", "delete", "-c", name, "--yes").exit_code == 0
    again = command("codes", "delete", "-c", name, "--yes")
    assert (again.exit_code, "CODES_MISSING" in again.stderr) == (1, True)
    client.delete_alias(f"{name}_now")
    client.delete_collection(name)


def test_codes_check_measures_the_recall_of_searches_with_codes(client: Client, name: str, tmp_path: Path) -> None:
    """Compared with exact searches of the service."""
    client.create_collection(name, dimension=DIMENSION, fingerprint="elsewhere", metric=Metric.L2)
    write(client, name, 600)
    mean = mean_vector(client, name)
    made = client.create_codes(name, random_hyperplanes(mean, 64).tolist())
    steps = list(client.encode_images(name))
    assert (steps[0].image_count, steps[-1].encoded, steps[-1].codes is not None) == (600, 600, True)
    # Few candidates, so that some neighbors are missed.
    with take_snapshot(client, name, tmp_path) as snapshot:
        assert mean == pytest.approx(snapshot.vectors.mean(axis=0), abs=1e-5)
        checked = check_codes(client, snapshot, queries=15, candidates=10, seed=5)
        ids = [snapshot.ids[position] for position in sample_positions(600, 15, 5)]
    parts = []
    for image_id in ids:
        truth = {hit.image.id for hit in client.search(name, StoredImage(image_id), exact=True)}
        hits = client.search(name, StoredImage(image_id), coarse=10, where=number("number", gte=0))
        parts.append(len(truth & {hit.image.id for hit in hits}) / 10)
    assert checked.recalls.tolist() == pytest.approx(parts)
    assert 0.2 < checked.recalls.mean() < 0.95
    assert client.get_codes(name).sets[0].codes.version == made.version
    candidates = list(client.search_all(name, embedding(3), coarse=50, limit=20))
    assert len({hit.image.id for hit in candidates}) == 50
    with pytest.raises(InvalidArgumentError, match=r"transform\.hyperplanes\[1\]\.normal has 2 components; it must"):
        client.create_codes(name, [[0.5] * (DIMENSION + 1), [1.0, 1.0, 0.0]])
    client.delete_codes(name)
    with pytest.raises(FailedPreconditionError, match="has no binary codes"):
        list(client.encode_images(name))
    client.delete_collection(name)
    for call in (lambda: client.get_codes(name), lambda: client.delete_codes(name)):
        with pytest.raises(NotFoundError):
            call()


def test_milvus_lite_rejects_codes_over_grpc(start_search: StartSearch, tmp_path: Path) -> None:
    settings = {"milvus_uri": str(tmp_path / "milvus.db"), "embedder_target": "127.0.0.1:1"}
    with start_search(**settings) as address, Client(address) as client:
        client.create_collection("c", dimension=DIMENSION, fingerprint="elsewhere")
        write(client, "c", 70)
        hyperplanes = np.eye(64, DIMENSION + 1).tolist()
        for call in (
            lambda: client.create_codes("c", hyperplanes),
            lambda: list(client.encode_images("c")),
            lambda: client.get_codes("c"),
            lambda: client.delete_codes("c"),
            lambda: client.search("c", embedding(0), coarse=100),
        ):
            with pytest.raises(UnimplementedError, match="Milvus Lite has no index of binary vectors") as caught:
                call()
            assert caught.value.reason == "CODES_UNSUPPORTED"
        with pytest.raises(InvalidArgumentError, match="coarse is 0"):
            client.search("c", embedding(0), coarse=0)
        assert len(client.search("c", embedding(0))) == 10
