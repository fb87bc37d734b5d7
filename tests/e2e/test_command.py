"""The `imagesearch` command against both services."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.conftest import Stack


def test_a_folder_goes_in_and_pictures_are_found(stack: Stack, photographs: Path, tmp_path: Path) -> None:
    assert "no collections yet" in stack.command("status")
    report = stack.command("ingest", str(photographs))
    assert "18 of 18 images stored in images" in report
    (row,) = json.loads(stack.command("collections", "list", "--json"))
    assert (row["name"], row["images"], row["model"], row["metric"]) == ("images", 18, "vgg16", "cosine")

    again = json.loads(stack.command("ingest", str(photographs), "--json"))
    assert (again["met"], again["stored"], again["skipped"], again["failed"]) == (18, 0, 18, 0)
    status = json.loads(stack.command("status", "--json"))
    assert status["serving"] is True
    assert status["collections"] == [{"name": "images", "images": 18}]

    query = photographs / "below" / "astronaut.jpg"
    table = stack.command("search", str(query), "-k", "3")
    assert "below/astronaut.jpg" in table
    assert "1.0000" in table
    picture = tmp_path / "plot.png"
    arguments = ["search", str(query), str(photographs / "coffee.jpg"), "-k", "4", "--json", "--plot", str(picture)]
    first, second = json.loads(stack.command(*arguments))
    assert first["hits"][0]["id"] == "below/astronaut.jpg"
    assert Path(first["hits"][0]["uri"]) == query
    assert second["hits"][0]["id"] == "coffee.jpg"
    assert len(second["hits"]) == 4
    with Image.open(picture) as plot:
        # Two rows of five tiles, with something drawn on them.
        assert plot.width > 2 * plot.height
        assert len(plot.convert("RGB").getcolors(maxcolors=2**24) or []) > 1000


def test_rejects_are_counted_and_named_and_end_with_an_error(stack: Stack, photographs: Path, tmp_path: Path) -> None:
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
    report = json.loads(stack.command(*arguments, "--json", code=1).split("\n")[0])
    assert (report["met"], report["stored"], report["failed"]) == (7, 2, 5)
    lines = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert {line.get("id") or line["_where"]: line["_reason"] for line in lines} == {
        "empty.jpg": "FILE_EMPTY",
        "gone.jpg": "UNREADABLE",
        "text.png": "IMAGE_FORMAT_UNSUPPORTED",
        "cut.jpg": "IMAGE_CORRUPT",
        f"{folder}/odd\\udcff.jpg": "NAME_NOT_UTF8",
    }
    shown = stack.command(*arguments, code=1)
    assert "7 images: 0 stored in images; 2 as they were; 5 failed" in shown
    assert "--retry-failed" in shown
    assert "1 x IMAGE_CORRUPT" in shown
    stack.command(*arguments, "--fail-above", "5")
    stack.command(*arguments, "--fail-above", "72%")
    stack.command(*arguments, "--fail-above", "71%", code=1)


def test_of_several_queries_only_the_bad_one_fails(stack: Stack, photographs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "few"
    # A name that a terminal's markup would swallow.
    name = "[red]coins[/b].jpg"
    good = folder / name
    good.parent.mkdir(parents=True)
    good.write_bytes((photographs / "coins.jpg").read_bytes())
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    stack.command("ingest", str(folder))
    found, failed = json.loads(stack.command("search", str(bad), str(good), "--json", code=1).split("\n")[0])
    assert found["hits"][0]["id"] == name
    assert (failed["query"], failed["error"]) == (str(bad), "IMAGE_FORMAT_UNSUPPORTED")
    assert name in stack.command("search", str(good))
    for plot in (tmp_path / "nowhere" / "x.png", tmp_path / "x.foo"):
        assert "should be in a folder that exists" in stack.command("search", str(good), "--plot", str(plot), code=2)


def test_images_are_marked_chosen_and_removed(stack: Stack, photographs: Path) -> None:
    stack.command("ingest", str(photographs))
    for name, kind, price in (("coffee.jpg", "drink", 3.5), ("coins.jpg", "money", 100), ("page.jpg", "text", 2)):
        image = json.loads(stack.command("images", "set", name, f"kind={kind}", f"price={price}", 'code="7"'))
        assert image["attributes"] == {"kind": kind, "price": price, "code": "7"}
    page = str(photographs / "page.jpg")

    def found(*arguments: str) -> list[str]:
        (row,) = json.loads(stack.command("search", *arguments, "--json"))
        return [hit["id"] for hit in row["hits"]]

    assert found(page, "--where", "kind in drink,money", "--where", "price<50") == ["coffee.jpg"]
    assert sorted(found(page, "--where", "kind", "--where", "kind!=text")) == ["coffee.jpg", "coins.jpg"]
    assert found("--id", "page.jpg", "--where", "code=7") == []
    assert len(found("--id", "page.jpg", "--unlike", "coffee.jpg", "-k", "20", "--exact")) == 16
    assert len(found(page, "--group-by", "code")) == 1
    assert "is no condition" in stack.command("search", page, "--where", "price~3", code=2)
    assert "nothing to look for" in stack.command("search", code=2)
    assert found("--id", "page.jpg", "--include-query", "--strong")[0] == "page.jpg"
    assert "there are none" in stack.command("search", "--id", "page.jpg", "--region", "0,0,1,1", code=2)
    assert "--group-by makes" in stack.command("search", page, "--group-size", "2", code=2)
    assert "is for INDEX_TYPE_HNSW" in stack.command("search", page, "--ef", "64", code=1)
    explained = stack.command("search", page, "--explain")
    assert "index flat" in explained
    assert "ms Milvus" in explained
    (row,) = json.loads(stack.command("search", page, "--explain", "--json"))
    assert 0 < row["explanation"]["store_seconds"] < row["explanation"]["total_seconds"]
    image = json.loads(stack.command("images", "set", "page.jpg", 'q=["a,b",c]', "--uri", "s3://pages/page.jpg"))
    assert (image["attributes"]["q"], image["uri"]) == (["a,b", "c"], "s3://pages/page.jpg")
    assert found("--id", "coffee.jpg", "--where", 'q in "a,b",d') == ["page.jpg"]
    stack.command("images", "set", "page.jpg", "q=")
    assert "64 bits" in stack.command("images", "set", "page.jpg", "n=99999999999999999999", code=2)
    assert "there twice" in stack.command("images", "set", "page.jpg", "n=1", "n=", code=2)
    assert "nothing to change" in stack.command("images", "set", "page.jpg", code=2)

    latest = stack.command("images", "list", "--latest-first", "--where", "kind").splitlines()
    assert [line.split()[0] for line in latest] == ["page.jpg", "coins.jpg", "coffee.jpg"]
    assert "price=100" in latest[1]
    # Who reads may have seen enough.
    environment = {"IMAGESEARCH_TARGET": stack.search, "PATH": "/usr/bin:/bin"}
    piped = f"set -o pipefail; {sys.executable} -m imagesearch_client.cli images list --json --all | true"
    done = subprocess.run(["/bin/bash", "-c", piped], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    everything = stack.command("images", "list", "--json", "--all").splitlines()
    assert len(everything) == 18
    assert json.loads(everything[0])["id"] == "below/astronaut.jpg"
    image = json.loads(stack.command("images", "get", "coins.jpg", "--vector"))
    assert len(image["vector"]) == 512
    assert "no image nobody" in stack.command("images", "get", "coins.jpg", "nobody", code=1)

    assert "would remove 2" in stack.command("images", "delete", "--where", "price<=3.5", "--dry-run")
    assert "removed 2" in stack.command("images", "delete", "--where", "price<=3.5", "--yes")
    removed = stack.command("images", "delete", "coins.jpg", "nobody", "--yes", code=1)
    assert "removed 1" in removed
    assert "no image nobody" in removed
    assert "removed 0" in stack.command("images", "delete", "--where", "price<=3.5", "--yes")
    assert "either ids or --where" in stack.command("images", "delete", code=2)
    assert "15" in stack.command("status")


def test_an_alias_is_searched_in_the_place_of_a_collection(stack: Stack, photographs: Path) -> None:
    stack.command("ingest", str(photographs), "-c", "photos_1")
    assert "live -> photos_1" in stack.command("aliases", "set", "live", "photos_1")
    coffee = str(photographs / "coffee.jpg")
    assert "coffee.jpg" in stack.command("search", coffee, "-c", "live", "-k", "1")
    stack.command("collections", "create", "photos_2", "--index", "hnsw")
    assert "(was photos_1)" in stack.command("aliases", "set", "live", "photos_2")
    assert "no hits" in stack.command("search", coffee, "-c", "live")
    assert json.loads(stack.command("aliases", "list", "--json")) == {"live": "photos_2"}
    assert "COLLECTION_HAS_ALIASES" in stack.command("collections", "delete", "photos_2", "--yes", code=1)
    assert "removed live" in stack.command("aliases", "delete", "live")
    assert "removed photos_2" in stack.command("collections", "delete", "photos_2", "--yes")


def test_a_collection_is_built_anew_and_its_alias_moved(stack: Stack, photographs: Path) -> None:
    stack.command("ingest", str(photographs), "-c", "photos_1")
    stack.command("aliases", "set", "live", "photos_1")
    shown = stack.command("reindex", "live", "photos_2", "--index", "hnsw", "--m", "24", "--metric", "l2")
    assert "photos_2: 18 images of 18 in photos_1; vectors copied" in shown
    assert "live -> photos_2" in shown
    made = json.loads(stack.command("collections", "get", "live"))
    assert (made["name"], made["images"], made["metric"]) == ("photos_2", 18, "l2")
    assert (made["index"], made["index_parameters"]) == ("hnsw", {"m": 24, "ef_construction": 200})
    assert "1.0000" in stack.command("search", str(photographs / "coffee.jpg"), "-c", "live", "-k", "1")
    assert "COLLECTION_EXISTS" in stack.command("reindex", "live", "photos_1", code=1)
    # Before anything is copied.
    for alias, reason in (("photos_2", "COLLECTION_EXISTS"), ("Bad-Alias", "COLLECTION_NAME_INVALID")):
        assert reason in stack.command("reindex", "live", "photos_3", "--alias", alias, code=1)
        assert "COLLECTION_NOT_FOUND" in stack.command("collections", "get", "photos_3", code=1)
    # Vectors of another space have to be made anew, of files that are there; of which one is not.
    stack.command("collections", "create", "elsewhere", "--ttl", "3600", "--consistency", "strong")
    stack.command("ingest", str(photographs), "-c", "elsewhere")
    stack.command("images", "set", "coffee.jpg", "kind=cup", "-c", "elsewhere")
    report = json.loads(stack.command("reindex", "elsewhere", "copy", "--json"))
    assert (report["count"], report["failed"], report["moved"]) == (18, [], {})
    copied = json.loads(stack.command("collections", "get", "copy"))
    assert (copied["ttl_seconds"], copied["consistency"]) == (3600, "strong")
    (image,) = json.loads("[" + stack.command("images", "get", "coffee.jpg", "-c", "copy") + "]")
    assert image["attributes"] == {"kind": "cup"}
    bad = stack.command("collections", "create", "bad", "--nlist", "8", "--m", "8", code=2)
    assert "--nlist is for IVF" in bad


def test_collections_are_made_and_removed(stack: Stack) -> None:
    for bad in (["--ttl", "inf"], ["--ttl", "1e20"], ["--m", "0"], ["--nlist", "0"]):
        assert "Invalid value" in stack.command("collections", "create", "shoes", *bad, code=2)
    assert "made shoes" in stack.command("collections", "create", "shoes", "--metric", "l2", "--description", "all")
    shown = json.loads(stack.command("collections", "get", "shoes"))
    assert (shown["metric"], shown["dimension"], shown["description"]) == ("l2", 512, "all")
    assert "COLLECTION_EXISTS" in stack.command("collections", "create", "shoes", code=1)
    assert "removed shoes" in stack.command("collections", "delete", "shoes", "--yes")
    assert "COLLECTION_NOT_FOUND" in stack.command("collections", "delete", "shoes", "--yes", code=1)


def test_a_folder_without_images_is_told_so(tmp_path: Path) -> None:
    assert "no images in" in Stack(tmp_path, "unused.db").command("ingest", str(tmp_path), code=1)


@pytest.mark.parametrize(
    "arguments", [["status"], ["collections", "list"], ["search", "PICTURE"], ["ingest", "FOLDER"]], ids=" ".join
)
def test_a_service_that_is_not_there_is_named(photographs: Path, tmp_path: Path, arguments: list[str]) -> None:
    stack = Stack(tmp_path, "unused.db")
    real = {"PICTURE": str(photographs / "coins.jpg"), "FOLDER": str(photographs)}
    code = 3 if arguments[0] == "ingest" else 1
    shown = stack.command(*(real.get(argument, argument) for argument in arguments), code=code)
    assert "UNAVAILABLE" in shown
    assert f"Is the search service up at {stack.search}?" in shown.replace("\n", " ")
