"""Measures searches of objects: do regions find an object in front of another background, and what do they cost?

It needs a folder of photographs with `grocery` (clean pictures of products, and photographs of shelves) and `clothing`.
Each product is cut out and pasted on one photograph of clothes; all other photographs of clothes are distractors. The
query is the picture of the product alone. The same queries search the photographs of shelves. Everything runs through
both services, with Milvus 2.3.5.
"""

import argparse
import csv
import math
import statistics
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from benchmarks import object_search_speed
from benchmarks.pasted_objects import Pasted, overlap, pasted
from benchmarks.report import Report
from benchmarks.search_latency import service
from benchmarks.serving import embedder
from imagesearch_client import Client, Hits, ImageFile, NewImage
from tests.milvus_server import MilvusProcess

PARTS = ("objects", "shelf", "searches", "loads")
SEEDS = range(5)
BASELINE, MODEL, MAX_REGIONS = "vgg16", "vgg16-max-native512", 8
# The cache of the embedder, so that it embeds each distractor once for all seeds.
CACHE_VECTORS = 20_000
# Every fourth photograph of a shelf. The settings were found with others: every eighth from the first one.
SHELF_PHOTOGRAPHS = slice(2, None, 4)
# A shelf has many objects, so it needs many regions.
SHELF_REGIONS = 32
SHELF_HITS = 100
REGION_MODELS = ("vgg16-gem-native512", "mobilenet-gem-native512")
SHELF_MODELS = ("vgg16", "mobilenet", *REGION_MODELS)
MIN_RECALL_GAIN, MIN_RECALL_AT_10, MIN_BOX_IOU, AIM_SHELF_GAIN = 0.25, 0.85, 0.40, 0.03


@dataclass(frozen=True)
class Photographs:
    """The photographs of the benchmark."""

    products: Sequence[Path]
    shelf: Sequence[Path]
    shelf_products: Sequence[int]
    """The number of the product on each photograph of a shelf."""
    scenes: Sequence[Path]


def read_photographs(folder: Path) -> Photographs:
    """List the photographs in a folder."""
    grocery = folder / "grocery"
    with (grocery / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    products = sorted((row["product"], grocery / row["path"]) for row in rows if row["role"] == "product")
    numbers = {name: number for number, (name, _) in enumerate(products)}
    shelf = sorted((row["path"], numbers[row["product"]]) for row in rows if row["role"] == "shelf")
    return Photographs(
        [path for _, path in products],
        [grocery / path for path, _ in shelf[SHELF_PHOTOGRAPHS]],
        [number for _, number in shelf[SHELF_PHOTOGRAPHS]],
        sorted((folder / "clothing").glob("*/*.jpg")),
    )


@contextmanager
def services(*models: str) -> Iterator[Client]:
    """Run an embedder with these models, a Milvus server and a search service; yield a client."""
    with (
        TemporaryDirectory() as folder,
        embedder(models=",".join(models), cache_vectors=str(CACHE_VECTORS)) as (embedder_address, _),
        MilvusProcess(Path(folder) / "milvus") as milvus,
        service(milvus.uri, embedder_address) as (address, _),
        Client(address, timeout=120) as client,
    ):
        yield client


def write(client: Client, name: str, images: Iterator[NewImage]) -> None:
    """Write images. Raises the first error."""
    for result in client.write(name, images):
        if result.error is not None:
            raise result.error


def objects(report: Report, photographs: Photographs) -> None:
    """Measure how often the object's photograph is found, and how well its box fits."""
    found: dict[str, list[Found]] = {"whole": [], "regions": []}
    with services(BASELINE, MODEL) as client:
        for seed in SEEDS:
            made = list(pasted(photographs.products, photographs.scenes, seed))
            client.create_collection("whole", model=BASELINE)
            client.create_collection("regions", model=MODEL, max_regions=MAX_REGIONS)
            for name, so_far in found.items():
                so_far.extend(_find_objects(client, name, made, photographs))
                client.delete_collection(name)
    recalls = {
        (name, count): statistics.mean(each.rank < count for each in searched)
        for name, searched in found.items()
        for count in (1, 10)
    }
    report.ratio("recall_gain", recalls["regions", 1] - recalls["whole", 1], f">= {MIN_RECALL_GAIN}")
    report.ratio("recall_at_10", recalls["regions", 10], f">= {MIN_RECALL_AT_10}")
    report.ratio("box_iou", statistics.mean(each.overlap for each in found["regions"]), f">= {MIN_BOX_IOU}")
    report.figure("queries", len(found["regions"]))
    for (name, count), recall in recalls.items():
        report.figure(f"{name}_recall_at_{count}", recall)


@dataclass(frozen=True)
class Found:
    """Where a search found the photograph with the object."""

    rank: int
    """Number of better hits."""
    overlap: float
    """Intersection over union of the reported box and the true one; 0 if the photograph is no hit."""


def _find_objects(client: Client, name: str, made: Sequence[Pasted], photographs: Photographs) -> Iterator[Found]:
    """Write the photographs to a collection, and search it by each product."""
    used = {each.scene for each in made}
    write(client, name, _images(made, [path for number, path in enumerate(photographs.scenes) if number not in used]))
    match = "regions" if client.get_collection(name).max_regions else "images"
    for each in made:
        query = ImageFile(photographs.products[each.product])
        hits = client.search(name, query, match=match, limit=len(photographs.scenes), strong=True)
        true = f"object-{each.product}"
        rank = next((rank for rank, hit in enumerate(hits) if hit.image.id == true), None)
        region = None if rank is None else hits[rank].region
        yield Found(len(hits) if rank is None else rank, overlap(region, each.box) if region else 0.0)


def _images(made: Sequence[Pasted], scenes: Sequence[Path]) -> Iterator[NewImage]:
    for each in made:
        yield NewImage(f"object-{each.product}", each.content)
    for number, path in enumerate(scenes):
        yield NewImage(f"scene-{number}", path)


@dataclass(frozen=True)
class Setting:
    """A way to find the photographs of shelves that show a product."""

    model: str
    match: Literal["images", "regions", "all"] = "images"
    auto_crop: bool = False


def shelf(report: Report, photographs: Photographs) -> None:
    """Search the photographs of shelves by the pictures of products.

    The best setting with whole images and the best one with regions are chosen by the even products, and compared by
    the odd ones.
    """
    whole = [Setting(model) for model in SHELF_MODELS]
    with_regions = [
        Setting(model, match, auto_crop)
        for model in REGION_MODELS
        for match in ("regions", "all")
        for auto_crop in (False, True)
    ]
    scores: dict[Setting, list[float]] = {}
    with services(*SHELF_MODELS) as client:
        for model in SHELF_MODELS:
            settings = [setting for setting in whole + with_regions if setting.model == model]
            scores |= _shelf_scores(client, model, settings, photographs)
    best_whole, best_with_regions = (
        max(settings, key=lambda setting: statistics.mean(scores[setting][::2])) for settings in (whole, with_regions)
    )
    pairs = zip(scores[best_with_regions][1::2], scores[best_whole][1::2], strict=True)
    gains = [ours - theirs for ours, theirs in pairs]
    report.ratio("shelf_map_gain", statistics.mean(gains), f"aim {AIM_SHELF_GAIN}")
    report.figure("shelf_map_gain_standard_error", statistics.stdev(gains) / math.sqrt(len(gains)))
    report.figure("shelf_queries", len(gains))
    for setting, values in scores.items():
        name = f"shelf_{setting.model}_{setting.match}{'_crop' if setting.auto_crop else ''}"
        report.figure(f"{name}_chosen_by", statistics.mean(values[::2]))
        report.figure(name, statistics.mean(values[1::2]))
    print(f"chosen: {best_whole}, {best_with_regions}")


def _shelf_scores(
    client: Client, model: str, settings: Sequence[Setting], photographs: Photographs
) -> dict[Setting, list[float]]:
    """Return the average precision of each product that is on a shelf, for each setting of a model."""
    name = "shelf"
    # Exact: the many alike regions of one photograph are badly connected in a graph, so it returns too few of them.
    client.create_collection(
        name,
        model=model,
        max_regions=SHELF_REGIONS if model in REGION_MODELS else 0,
        index="flat",
    )
    write(client, name, (NewImage(str(number), path) for number, path in enumerate(photographs.shelf)))
    shown: dict[int, set[str]] = {}
    for number, product in enumerate(photographs.shelf_products):
        shown.setdefault(product, set()).add(str(number))
    scores = {
        setting: [
            average_precision(
                client.search(
                    name,
                    ImageFile(photographs.products[product]),
                    match=setting.match,
                    auto_crop=setting.auto_crop,
                    limit=SHELF_HITS,
                    strong=True,
                ),
                shown[product],
            )
            for product in sorted(shown)
        ]
        for setting in settings
    }
    client.delete_collection(name)
    return scores


def average_precision(hits: Hits, right: AbstractSet[str]) -> float:
    """Return the mean of the precisions at the right hits, of as many as there can be; a missing one counts as 0."""
    found, total = 0, 0.0
    for rank, hit in enumerate(hits, start=1):
        if hit.image.id in right:
            found += 1
            total += found / rank
    return total / min(len(right), SHELF_HITS)


def main() -> None:
    """Measure, print the table and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.object_search", description=__doc__)
    parser.add_argument("--photographs", type=Path, default=Path("../shared/data"), help="the folder of photographs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to FILE")
    parser.add_argument("--rounds", type=int, default=5, help="number of measurements of speed, whose medians count")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure only this part; may be repeated")
    options = parser.parse_args()
    photographs = read_photographs(options.photographs)
    report = Report("object_search")
    for part in options.only or PARTS:
        match part:
            case "objects":
                objects(report, photographs)
            case "shelf":
                shelf(report, photographs)
            case "searches":
                object_search_speed.searches(report, options.rounds)
            case "loads":
                object_search_speed.loads(report, options.rounds, photographs.scenes[: object_search_speed.PHOTOGRAPHS])
        report.save(options.json)
    report.finish(options.json)


if __name__ == "__main__":
    main()
