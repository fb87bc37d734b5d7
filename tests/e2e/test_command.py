"""The `imagesearch` command against both services."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from demo.local_stack import free_port
from tests.harness.command import Command
from tests.harness.processes import SearchProcess


def test_ingest_search_and_plot_a_folder(
    command: Command, own_search: SearchProcess, photographs: Path, tmp_path: Path
) -> None:
    command.environment |= {"IMAGESEARCH_TARGET": own_search.address, "IMAGESEARCH_COLLECTION": "images"}
    assert "no collections yet" in command("status")
    command("collections", "create", "images", "--model", "vgg16")
    report = command("ingest", str(photographs))
    assert "18 of 18 images stored in images" in report
    (row,) = json.loads(command("collections", "list", "--json"))
    assert (row["name"], row["images"], row["model"], row["metric"]) == ("images", 18, "vgg16", "cosine")

    again = json.loads(command("ingest", str(photographs), "--json"))
    assert (again["listed"], again["stored"], again["skipped"], again["failed"]) == (18, 0, 18, 0)
    status = json.loads(command("status", "--json"))
    assert status["serving"] is True
    assert status["collections"] == [{"name": "images", "images": 18}]

    query = photographs / "below" / "astronaut.jpg"
    table = command("search", str(query), "-k", "3")
    assert "below/astronaut.jpg" in table
    assert "1.0000" in table
    first, second = json.loads(command("search", str(query), str(photographs / "coffee.jpg"), "-k", "4", "--json"))
    assert first["hits"][0]["id"] == "below/astronaut.jpg"
    assert Path(first["hits"][0]["uri"]) == query
    assert second["hits"][0]["id"] == "coffee.jpg"
    assert len(second["hits"]) == 4
    picture = tmp_path / "plot.png"
    command("plot", str(query), str(photographs / "coffee.jpg"), "-k", "4", "-o", str(picture))
    with Image.open(picture) as plot:
        # Two rows of five tiles, with something drawn on them.
        assert plot.width > 2 * plot.height
        assert len(plot.convert("RGB").getcolors(maxcolors=2**24) or []) > 1000


def test_ingest_reports_rejects_and_fails(command: Command, name: str, photographs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    good = (photographs / "coins.jpg").read_bytes()
    (folder / "good.jpg").write_bytes(good)
    (folder / "รูป ดี.jpg").write_bytes(good)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("not an image")
    (folder / "cut.jpg").write_bytes(good[:1000])
    (folder / "notes.txt").write_text("not looked at")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    with open(os.fsencode(folder) + b"/odd\xff.jpg", "wb") as odd:  # noqa: PTH123 - a name that is no text
        odd.write(good)

    rejects = tmp_path / "rejects.jsonl"
    arguments = ["ingest", str(folder), "--rejects", str(rejects)]
    report = json.loads(command(*arguments, "--json", code=1).split("\n")[0])
    assert (report["listed"], report["stored"], report["failed"]) == (7, 2, 5)
    lines = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert {line.get("id") or line["_where"]: line["_reason"] for line in lines} == {
        "empty.jpg": "FILE_EMPTY",
        "gone.jpg": "UNREADABLE",
        "text.png": "IMAGE_FORMAT_UNSUPPORTED",
        "cut.jpg": "IMAGE_CORRUPT",
        f"{folder}/odd\\udcff.jpg": "NAME_NOT_UTF8",
    }
    shown = command(*arguments, code=1)
    assert f"7 images: 0 stored in {name}; 2 unchanged; 5 failed" in shown
    assert "--retry-failed" in shown
    assert "1 x IMAGE_CORRUPT" in shown
    command(*arguments, "--max-failed", "5")
    command(*arguments, "--max-failed", "72%")
    command(*arguments, "--max-failed", "71%", code=1)


def test_a_bad_query_does_not_stop_the_other_queries(
    command: Command, name: str, photographs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "few"
    # A name that a terminal's markup would swallow.
    name = "[red]coins[/b].jpg"
    good = folder / name
    good.parent.mkdir(parents=True)
    good.write_bytes((photographs / "coins.jpg").read_bytes())
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    command("ingest", str(folder))
    found, failed = json.loads(command("search", str(bad), str(good), "--json", code=1).split("\n")[0])
    assert found["hits"][0]["id"] == name
    assert (failed["query"], failed["error"]) == (str(bad), "IMAGE_FORMAT_UNSUPPORTED")
    assert name in command("search", str(good))
    for plot, said in {"nowhere/x.png": "does not exist", "x.foo": "must end in .png"}.items():
        refused = command("plot", str(good), "-o", str(tmp_path / plot), code=2)
        assert said in " ".join(refused.replace("│", " ").split())


def test_images_are_updated_filtered_and_deleted(command: Command, name: str, photographs: Path) -> None:
    command("ingest", str(photographs))
    for photograph, kind, price in (("coffee.jpg", "drink", 3.5), ("coins.jpg", "money", 100), ("page.jpg", "text", 2)):
        image = json.loads(
            command("images", "update", photograph, f"kind={kind}", f"price={price}", 'code="7"', "--json")
        )
        assert image["attributes"] == {"kind": kind, "price": price, "code": "7"}
    page = str(photographs / "page.jpg")

    def found(*arguments: str) -> list[str]:
        (row,) = json.loads(command("search", *arguments, "--json"))
        return [hit["id"] for hit in row["hits"]]

    assert found(page, "--where", "kind in drink,money", "--where", "price<50") == ["coffee.jpg"]
    assert sorted(found(page, "--where", "kind", "--where", "kind!=text")) == ["coffee.jpg", "coins.jpg"]
    assert found("--id", "page.jpg", "--where", "code=7") == []
    assert len(found("--id", "page.jpg", "--unlike", "coffee.jpg", "-k", "20", "--exact")) == 16
    assert len(found(page, "--group-by", "code")) == 1
    assert "is not a condition" in command("search", page, "--where", "price~3", code=2)
    assert "there is no query" in command("search", code=2)
    assert found("--id", "page.jpg", "--include-query", "--strong")[0] == "page.jpg"
    assert "there are none" in command("search", "--id", "page.jpg", "--region", "0,0,1,1", code=2)
    assert "without --group-by" in command("search", page, "--group-size", "2", code=2)
    assert "HNSW, which uses ef" in command("search", page, "--search-list", "64", code=1)
    explained = command("search", page, "--explain")
    assert "index flat" in explained
    assert "ms Milvus" in explained
    (row,) = json.loads(command("search", page, "--explain", "--json"))
    assert 0 < row["explanation"]["store_seconds"] < row["explanation"]["total_seconds"]
    image = json.loads(command("images", "update", "page.jpg", 'q=["a,b",c]', "--uri", "s3://pages/page.jpg", "--json"))
    assert (image["attributes"]["q"], image["uri"]) == (["a,b", "c"], "s3://pages/page.jpg")
    assert found("--id", "coffee.jpg", "--where", 'q in "a,b",d') == ["page.jpg"]
    command("images", "update", "page.jpg", "q=")
    assert "64 bits" in command("images", "update", "page.jpg", "n=99999999999999999999", code=2)
    assert "is named twice" in command("images", "update", "page.jpg", "n=1", "n=", code=2)
    assert "nothing to change" in command("images", "update", "page.jpg", code=2)

    latest = command("images", "list", "--latest-first", "--where", "kind").splitlines()
    assert [line.split()[0] for line in latest] == ["page.jpg", "coins.jpg", "coffee.jpg"]
    assert "price=100" in latest[1]
    # Who reads may have seen enough.
    piped = f"set -o pipefail; {sys.executable} -m imagesearch_cli images list --json --all | true"
    done = subprocess.run(
        ["/bin/bash", "-c", piped], env=command.environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    everything = command("images", "list", "--json", "--all").splitlines()
    assert len(everything) == 18
    assert json.loads(everything[0])["id"] == "below/astronaut.jpg"
    image = json.loads(command("images", "get", "coins.jpg", "--include-vector", "--json"))
    assert len(image["vector"]) == 1024
    assert "no image nobody" in command("images", "get", "coins.jpg", "nobody", code=1)

    assert "would delete 2" in command("images", "delete", "--where", "price<=3.5", "--dry-run")
    assert "deleted 2" in command("images", "delete", "--where", "price<=3.5", "--yes")
    removed = command("images", "delete", "coins.jpg", "nobody", "--yes", code=1)
    assert "deleted 1" in removed
    assert "no image nobody" in removed
    assert "deleted 0" in command("images", "delete", "--where", "price<=3.5", "--yes")
    assert "give either ids or --where" in command("images", "delete", code=2)
    status = json.loads(command("status", "--json"))
    assert {"name": name, "images": 15} in status["collections"]


def test_search_accepts_an_alias(command: Command, name: str, photographs: Path) -> None:
    first, second, live = f"{name}_1", f"{name}_2", f"{name}_live"
    command("ingest", str(photographs), "-c", first)
    assert f"{live} -> {first}" in command("aliases", "set", live, "-c", first)
    coffee = str(photographs / "coffee.jpg")
    assert "coffee.jpg" in command("search", coffee, "-c", live, "-k", "1")
    command("collections", "create", second, "--index", "hnsw")
    assert f"(was {first})" in command("aliases", "set", live, "-c", second)
    assert "no hits" in command("search", coffee, "-c", live)
    assert json.loads(command("aliases", "list", "--json"))[live] == second
    assert "COLLECTION_HAS_ALIASES" in command("collections", "delete", second, "--yes", code=1)
    assert f"deleted {live}" in command("aliases", "delete", live)
    assert f"deleted {second}" in command("collections", "delete", second, "--yes")


def test_reindex_copies_a_collection_and_moves_its_alias(command: Command, name: str, photographs: Path) -> None:
    first, second, third, live, elsewhere, copy = (f"{name}_{end}" for end in ("1", "2", "3", "live", "else", "copy"))
    command("ingest", str(photographs), "-c", first)
    command("aliases", "set", live, "-c", first)
    shown = command("reindex", "-c", live, "--new", second, "--index", "hnsw", "--m", "24", "--metric", "l2")
    assert f"{second}: 18 images of 18 in {first}; vectors copied" in shown
    assert f"{live} -> {second}" in shown
    made = json.loads(command("collections", "get", live, "--json"))
    assert (made["name"], made["images"], made["metric"]) == (second, 18, "l2")
    assert (made["index"], made["index_parameters"]) == ("hnsw", {"m": 24, "ef_construction": 200})
    assert "1.0000" in command("search", str(photographs / "coffee.jpg"), "-c", live, "-k", "1")
    assert "COLLECTION_EXISTS" in command("reindex", "-c", live, "--new", first, code=1)
    # Before anything is copied.
    for alias, reason in ((second, "COLLECTION_EXISTS"), ("Bad-Alias", "COLLECTION_NAME_INVALID")):
        assert reason in command("reindex", "-c", live, "--new", third, "--alias", alias, code=1)
        assert "COLLECTION_NOT_FOUND" in command("collections", "get", third, code=1)
    # Vectors of another space have to be made anew, of files that are there; of which one is not.
    command("collections", "create", elsewhere, "--ttl-seconds", "3600", "--consistency", "strong")
    command("ingest", str(photographs), "-c", elsewhere)
    command("images", "update", "coffee.jpg", "kind=cup", "-c", elsewhere)
    report = json.loads(command("reindex", "-c", elsewhere, "--new", copy, "--json"))
    assert (report["count"], report["failed"], report["moved"]) == (18, [], {})
    copied = json.loads(command("collections", "get", copy, "--json"))
    assert (copied["ttl_seconds"], copied["consistency"]) == (3600, "strong")
    (image,) = json.loads("[" + command("images", "get", "coffee.jpg", "-c", copy, "--json") + "]")
    assert image["attributes"] == {"kind": "cup"}
    bad = command("collections", "create", "bad", "--nlist", "8", "--m", "8", code=2)
    assert "--nlist is for IVF" in bad


def test_collections_are_created_and_deleted(command: Command, name: str) -> None:
    for bad in (["--ttl-seconds", "inf"], ["--ttl-seconds", "1e20"], ["--m", "0"], ["--nlist", "0"]):
        assert "Invalid value" in command("collections", "create", name, *bad, code=2)
    arguments = ("--metric", "l2", "--description", "all", "--m", "32")
    assert f"created {name}" in command("collections", "create", name, *arguments)
    shown = json.loads(command("collections", "get", name, "--json"))
    assert (shown["metric"], shown["dimension"], shown["description"]) == ("l2", 1024, "all")
    assert (shown["index"], shown["index_parameters"]) == ("hnsw", {"m": 32, "ef_construction": 200})
    assert "COLLECTION_EXISTS" in command("collections", "create", name, code=1)
    assert f"deleted {name}" in command("collections", "delete", name, "--yes")
    assert "COLLECTION_NOT_FOUND" in command("collections", "delete", name, "--yes", code=1)


def test_ingest_reports_a_folder_without_images(command: Command, tmp_path: Path) -> None:
    assert "no images in" in command("ingest", str(tmp_path), code=1)


@pytest.mark.parametrize(
    "arguments", [["status"], ["collections", "list"], ["search", "PICTURE"], ["ingest", "FOLDER"]], ids=" ".join
)
def test_an_unavailable_service_is_named(photographs: Path, arguments: list[str]) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    command = Command({"IMAGESEARCH_TARGET": nowhere})
    real = {"PICTURE": str(photographs / "coins.jpg"), "FOLDER": str(photographs)}
    code = 3 if arguments[0] == "ingest" else 1
    shown = command(*(real.get(argument, argument) for argument in arguments), code=code)
    assert "UNAVAILABLE" in shown
    assert f"Is the search service running at {nowhere}?" in shown.replace("\n", " ")
