"""Loads, exports, imports, reindexes and analyses of collections with regions, by the command."""

import json
import re
from pathlib import Path

import pytest

from demo.photographs import write_photographs
from imagesearch_client import Client, EmbedderClient, Image
from tests.harness.command import Command

FEW, MODEL, MAX_REGIONS = 5, "mobilenet-max-native256", 4


@pytest.fixture
def command(command: Command, search_address: str) -> Command:
    """Return a runner of `imagesearch` for the service on each backend."""
    return Command(command.environment | {"IMAGESEARCH_TARGET": search_address})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for path in write_photographs(folder)[FEW:]:
        path.unlink()
    return folder


@pytest.fixture
def loaded(command: Command, folder: Path, name: str) -> str:
    """Return a collection with regions that was loaded from a folder."""
    command("collections", "create", name, "--model", MODEL, "--max-regions", str(MAX_REGIONS))
    report = json.loads(command("ingest", folder, "-c", name, "--json"))
    assert (report["stored"], report["failed"]) == (FEW, 0)
    return name


def images_of(search_address: str, collection: str) -> dict[str, Image]:
    with Client(search_address) as client:
        return {image.id: image for image in client.list(collection, with_regions=True, strong=True)}


def test_a_load_stores_the_regions_that_the_embedder_proposes(
    command: Command, loaded: str, folder: Path, search_address: str, embedder_address: str
) -> None:
    stored = images_of(search_address, loaded)
    with EmbedderClient(embedder_address) as embedder:
        for image in stored.values():
            proposed = embedder.embed_regions(folder / image.id, model=MODEL, max_regions=MAX_REGIONS)
            assert image.embedding == proposed.embedding
            assert image.regions == proposed.proposals
    assert all(1 < len(image.regions) <= MAX_REGIONS for image in stored.values())
    # The next load skips all, and a change of attributes keeps the vectors.
    assert json.loads(command("ingest", folder, "-c", loaded, "--json"))["skipped"] == FEW
    command("images", "update", next(iter(stored)), "price=3", "-c", loaded)
    assert [image.regions for image in images_of(search_address, loaded).values()] == [
        image.regions for image in stored.values()
    ]
    through_service = json.loads(command("ingest", folder, "-c", loaded, "--via", "search", "--restart", "--json"))
    assert (through_service["stored"], through_service["failed"]) == (FEW, 0)
    assert [image.regions for image in images_of(search_address, loaded).values()] == [
        image.regions for image in stored.values()
    ]


def test_an_export_to_parquet_and_its_import_keep_every_region(
    command: Command, loaded: str, tmp_path: Path, search_address: str
) -> None:
    stored = images_of(search_address, loaded)
    command("export", "-c", loaded, "-o", tmp_path / "out.parquet")
    command("import", tmp_path / "out.parquet", "-c", f"{loaded}_copy")
    copied = images_of(search_address, f"{loaded}_copy")
    assert {image_id: (image.embedding, image.regions) for image_id, image in copied.items()} == {
        image_id: (image.embedding, image.regions) for image_id, image in stored.items()
    }
    for suffix in ("h5", "npz"):
        shown = command("export", "-c", loaded, "-o", tmp_path / f"out.{suffix}", code=1)
        assert "cannot store the regions" in shown
        assert not (tmp_path / f"out.{suffix}").exists()


def test_a_reindex_keeps_adds_or_removes_regions(
    command: Command, loaded: str, folder: Path, search_address: str
) -> None:
    stored = images_of(search_address, loaded)
    command("reindex", "-c", loaded, "--new", f"{loaded}_2", "--m", "8")
    assert {each.id: each.regions for each in images_of(search_address, f"{loaded}_2").values()} == {
        each.id: each.regions for each in stored.values()
    }
    command("reindex", "-c", loaded, "--new", f"{loaded}_3", "--max-regions", "2")
    fewer = images_of(search_address, f"{loaded}_3")
    assert all(image.regions == stored[image.id].regions[:2] for image in fewer.values())
    # Other regions, or none, need the files.
    command("reindex", "-c", loaded, "--new", f"{loaded}_4", "--max-regions", "0", "--root", folder)
    whole = images_of(search_address, f"{loaded}_4")
    assert all(image.regions == () and image.embedding != stored[image.id].embedding for image in whole.values())
    command("reindex", "-c", f"{loaded}_4", "--new", f"{loaded}_5", "--max-regions", str(MAX_REGIONS), "--root", folder)
    again = images_of(search_address, f"{loaded}_5")
    assert {each.id: each.regions for each in again.values()} == {each.id: each.regions for each in stored.values()}


def test_analyses_and_searches_of_the_command_work_with_regions(
    command: Command, loaded: str, folder: Path, tmp_path: Path
) -> None:
    query = next(folder.iterdir())
    command("neighbors", "-c", loaded, "-o", tmp_path / "neighbors.json", "-k", "2")
    assert len(json.loads((tmp_path / "neighbors.json").read_text())) == FEW
    command("duplicates", "-c", loaded)
    (answer,) = json.loads(command("search", query, "-c", loaded, "--match", "regions", "--json"))
    assert len(answer["hits"]) == FEW
    assert all(len(hit["region"]) == 4 for hit in answer["hits"])
    assert answer["query_region"] == [0, 0, 1, 1]
    shown = command("search", query, "-c", loaded, "--match", "all", "--auto-crop", "-k", "2", "--explain")
    assert "box" in shown
    assert "regions in" in shown
    (described,) = [found for found in json.loads(command("collections", "list", "--json")) if found["name"] == loaded]
    assert (described["images"], described["max_regions"]) == (FEW, MAX_REGIONS)


def test_a_plot_frames_the_part_of_the_query_and_the_parts_that_matched(
    command: Command, loaded: str, folder: Path, tmp_path: Path
) -> None:
    query, other = sorted(folder.iterdir())[:2]
    plot = ("plot", "-c", loaded, "-k", "2", "-o", tmp_path / "plot.svg", "--force", query)

    def frames(*arguments: str) -> int:
        command(*plot, *arguments)
        return (tmp_path / "plot.svg").read_text().count("stroke: #ffd700")

    assert frames() == 0
    assert frames("--match", "regions") == 2
    assert frames("--match", "regions", "--auto-crop") == 3
    assert frames("--region", "0.25,0.25,0.75,0.75") == 1
    assert frames("--match", "all", "--region", "0.25,0.25,0.75,0.75") == 3
    # The part of a file is no part of a stored image.
    assert frames(other.name, "--region", "0,0,0.5,1") == 1


def test_the_command_shows_proposed_regions(command: Command, folder: Path, tmp_path: Path) -> None:
    image = next(folder.iterdir())
    arguments = ("regions", image, "--model", MODEL, "--max-regions", "3", "--box", "0,0,0.5,0.5")
    found = json.loads(command(*arguments, "--json"))
    assert len(found["proposals"]) == 3
    assert found["boxes"][0]["box"] == [0, 0, 0.5, 0.5]
    shown = command(*arguments, "--box", "0,0,1,1", "-o", tmp_path / "boxes.svg")
    assert re.findall(r"^│ (\w+(?: \w+)?) +│", shown, re.MULTILINE) == [
        "1",
        "2",
        "3",
        "A given",
        "B given",
        "S salient",
    ]
    # The picture has the labels of the table.
    text = (tmp_path / "boxes.svg").read_text()
    titles = [
        title
        for title in ("S: salient box", "A: given", "B: given", "1: ", "2: ", "3: ", "4: ")
        if f"<!-- {title}" in text
    ]
    assert titles == ["S: salient box", "A: given", "B: given", "1: ", "2: ", "3: "]
    command(*arguments, "-o", tmp_path / "boxes.svg", code=2)
    command("regions", image, "--model", "mobilenet", code=1)
    command("regions", image, "--box", "0,0,1", code=2)
    command("search", "--id", "a", "--auto-crop", code=2)
