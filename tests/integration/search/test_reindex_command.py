"""`imagesearch reindex`: interrupted, with missing files, and before the next load."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.photographs import write_photographs
from imagesearch_client import Client, Embedding, NewImage
from imagesearch_ingest.reindex.new_collection import Change, create_new_collection
from imagesearch_ingest.reindex.reindexing import Reindexing
from tests.harness.command import Command

FEW = 6


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for path in write_photographs(folder)[FEW:]:
        path.unlink()
    return folder


@pytest.fixture
def live(command: Command, photographs: Path, name: str) -> Iterator[str]:
    """Return an alias of a collection that was loaded from a folder."""
    command("collections", "create", f"{name}_1", "--model", "mobilenet-max")
    command("aliases", "set", f"{name}_live", "-c", f"{name}_1")
    command("ingest", photographs, "-c", f"{name}_live")
    yield f"{name}_live"
    command("aliases", "delete", f"{name}_live")


def test_load_after_a_reindex_skips_stored_images(command: Command, live: str, name: str, photographs: Path) -> None:
    report = json.loads(
        command("reindex", "-c", live, "--new", f"{name}_2", "--model", "mobilenet", "--root", photographs, "--json")
    )
    assert (report["count"], report["failed"], report["moved"]) == (FEW, [], {live: f"{name}_1"})
    again = json.loads(command("ingest", photographs, "-c", live, "--json"))
    assert (again["stored"], again["skipped"]) == (0, FEW)


def test_alias_never_moves_to_an_empty_collection(command: Command, live: str, name: str, photographs: Path) -> None:
    arguments = ("reindex", "-c", live, "--new", f"{name}_2", "--model", "mobilenet", "--root", photographs)
    kept = {path: path.read_bytes() for path in photographs.iterdir()}
    for path in kept:
        path.unlink()
    shown = command(*arguments, "--skip-failed", code=1)
    assert "No alias was moved" in shown
    assert "No such file" in shown
    assert json.loads(command("collections", "get", live, "--json"))["name"] == f"{name}_1"
    # One file exists again: the same command resumes, and moves the alias only with the option.
    path, content = kept.popitem()
    path.write_bytes(content)
    assert "No alias was moved" in command(*arguments, code=1)
    shown = command(*arguments, "--skip-failed")
    assert f"{name}_2: 1 images of {FEW}" in shown
    assert json.loads(command("collections", "get", live, "--json"))["name"] == f"{name}_2"


def test_interrupted_reindex_is_resumed(
    command: Command, live: str, name: str, lite_address: str, photographs: Path
) -> None:
    class Interrupted(Exception):  # noqa: N818 - what a kill does
        pass

    def interrupt(_: int) -> None:
        raise Interrupted

    with Client(lite_address) as client:
        old = client.get_collection(live)
        made = create_new_collection(client, old, f"{name}_2", Change())
        with pytest.raises(Interrupted):
            Reindexing(client, old, made, photographs, interrupt).copy()
        # Later changes are found too: one image is deleted, one is new, one has other content.
        gone, changed = [image.id for image in client.list(live)][:2]
        client.delete(live, [gone])
        client.update(live, changed, uri="changed")
        (result,) = client.write(live, [NewImage("new", Embedding([1.0] * old.dimension, old.fingerprint))])
        assert result.error is None
        assert "COLLECTION_EXISTS" in command("reindex", "-c", live, "--new", f"{name}_2", "--metric", "l2", code=1)
        assert f"{live} -> {name}_2" in command("reindex", "-c", live, "--new", f"{name}_2")
        expected = {image.id: image.uri for image in client.list(f"{name}_1", strong=True)}
        assert {image.id: image.uri for image in client.list(live, strong=True)} == expected
        assert expected.keys() >= {"new", changed}
        assert gone not in expected


def test_command_filters_integers_exactly(command: Command, name: str, lite_address: str) -> None:
    with Client(lite_address) as client:
        client.create_collection(name, dimension=2, fingerprint="f")
        numbers = (2**53 - 1, 2**53, 2**53 + 1, -(2**53) - 1)
        images = [NewImage(f"n{number}", Embedding([1, 0], "f"), attributes={"n": number}) for number in numbers]
        assert all(result.error is None for result in client.write(name, images))
        for text, expected in (
            ("n>=9007199254740993", [2**53 + 1]),
            ("n<9007199254740993", [2**53 - 1, 2**53, -(2**53) - 1]),
            ("n>9007199254740992", [2**53 + 1]),
            ("n=9007199254740992", [2**53]),
            ("n<=-9007199254740993", [-(2**53) - 1]),
            ("n>-9007199254740993", [2**53 - 1, 2**53, 2**53 + 1]),
        ):
            assert client.count(name) == 4
            listed = command("images", "list", "-c", name, "--where", text, "--json")
            found = {json.loads(line)["attributes"]["n"] for line in listed.splitlines()}
            assert found == set(expected), text
