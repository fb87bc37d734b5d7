"""The page for those who come from articles: every command on it runs, and does what the page says."""

import csv
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.harness.command import Command
from tests.harness.processes import EmbedderProcess, SearchProcess
from tests.seeded_weights import Images, cached

PAGE = Path(__file__).parents[2] / "docs" / "get-started" / "from-articles.md"
SEEDED = ("vgg16_top", "inception_v3", "resnet50", "densenet121", "mobilenet_v2")
# Parts of a photograph, so that there are enough pictures for binary codes.
PARTS = 5

# Networks are built, a model is trained, and a hundred pictures are embedded by each.
pytestmark = pytest.mark.timeout(900)


def sections() -> dict[str, list[str]]:
    """The page's command lines by the heading that they are under; those before the first under the empty one."""
    found: dict[str, list[str]] = {"": []}
    heading, in_block = "", False
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            heading = line[3:]
            found[heading] = []
        elif line.startswith("```"):
            in_block = line == "```sh"
        elif in_block:
            found[heading].append(line)
    return found


def models_of(lines: list[str]) -> str:
    (line,) = [line for line in lines if line.startswith("EMBEDDER_MODELS=")]
    found = re.fullmatch(r"EMBEDDER_MODELS=(\S+) make up", line)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Path:
    """A reader's folder: parts of photographs, each photograph's in a folder of its own, and the list of products."""
    folder = tmp_path_factory.mktemp("reader")
    products = []
    for number, path in enumerate(sorted(photographs.rglob("*.jpg"))):
        with Image.open(path) as opened:
            image = opened.convert("RGB").resize((400, 300))
        for part in range(PARTS):
            left = 20 * part
            target = folder / "photos" / path.stem / f"{part}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            image.crop((left, 10 * part, left + 300, 10 * part + 240)).save(target, quality=90)
            products.append((str(target.relative_to(folder)), f"product-{number}-{part}"))
    (folder / "photos" / "query.jpg").write_bytes((folder / products[0][0]).read_bytes())
    with (folder / "products.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "product_id"), *products])
    return folder


@pytest.fixture(scope="module")
def seeded(folder: Path) -> Mapping[str, str]:
    """The settings that name files of seeded weights for what a package index does not have."""

    def images(side: int) -> Images:
        paths = sorted((folder / "photos").rglob("0.jpg"))[:4]
        return np.stack([np.asarray(Image.open(path).resize((side, side)), np.float32) for path in paths])

    made = {name: cached(name, images) for name in SEEDED}
    return {
        "weights": ",".join(f"{name}={file.path}" for name, file in made.items()),
        "weights_sha256": ",".join(f"{name}={file.sha256}" for name, file in made.items()),
    }


class Reader:
    """Types the page's lines, in the reader's folder."""

    def __init__(self, folder: Path, search: str, embedder: str) -> None:
        self.folder = folder
        self._command = Command(
            {
                "IMAGESEARCH_TARGET": search,
                "IMAGESEARCH_EMBEDDER": embedder,
                "XDG_STATE_HOME": str(folder / "state"),
            }
        )

    def type(self, lines: list[str]) -> str:
        """Runs the lines that are commands of imagesearch; gives what they printed."""
        typed = [shlex.split(line)[1:] for line in lines if line.startswith("imagesearch ")]
        assert typed
        with chdir(self.folder):
            return "\n".join(self._command(*arguments) for arguments in typed)


@contextmanager
def services(
    models: str, seeded: Mapping[str, str], folder: Path, milvus_uri: str
) -> Iterator[tuple[EmbedderProcess, SearchProcess]]:
    """Both services, as the page starts them."""
    embedder = EmbedderProcess(
        folder / "embedder.log",
        models=models,
        max_batch_size="2",
        # Nothing to choose: it would build each network twice.
        precision="float32",
        **seeded,
    )
    search = SearchProcess(folder / "search.log", milvus_uri=milvus_uri, embedder_target=embedder.address)
    with embedder, search:
        yield embedder, search


@pytest.fixture(scope="module")
def reader(seeded: Mapping[str, str], folder: Path, milvus_uri: str) -> Iterator[Reader]:
    """With the services as the page starts them first."""
    with services(models_of(sections()[""]), seeded, folder, milvus_uri) as (embedder, search):
        yield Reader(folder, search.address, embedder.address)


@pytest.fixture(scope="module")
def quick_reader(folder: Path, lite_address: str, embedder_address: str) -> Reader:
    """With the services that all tests share, and few pictures in the collections that the page makes."""
    few = folder / "few" / "photos"
    for number, path in enumerate(sorted((folder / "photos").rglob("0.jpg"))[:8]):
        few.mkdir(parents=True, exist_ok=True)
        (few / f"{number}.jpg").write_bytes(path.read_bytes())
    (few / "query.jpg").write_bytes((few / "0.jpg").read_bytes())
    rows = [(f"photos/{number}.jpg", f"product-{number}-0") for number in range(8)]
    with (few.parent / "products.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "product_id"), *rows])
    reader = Reader(few.parent, lite_address, embedder_address)
    for collection, metric, source in (
        ("euclid", "l2", "photos"),
        ("vgg", "cosine", "photos"),
        ("products", "cosine", "products.csv --column-type product_id=text"),
        ("pictures", "cosine", "photos"),
    ):
        reader.type(
            [
                f"imagesearch collections create {collection} --model mobilenet --metric {metric}",
                f"imagesearch ingest {source} -c {collection}",
            ]
        )
    return reader


# A command of each article that needs no network of its own.
QUICK_COMMANDS = {
    "InceptionV3": ("imagesearch plot -c euclid", "euclid.png"),
    "VGG16, ResNet": ("imagesearch export", "features.h5"),
    "MobileNetV2": ("imagesearch neighbors", "similar.json"),
    "VGG features": ("imagesearch duplicates", "duplicates.csv"),
}


@pytest.mark.parametrize("article", QUICK_COMMANDS)
def test_a_command_of_each_article_runs(quick_reader: Reader, article: str) -> None:
    beginning, written = QUICK_COMMANDS[article]
    lines = [line for line in of(article) if line.startswith(beginning)]
    quick_reader.type(lines[:1])
    assert (quick_reader.folder / written).stat().st_size > 100


def test_the_articles_autoencoder_is_trained(folder: Path) -> None:
    (line,) = [line for line in of("An autoencoder") if "train-autoencoder" in line]
    command = Command({})
    # In a process of its own: a training changes how TensorFlow computes from then on.
    command.in_a_process(*shlex.split(line)[1:-1], "1", cwd=folder)
    assert (folder / "models" / "own" / "encoder.keras").is_file()


def of(beginning: str) -> list[str]:
    (lines,) = [lines for heading, lines in sections().items() if heading.startswith(beginning)]
    return lines


def is_picture(path: Path) -> bool:
    with Image.open(path) as image:
        return min(image.size) > 100


def numbers(path: Path, name: str) -> list[float]:
    """The numbers of a name that are written in an SVG; Matplotlib keeps each line of text as a comment."""
    return [float(number) for number in re.findall(rf"<!-- {name} (\S+) -->", path.read_text())]


def test_every_section_of_the_page_is_tested() -> None:
    tested = ("", "InceptionV3", "VGG16, ResNet", "MobileNetV2", "VGG features", "An autoencoder")
    assert len(sections()) == len(tested)
    assert all(any(heading.startswith(each) for heading in sections()) for each in tested)


@pytest.mark.soak
def test_inception_by_euclid_and_cosine(reader: Reader) -> None:
    lines = of("InceptionV3")
    reader.type(lines)
    assert is_picture(reader.folder / "euclid.png")
    assert is_picture(reader.folder / "cosine.png")
    # The same pictures in a format whose text can be read. The query is a copy of an image.
    reader.type([line.replace(".png", ".svg") for line in lines if line.startswith("imagesearch plot")])
    distances = numbers(reader.folder / "euclid.svg", "Euclidean distance")
    assert len(distances) == 8
    assert distances == sorted(distances)
    assert distances[0] < 0.1 * distances[-1]
    similarities = numbers(reader.folder / "cosine.svg", "cosine similarity")
    assert len(similarities) == 8
    assert similarities == sorted(similarities, reverse=True)
    assert similarities[0] == pytest.approx(1, abs=0.001)


@pytest.mark.soak
def test_vgg_in_hdf5_with_variants_and_codes(reader: Reader) -> None:
    printed = reader.type(of("VGG16, ResNet and DenseNet"))
    count = len(list((reader.folder / "photos").rglob("*.jpg")))
    with h5py.File(reader.folder / "features.h5") as file:
        assert file["features"].shape == (count, 512)
    # There are fewer images than the 100 candidates of a search, so that none is missed.
    (recall,) = re.findall(r"recall@10 (\S+)", printed)
    assert count < 100
    assert float(recall) == pytest.approx(1, abs=0.01)


@pytest.mark.soak
def test_mobilenet_and_all_pairs(reader: Reader) -> None:
    reader.type(of("MobileNetV2"))
    records = json.loads((reader.folder / "similar.json").read_text())
    assert len(records) == len((reader.folder / "products.csv").read_text().splitlines()) - 1
    for record in records:
        assert re.fullmatch(r"product-\d+-\d", record["id"])
        assert len(record["neighbors"]) == 20
        scores = [neighbor["score"] for neighbor in record["neighbors"]]
        assert scores == sorted(scores, reverse=True)
        assert scores == [round(score, 4) for score in scores]
        assert record["id"] not in {neighbor["id"] for neighbor in record["neighbors"]}


@pytest.mark.soak
def test_vgg_top_k_and_t_sne(reader: Reader) -> None:
    reader.type(of("VGG features"))
    assert is_picture(reader.folder / "nearest.png")
    assert is_picture(reader.folder / "map.png")
    page = (reader.folder / "map.html").read_text()
    assert "data:image/" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    # The query is a copy of one of them.
    assert "query.jpg" in (reader.folder / "duplicates.csv").read_text()


@pytest.mark.soak
def test_autoencoder_against_fc1(seeded: Mapping[str, str], folder: Path, milvus_uri: str) -> None:
    lines = of("An autoencoder")
    training = [line for line in lines if "train-autoencoder" in line]
    Command({}).in_a_process(*shlex.split(training[0])[1:], "--force", cwd=folder)
    assert is_picture(folder / "models" / "own" / "losses.png")
    models = models_of(lines).replace("models/own", str(folder / "models" / "own"))
    with services(models, seeded, folder, milvus_uri) as (embedder, search):
        other = Reader(folder, search.address, embedder.address)
        printed = other.type([line for line in lines if line not in training])
    assert "vgg16-fc1" in printed
    assert is_picture(folder / "latent.png")
    assert (folder / "autoencoder.html").stat().st_size > 1000
