"""The commands `imagesearch neighbors`, `duplicates`, `map`, `cluster` and `plot`."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imagesearch_client import Client, Embedding, Metric, NewImage
from tests.harness.command import Command
from tests.unit.analysis.snapshots import red_pixels

COUNT = 90


@pytest.fixture
def products(client: Client, name: str, tmp_path: Path) -> str:
    """Return a collection of three kinds with 30 similar images each. i000 and i003 are almost equal; half have
    pictures."""
    Image.new("RGB", (60, 60), (200, 10, 10)).save(tmp_path / "red.png")
    client.create_collection(name, dimension=16, fingerprint="elsewhere")
    random = np.random.default_rng(0)
    vectors = 6 * random.normal(size=(3, 16))[np.arange(COUNT) % 3] + random.normal(size=(COUNT, 16))
    vectors[3] = vectors[0] + 1e-3
    images = [
        NewImage(
            f"i{n:03d}",
            Embedding(vectors[n].tolist(), "elsewhere"),
            str(tmp_path / "red.png") if n % 2 else f"/nowhere/{n}.jpg",
            {"kind": f"<k{n % 3}>", "sku": n} if n < 80 else {"sku": n},
        )
        for n in range(COUNT)
    ]
    assert [result.error for result in client.write(name, images) if result.error] == []
    return name


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_neighbors_writes_all_formats_and_names(
    command: Command, client: Client, products: str, tmp_path: Path
) -> None:
    target = tmp_path / "out.jsonl"
    said = command("neighbors", "-c", products, "-o", target, "-k", "4", "--id-attribute", "sku", "--decimals", "4")
    assert f"4 neighbors of {COUNT} images in {target}" in said
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["id"] for row in rows] == [str(n) for n in range(COUNT)]
    assert rows[0]["neighbors"][0] == {"id": "3", "score": 1.0}
    hits = client.search_by_id(products, "i007", limit=4, exact=True)
    assert rows[7]["neighbors"] == [
        {"id": str(hit.image.attributes["sku"]), "score": pytest.approx(hit.score, abs=1e-4)} for hit in hits
    ]
    assert not list(tmp_path.glob("*.parts"))
    assert "--force" in command("neighbors", "-c", products, "-o", target, code=2)
    plain = tmp_path / "neighbors.txt"
    command("neighbors", "-c", products, "-o", plain, "-k", "1", "--format", "csv")
    assert list(rows_of(plain)[0]) == ["id", "rank", "neighbor", "score"]
    assert [row["id"] for row in rows_of(plain)] == [f"i{n:03d}" for n in range(COUNT)]
    said = command("neighbors", "-c", products, "-o", tmp_path / "kinds.json", "--id-attribute", "kind", code=1)
    assert "10 of 90 images have no attribute kind, such as i080" in said
    assert "--where kind leaves them out" in said
    reported = json.loads(
        command(
            *(
                "neighbors",
                "-c",
                products,
                "-o",
                tmp_path / "kinds.parquet",
                "--id-attribute",
                "kind",
                "--where",
                "kind",
            ),
            *("--include-self", "--min-score", "0.9", "--json"),
        )
    )
    assert (reported["images"], reported["k"], reported["resumed"]) == (80, 10, 0)
    table = pq.read_table(tmp_path / "kinds.parquet").to_pylist()
    assert {row["id"] for row in table} == {"<k0>", "<k1>", "<k2>"}
    assert all(neighbor["id"] == row["id"] for row in table for neighbor in row["neighbors"])


def test_duplicates_writes_list_page_and_curve_and_follows_decisions(
    command: Command, products: str, tmp_path: Path
) -> None:
    snapshot = tmp_path / "snapshot"
    target, page, curve = (tmp_path / name for name in ("out.csv", "page.html", "curve.png"))
    said = command(
        *("duplicates", "-c", products, "--threshold", "0.999", "--snapshot", snapshot),
        *("-o", target, "--report", page, "--curve", curve),
    )
    assert f"1 groups of 2 images with scores of at least 0.999, among {COUNT} images of {products}" in said
    assert "0 to remove, 1 to review" in said
    assert "Nobody has checked this threshold" in said
    # Only i003 has a readable picture.
    assert [(row["action"], row["id"]) for row in rows_of(target)] == [("keep", "i003"), ("review", "i000")]
    assert page.read_text().count("data:image/jpeg;base64,") == 1
    with Image.open(curve) as drawn:
        assert drawn.format == "PNG"
    trusting = command(
        "duplicates", "-c", products, "--threshold", "0.999", "--snapshot", snapshot, "--trust-threshold"
    )
    assert "1 to remove, 0 to review" in trusting
    assert "Nobody has checked" not in trusting
    (tmp_path / "decisions.csv").write_text("id_a,id_b,duplicate\ni003,i000,0\ni000,gone,1\n")
    arguments = ("duplicates", "-c", products, "--threshold", "0.999", "--snapshot", snapshot)
    said = command(*arguments, "--decisions", tmp_path / "decisions.csv")
    assert "0 groups of 0 images" in said
    assert "1 decided pairs name images that do not exist" in said
    (tmp_path / "labels.csv").write_text("id_a,id_b,duplicate\ni000,i003,1\ni000,i004,0\n")
    reported = json.loads(command("duplicates", "-c", products, "--judged-pairs", tmp_path / "labels.csv", "--json"))
    assert (reported["groups"], reported["remove"], reported["review"], reported["threshold_trusted"]) == (
        1,
        1,
        0,
        True,
    )
    assert (reported["chosen"]["f1"], reported["chosen"]["pairs"]) == (1, 2)


def test_map_draws_a_page_and_a_picture(command: Command, products: str, tmp_path: Path) -> None:
    page, picture = tmp_path / "map.html", tmp_path / "map.png"
    said = command("map", "-c", products, "-o", page, "--color-by", "kind", "--limit", "40")
    assert "40 of 90 images by t-SNE" in said
    text = page.read_text()
    assert 0 < text.count("data:image/jpeg;base64,") < 40
    assert "<k1>" not in text
    assert "http" not in text
    assert "no image has the attribute 'colour'; the attributes are kind" in command(
        *("map", "-c", products, "-o", tmp_path / "no.png", "--color-by", "colour"), code=1
    )
    command("map", "-c", products, "-o", picture, "--where", 'kind="<k0>"')
    assert red_pixels(picture) > 3000
    assert "a map needs at least 3 images; there are 1" in command(
        *("map", "-c", products, "-o", tmp_path / "no.png", "--where", "sku=5"), code=1
    )


def test_cluster_writes_a_table_a_sheet_and_attributes(
    command: Command, client: Client, products: str, tmp_path: Path
) -> None:
    target, sheet = tmp_path / "out.csv", tmp_path / "sheet.html"
    said = command(
        "cluster", "-c", products, "-o", target, "--clusters", "auto", "--report", sheet, "--write-attribute", "look"
    )
    assert f"3 clusters in {COUNT} images of {products}; images in each: 30, 30, 30; silhouette 0." in said
    clusters = [row["cluster"] for row in rows_of(target)]
    assert clusters == clusters[:3] * 30
    assert sorted(clusters[:3]) == ["0", "1", "2"]
    for image in client.list(products, strong=True):
        number = int(image.id[1:])
        kind = {"kind": f"<k{number % 3}>"} if number < 80 else {}
        assert image.attributes == kind | {"sku": number, "look": int(clusters[number])}
    assert sheet.read_text().count("<figure>") == 24
    reported = json.loads(
        command(
            "cluster", "-c", products, "-o", tmp_path / "dense.jsonl", "--method", "hdbscan", "--json"
        ).splitlines()[0]
    )
    assert (reported["clusters"], reported["images"]) == (3, COUNT)


def test_plot_draws_files_and_stored_images(command: Command, client: Client, name: str, tmp_path: Path) -> None:
    Image.new("RGB", (60, 60), (200, 10, 10)).save(tmp_path / "red.png")
    content = (tmp_path / "red.png").read_bytes()
    client.create_collection(name, metric=Metric.L2)
    images = [NewImage(text, content, str(tmp_path / "red.png")) for text in ("a", "b")]
    assert [result.error for result in client.write(name, images) if result.error] == []
    target = tmp_path / "out.svg"
    command("plot", "-c", name, tmp_path / "red.png", "a", "-o", target, "-k", "2")
    text = target.read_text()
    # A file has both images as hits, a stored image only the other one.
    assert text.count("Euclidean distance 0") == 3
    # An id may be longer than a file name.
    for missing in ("c", "c" * 300):
        assert "IMAGE_NOT_FOUND" in command("plot", "-c", name, missing, "-o", tmp_path / "no.png", code=1)
    assert not (tmp_path / "no.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["neighbors", "-c", "c", "-o", "x.txt"], "x.txt must end in .json, .jsonl, .parquet, .csv"),
        (["neighbors", "-c", "c", "-o", "/nowhere/x.json"], "the folder of /nowhere/x.json does not exist"),
        (["neighbors", "-c", "c", "-o", "x.json", "--where", "a<b"], "which is not a number or a date"),
        (["duplicates", "-c", "c", "--curve-from", "0.5"], "has no effect without --curve"),
        (["duplicates", "-c", "c", "--precision", "0.5"], "has no effect without --judged-pairs"),
        (["map", "-c", "c", "-o", "x.png", "--color-by", "a b"], "'a b' is not an attribute name"),
        (["cluster", "-c", "c", "-o", "x.csv", "--clusters", "1"], "'1' must be auto, or a number of at least 2"),
        (
            ["cluster", "-c", "c", "-o", "x.csv", "--method", "hdbscan", "--clusters", "3"],
            "has no effect with --method hdbscan",
        ),
        (["cluster", "-c", "c", "-o", "x.csv", "--min-size", "3"], "has no effect without --method hdbscan"),
        (["cluster", "-c", "c", "-o", "x.csv", "--write-attribute", "1a"], "'1a' is not an attribute name"),
        (["plot", "-c", "c", "q", "-o", "x.gif"], "x.gif must end in .png, .jpg, .pdf, .svg"),
        (["plot", "-c", "c", "q", "-o", "x.png", "--region", "0,0,1"], "'0,0,1' is not a region"),
        (["plot", "-c", "c", "q", "-o", "x.png", "--region", "0,0,1,1"], "there are none"),
        (["plot", "-c", "c", __file__, "q", "-o", "x.png", "--auto-crop"], "crops image files, and 'q' is none"),
        (
            ["plot", "-c", "c", __file__, "-o", "x.png", "--auto-crop", "--region", "0,0,1,1"],
            "selects a part of its own; leave out --region",
        ),
    ],
)
def test_a_wrong_command_line_is_rejected_with_the_allowed_values(
    command: Command, arguments: list[str], message: str
) -> None:
    assert message in " ".join(command(*arguments, code=2).replace("│", " ").split())


def test_a_threshold_must_fit_the_metric(command: Command, client: Client, name: str, tmp_path: Path) -> None:
    client.create_collection(name, dimension=4, fingerprint="elsewhere", metric=Metric.L2)
    assert "give --threshold or --judged-pairs" in command("duplicates", "-c", name, code=2)
    snapshot = tmp_path / "snapshot"
    said = command("duplicates", "-c", name, "--threshold", "2", "--snapshot", snapshot, code=2)
    assert "more than 0 and at most 1" in said
    # The threshold is checked before the snapshot.
    assert not snapshot.exists()
    assert "has no images" in command("duplicates", "-c", name, "--threshold", "0.5", code=1)
    assert "COLLECTION_NOT_FOUND" in command("duplicates", "-c", f"{name}_no", code=1)


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["neighbors", "-o"], "out.json"),
        (["duplicates", "-o"], "out.csv"),
        (["map", "-o"], "out.html"),
        (["cluster", "-o"], "out.csv"),
        (["evaluate", "--by-folder", "-o"], "out.html"),
        (["export", "-o"], "out.parquet"),
    ],
)
def test_an_empty_collection_is_an_error_and_leaves_no_file(
    command: Command, client: Client, name: str, tmp_path: Path, arguments: list[str], output: str
) -> None:
    client.create_collection(name, dimension=4, fingerprint="elsewhere")
    target = tmp_path / output
    assert f"collection {name} has no images; load images first" in command(*arguments, target, "-c", name, code=1)
    filtered = command(*arguments, target, "-c", name, "--where", "sale", code=1)
    assert f"no image of collection {name} matches the filter; change --where" in filtered
    assert not list(tmp_path.iterdir())
