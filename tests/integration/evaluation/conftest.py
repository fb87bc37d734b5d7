"""A folder of labelled photographs in a collection, and the command."""

import csv
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from demo.photographs import write_photographs
from imagesearch_client import Client
from tests.harness.command import Command

ODD = '<b>"cups"'


@pytest.fixture
def client(lite_address: str) -> Iterator[Client]:
    with Client(lite_address, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def command(lite_address: str, embedder_address: str, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Return a runner of `imagesearch` whose state is kept between tests."""
    state = str(tmp_path_factory.mktemp("state"))
    return Command(
        {
            "IMAGESEARCH_TARGET": lite_address,
            "IMAGESEARCH_EMBEDDER": embedder_address,
            "XDG_STATE_HOME": state,
            "XDG_CACHE_HOME": state,
            "MPLCONFIGDIR": state,
        },
        with_errors=True,
    )


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a folder for each of five photographs, which contains three edited copies."""
    folder = tmp_path_factory.mktemp("photos")
    originals = {path.stem: path for path in write_photographs(tmp_path_factory.mktemp("originals"))}
    classes = {"coffee": ODD, "rocket": "rocket", "coins": "coins", "chelsea": "cat", "astronaut": "astronaut"}
    for name, kind in classes.items():
        with Image.open(originals[name]) as opened:
            picture = opened.convert("RGB")
        picture.thumbnail((256, 256))
        width, height = picture.size
        copies = {
            "plain": picture,
            "mirror": ImageOps.mirror(picture),
            "crop": picture.crop((0, 0, int(0.7 * width), int(0.7 * height))),
        }
        (folder / kind).mkdir()
        for edit, copy in copies.items():
            copy.save(folder / kind / f"{name}-{edit}.png")
    return folder


@pytest.fixture(scope="session")
def labels(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a label file of the photographs: plain copies have the role product, all others shelf."""
    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "role", "product"])
        for image in sorted(photos.glob("*/*.png")):
            name, _, edit = image.stem.partition("-")
            rows.writerow([image.relative_to(photos), "product" if edit == "plain" else "shelf", name])
    return path


@pytest.fixture(scope="session")
def collection(command: Command, photos: Path) -> str:
    """Return a collection of the photographs, without attributes."""
    collection = f"photos_{uuid.uuid4().hex[:16]}"
    command("ingest", photos, "-c", collection)
    return collection
