"""Measures searches of objects: do regions find an object in front of another background, and what do they cost?

It needs a folder of photographs with `grocery` (clean pictures of products, and photographs of shelves) and `clothing`.
Each product is cut out and pasted on one photograph of clothes; all other photographs of clothes are distractors. The
query is the picture of the product alone. Everything runs through both services, with Milvus 2.3.5.
"""

import argparse
import csv
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import object_search_speed
from benchmarks.pasted_objects import Pasted, overlap, pasted
from benchmarks.report import Report
from benchmarks.search_latency import service
from benchmarks.serving import embedder
from imagesearch_client import Client, Hits, ImageFile, NewImage, SearchOptions
from tests.milvus_server import MilvusProcess

PARTS = ("objects", "shelf", "searches", "loads")
SEEDS = range(5)
BASELINE, MODEL, MAX_REGIONS = "vgg16", "vgg16-max-native512", 8
# The cache of the embedder, so that it embeds each distractor once for all seeds.
CACHE_VECTORS = 20_000
EVERY_SHELF_PHOTOGRAPH = 4
WHOLE_MODELS = ("vgg16", "vgg16-max-native512", "mobilenet", "mobilenet-max-native512", "mobilenet-avg-native512")
REGION_MODELS = ("vgg16-max-native512", "mobilenet-max-native512", "mobilenet-avg-native512")
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
        [grocery / path for path, _ in shelf][::EVERY_SHELF_PHOTOGRAPH],
        [number for _, number in shelf][::EVERY_SHELF_PHOTOGRAPH],
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
    """A way to find the product on a photograph of a shelf."""

    model: str
    regions: bool
    options: SearchOptions


def shelf(report: Report, photographs: Photographs) -> None:
    """Search the pictures of products by photographs of shelves.

    The best setting with whole images and the best one with regions are chosen by the even queries, and compared by
    the odd ones.
    """
    settings = [Setting(model, regions=False, options={}) for model in WHOLE_MODELS] + [
        Setting(model, regions=True, options={"match": match, "auto_crop": crop})
        for model in REGION_MODELS
        for match in ("images", "regions", "all")
        for crop in (False, True)
        if (match, crop) != ("images", False)
    ]
    with services(*dict.fromkeys(setting.model for setting in settings)) as client:
        scores = {number: _shelf_scores(client, setting, photographs) for number, setting in enumerate(settings)}
    best = {
        regions: max(
            (number for number, setting in enumerate(settings) if setting.regions is regions),
            key=lambda number: statistics.mean(scores[number][::2]),
        )
        for regions in (False, True)
    }
    whole, with_regions = (statistics.mean(scores[best[regions]][1::2]) for regions in (False, True))
    report.ratio("shelf_map_gain", with_regions - whole, f"aim {AIM_SHELF_GAIN}")
    report.figure("shelf_map_whole", whole)
    report.figure("shelf_map_regions", with_regions)
    report.figure("shelf_queries", len(photographs.shelf) // 2)
    for number, setting in enumerate(settings):
        options = "-".join(str(value) for value in setting.options.values())
        report.figure(f"shelf_{setting.model}_{options or 'whole'}", statistics.mean(scores[number][1::2]))
    print(f"chosen: {settings[best[False]]}, {settings[best[True]]}")


def _shelf_scores(client: Client, setting: Setting, photographs: Photographs) -> list[float]:
    """Return the average precision of each query, which has one right answer."""
    name = "products"
    client.create_collection(name, model=setting.model, max_regions=MAX_REGIONS if setting.regions else 0)
    write(client, name, (NewImage(str(number), path) for number, path in enumerate(photographs.products)))
    found: dict[int, Hits] = {}
    queries = map(ImageFile, photographs.shelf)
    options = SearchOptions(**setting.options, limit=len(photographs.products), strong=True)
    for number, hits in client.search_many(name, queries, **options):
        if not isinstance(hits, Hits):
            raise hits
        found[number] = hits
    client.delete_collection(name)
    return [
        next((1 / (rank + 1) for rank, hit in enumerate(found[number]) if hit.image.id == str(product)), 0.0)
        for number, product in enumerate(photographs.shelf_products)
    ]


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
