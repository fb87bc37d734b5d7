"""The command `imagesearch evaluate` with real services."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from imagesearch_client import Client, Embedding, NewImage
from tests.harness.command import Command
from tests.integration.evaluation.conftest import ODD

ROLES = ("--role-column", "role", "--query-role", "shelf", "--target-role", "product")


def read(printed: str) -> dict[str, Any]:
    """Return what --json printed; messages follow it."""
    found: dict[str, Any] = json.loads(printed.splitlines()[0])
    return found


def test_evaluate_reports_the_figures_of_the_stored_vectors(
    command: Command, client: Client, collection: str, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    arguments = ("evaluate", "-c", collection, "--by-folder", "-k", "2")
    shown = command(*arguments)
    found = read(command(*arguments, "--json", "-o", page))

    images = list(client.list(collection, with_vector=True, strong=True))
    vectors = np.array([image.embedding.values for image in images if image.embedding])
    similarity = vectors @ vectors.T
    kinds = np.array([image.id.partition("/")[0] for image in images])
    others = ~np.eye(len(images), dtype=bool)
    expected = [
        average_precision_score((kinds == kinds[row])[others[row]], similarity[row][others[row]])
        for row in range(len(images))
    ]
    assert [query["query"] for query in found["per_query"]] == [image.id for image in images]
    assert [query["mAP"] for query in found["per_query"]] == pytest.approx(expected)
    assert found["exact"]["mAP"]["mean"] == pytest.approx(np.mean(expected))
    assert found["queries"] == found["images"] == 15
    # Milvus Lite compares every vector, so the index loses nothing.
    assert found["agreement"]["agreement@2"]["mean"] == 1
    assert found["through_index"]["recall@2"] == found["exact"]["recall@2"]
    assert f"{found['exact']['mAP']['mean']:.3f}" in shown
    assert found["by_class"].keys() == {ODD, "rocket", "coins", "cat", "astronaut"}

    html = page.read_text()
    assert ODD not in html
    assert "&lt;b&gt;&#34;cups&#34;" in html
    # Every query and hit has its picture, with a frame for right or wrong.
    assert html.count('src="data:image/jpeg;base64,') == 15 * 3
    assert html.count('class="right"') == sum(2 * query["P@2"] for query in found["per_query"])
    assert html.count('class="right"') + html.count('class="wrong"') == 15 * 2
    assert "https://" not in html
    assert "Nothing." in html

    assert "exists; name another file" in command(*arguments, "-o", page, code=2)
    assert page.read_text() == html


def test_roles_come_from_labels_or_from_attributes(
    command: Command, name: str, photos: Path, labels: Path, collection: str
) -> None:
    arguments = ("--root", photos, "--label-column", "product", *ROLES, "-k", "1", "-k", "3")
    reported = command("evaluate", "-c", collection, "--labels", labels, *arguments, "--json")
    shown = command("evaluate", "-c", collection, "--labels", labels, *arguments, "--ef", "64", code=1)
    assert "--ef is 64; it must be at least 1000" in shown
    # The manifest stores the role as an attribute, so the service searches only products.
    command("ingest", labels, "--root", photos, "-c", name)
    stored = command("evaluate", "-c", name, "--labels", labels, *arguments, "--json")
    by_attribute = command("evaluate", "-c", name, "--by-attribute", "product", *ROLES, "-k", "1", "-k", "3", "--json")
    found = [read(printed) for printed in (reported, stored, by_attribute)]
    for figures in found:
        assert (figures["queries"], figures["targets"]) == (10, 5)
        assert figures["exact"]["mAP"] == found[0]["exact"]["mAP"]
        assert figures["through_index"]["AP@3"] == figures["exact"]["AP@3"]
        assert figures["cut_short"] == 0
        assert all(query["relevant"] == 1 for query in figures["per_query"])
        assert {hit for query in figures["per_query"] for hit in query["hits"] if "plain" not in hit} == set()


def test_files_outside_of_the_collection_are_queries(
    command: Command, name: str, photos: Path, labels: Path, tmp_path: Path
) -> None:
    rows = labels.read_text().splitlines()
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join([rows[0], *(row for row in rows if ",product," in row)]) + "\n")
    command("ingest", manifest, "--root", photos, "-c", name)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    more = tmp_path / "more.csv"
    more.write_text("\n".join([*rows, f"{broken},shelf,coins", "gone.png,shelf,coins"]) + "\n")
    page = tmp_path / "page.html"
    arguments = ("evaluate", "-c", name, "--labels", more, "--root", photos, "--label-column", "product", *ROLES)
    shown = command(*arguments)
    found = read(command(*arguments, "--json", "-o", page))
    assert (found["queries"], found["images"]) == (10, 5)
    assert found["exact"]["P@1"]["mean"] >= 0.8
    assert found["through_index"]["recall@10"] == found["exact"]["recall@10"]
    assert found["left_out"]["labels without an image"] == ["gone.png"]
    (refused,) = found["left_out"]["queries that failed"]
    assert refused.startswith(f"{broken}: IMAGE_FORMAT_UNSUPPORTED")
    assert "1 queries that failed" in shown
    assert page.read_text().count('src="data:image/jpeg;base64,') == 10 * (1 + 5)

    assert "UNAVAILABLE" in command(*arguments, code=1, IMAGESEARCH_EMBEDDER="127.0.0.1:9")


def test_evaluate_accepts_a_list_of_right_answers_and_a_sample(
    command: Command, collection: str, tmp_path: Path
) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(
        "query,relevant\ncat/chelsea-crop.png,cat/chelsea-plain.png\ncat/chelsea-crop.png,cat/chelsea-mirror.png\n"
        "coins/coins-crop.png,rocket/rocket-plain.png\nnobody.png,cat/chelsea-plain.png\n"
    )
    found = read(command("evaluate", "-c", collection, "--labels", pairs, "-k", "2", "--json"))
    cat, coins = found["per_query"]
    assert (cat["query"], cat["relevant"], cat["recall@2"]) == ("cat/chelsea-crop.png", 2, 1)
    assert (coins["relevant"], coins["P@2"]) == (1, 0)
    assert found["by_class"] == {}
    assert found["left_out"]["labels without an image"] == ["nobody.png"]
    found = read(command("evaluate", "-c", collection, "--by-folder", "--sample", "4", "--exact-only", "--json"))
    assert (found["queries"], found["through_index"]) == (4, None)


def test_files_cannot_be_queries_if_no_served_model_made_the_vectors(
    command: Command, client: Client, name: str, photos: Path, labels: Path
) -> None:
    client.create_collection(name, dimension=2, fingerprint="mine")
    images = [NewImage(f"{number}", Embedding([1.0, number], "mine")) for number in range(3)]
    assert all(result.error is None for result in client.write(name, images))
    more = labels.with_name("more.csv")
    more.write_text(labels.read_text() + "0,product,rocket\n")
    shown = command("evaluate", "-c", name, "--labels", more, "--root", photos, "--label-column", "product", code=1)
    # Only the images of the rocket have a right answer there.
    assert "EMBEDDING_MISMATCH: 3 queries are files outside of the collection, whose fingerprint is mine" in shown
    assert "serves mobilenet (mobilenet-avg-" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by-attribute", "nothing"], "no image has the attribute 'nothing'"),
        (["--by-folder", "--where", "nothing"], "no image of collection"),
        (["--by-folder", "--search-list", "20"], "SEARCH_PARAMETERS_INVALID"),
    ],
)
def test_impossible_measurements_are_errors(
    command: Command, collection: str, arguments: list[str], message: str
) -> None:
    shown = command("evaluate", "-c", collection, *arguments, code=1)
    assert message in " ".join(shown.replace("│", " ").split())


def test_an_unknown_collection_is_an_error(command: Command) -> None:
    assert "COLLECTION_NOT_FOUND" in command("evaluate", "-c", "nothing_here", "--by-folder", code=1)


def test_evaluate_and_compare_score_an_image_by_its_best_region(
    command: Command, client: Client, photos: Path, tmp_path: Path
) -> None:
    model, regions = "mobilenet-max-native256", ("--match", "regions")
    client.create_collection("regions_of_photos", model=model, max_regions=4)
    command("ingest", photos, "-c", "regions_of_photos")
    arguments = ("evaluate", "-c", "regions_of_photos", "--by-folder", "-k", "2", "--json")
    found = json.loads(command(*arguments, *regions).splitlines()[0])
    whole = json.loads(command(*arguments).splitlines()[0])
    assert found["exact"]["mAP"]["mean"] > 0.5
    assert found["exact"] != whole["exact"]
    # Milvus Lite compares every region, so the service finds what an exact search of all regions finds.
    assert found["agreement"]["agreement@2"]["mean"] == pytest.approx(1)
    compared = command(
        "compare", photos, "--by-folder", "--models", model, "-k", "2", "--json", *regions, "--max-regions", "4",
        "--cache", tmp_path,
    )  # fmt: skip
    (candidate,) = json.loads(compared.splitlines()[0])["candidates"]
    assert candidate["figures"]["mAP"]["mean"] == pytest.approx(found["exact"]["mAP"]["mean"], abs=1e-6)
    assert candidate["bytes_per_image"] == 5 * 4096
    again = command(
        "compare", photos, "--by-folder", "--models", model, "-k", "2", "--json", *regions, "--max-regions", "4",
        "--cache", tmp_path,
    )  # fmt: skip
    (cached,) = json.loads(again.splitlines()[0])["candidates"]
    assert cached["embedded_now"] == 0
    assert cached["figures"] == candidate["figures"]


def test_regions_are_asked_only_of_what_has_them(command: Command, photos: Path, collection: str) -> None:
    shown = command("evaluate", "-c", collection, "--by-folder", "--match", "regions", code=1)
    assert "REGIONS_MISSING" in shown or "has no regions" in shown
    shown = command("compare", photos, "--by-folder", "--models", "mobilenet", "--match", "regions", code=2)
    assert "mobilenet cannot embed regions" in shown
    command("compare", photos, "--by-folder", "--max-regions", "4", code=2)
