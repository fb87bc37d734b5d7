"""Both services, an embedder with two models, and a folder of labelled photographs in a collection."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
from PIL import Image, ImageOps

from demo.local_stack import ServiceProcess, free_port
from demo.photographs import write_photographs
from imagesearch_client import Client

COLLECTION = "photos"
ODD = '<b>"cups"'
Command: TypeAlias = Callable[..., str]


@pytest.fixture(scope="session")
def embedder_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    settings = {"EMBEDDER_LISTEN_ADDRESS": address, "EMBEDDER_MODELS": "vgg16,vgg16-max"}
    with ServiceProcess("embedder_service", address, settings, tmp_path_factory.mktemp("embedder") / "log"):
        yield address


@pytest.fixture(scope="session")
def search_address(embedder_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    folder = tmp_path_factory.mktemp("search")
    settings = {
        "SEARCH_LISTEN_ADDRESS": address,
        "SEARCH_EMBEDDER_TARGET": embedder_address,
        "SEARCH_MILVUS_URI": str(folder / "milvus.db"),
    }
    with ServiceProcess("search_service", address, settings, folder / "log"):
        yield address


@pytest.fixture
def client(search_address: str) -> Iterator[Client]:
    with Client(search_address, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def environment(search_address: str, embedder_address: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What `imagesearch` is told."""
    state = tmp_path_factory.mktemp("state")
    return {
        "IMAGESEARCH_TARGET": search_address,
        "IMAGESEARCH_EMBEDDER": embedder_address,
        "XDG_STATE_HOME": str(state),
        "XDG_CACHE_HOME": str(state),
        "MPLCONFIGDIR": str(state),
        "COLUMNS": "150",
        "PATH": os.environ["PATH"],
    }


@pytest.fixture(scope="session")
def command(environment: dict[str, str]) -> Command:
    """Runs `imagesearch`, and gives what it prints, errors too."""

    def run(*arguments: str | Path, code: int = 0, **settings: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "imagesearch_client.cli", *map(str, arguments)],
            env=environment | settings,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photographs, a folder for each with three edited copies of it."""
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
    """The photographs' labels by their paths: plain ones are products, and the others are queries."""
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
    """The photographs in a collection, without attributes."""
    command("ingest", photos, "-c", COLLECTION)
    return COLLECTION
