"""The commands that the README and the docs show, executed in the order in which a page shows them."""

import csv
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import chdir
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from imagesearch_client import Client
from tests.harness.command import Command
from tests.harness.pages import (
    OF_ANOTHER_TEST,
    ROOT,
    page_commands,
    pages_with_commands,
    python_examples,
    reason_not_to_execute,
)
from tests.harness.pages import PAGES as ALL_PAGES
from tests.harness.processes import SearchProcess

PAGES = [
    page
    for page in pages_with_commands()
    if str(page) not in OF_ANOTHER_TEST
    and not all(reason_not_to_execute(command.line) for command in page_commands(page))
]
# What a reader of a page has already done.
BEFORE = {
    "docs/guides/analyse.md": ["imagesearch ingest grocery/labels.csv -c grocery"],
    "docs/operate/reindex.md": ["imagesearch ingest ~/photos -c shop_1"],
}
# What a reader has done before the Python code of a page.
BEFORE_PYTHON = {
    "docs/guides/find-objects.md": [
        "imagesearch collections create rooms --model vgg16-max-native --max-regions 8",
        "imagesearch ingest photos -c rooms",
    ],
}
# Beginnings of lines whose wording depends on the images.
DIFFERENT = ("Use ", "{")
# The pictures of each product.
ROLES = (("products", "a"), ("shelf", "a"), ("shelf", "b"))
# Lines that a shell has to read. All others run in the process of the test.
SHELL = re.compile(r"[|<>;$]|^(?!imagesearch )")


@pytest.fixture(scope="module")
def search_service(embedder_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("pages")
    uri = str(folder / "milvus.db")
    with SearchProcess(folder / "search.log", milvus_uri=uri, embedder_target=embedder_address) as process:
        yield process.address


@pytest.fixture
def search_address(search_service: str) -> Iterator[str]:
    """A search service whose collections are deleted after the test, because pages use the same names."""
    yield search_service
    with Client(search_service) as client:
        for alias in client.list_aliases():
            client.delete_alias(alias)
        for collection in client.list_collections():
            client.delete_collection(collection.name)


class Reader:
    """Types the commands of a page, in a folder that is the home folder too."""

    def __init__(self, folder: Path, search: str, embedder: str) -> None:
        self.folder = folder
        self.search = search
        self.embedder = embedder
        self._command = Command(
            {
                "HOME": str(folder),
                "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
                "IMAGESEARCH_TARGET": search,
                "IMAGESEARCH_EMBEDDER": embedder,
            },
            with_errors=True,
        )

    def type(self, line: str) -> str:
        """Return what a command line prints."""
        with chdir(self.folder):
            if not SHELL.search(re.sub(r"'[^']*'| #.*", "", line)):
                words = shlex.split(line, comments=True)
                return self._command(*(re.sub("^~", str(self.folder), word) for word in words[1:]))
            done = subprocess.run(
                ["/bin/bash", "-e", "-o", "pipefail", "-c", line],
                env=self._command.environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def reader(tmp_path: Path, photographs: Path, search_address: str, embedder_address: str) -> Reader:
    """A reader with photographs in ~/photos."""
    (tmp_path / "photos").mkdir()
    for image in photographs.rglob("*.jpg"):
        (tmp_path / "photos" / image.name).symlink_to(image)
    return Reader(tmp_path, search_address, embedder_address)


def write_files(page: Path, folder: Path) -> None:
    """Write the files that a page names: photographs of a grocery with their labels, and the files that it shows."""
    text = (ROOT / page).read_text()
    grocery = [f"{role}/{product}/{part}.jpg" for product in range(8) for role, part in ROLES]
    grocery += re.findall(r"(?<![\w~/])(?:groceries/)?((?:products|shelf|Packages)/[\w/-]+\.jpg)", text)
    photographs = sorted((folder / "photos").iterdir())
    folders = sorted({str(Path(name).parent) for name in grocery})
    rows = [("path", "product", "role", "category")]
    for number, name in enumerate(dict.fromkeys(grocery)):
        kind = folders.index(str(Path(name).parent)) % len(photographs)
        for target in (folder / "grocery" / name, folder / "groceries" / name):
            target.parent.mkdir(parents=True, exist_ok=True)
            # Pictures in one folder are parts of one photograph.
            with Image.open(photographs[kind]) as image:
                image.convert("RGB").resize((160, 120)).crop((number, 0, 100 + number, 80)).save(target)
        rows.append((name, Path(name).parts[1], "product" if name.startswith("products/") else "shelf", "fruit"))
    write_csv(folder / "grocery" / "labels.csv", rows)
    write_csv(folder / "products.csv", [("path", "sku"), ("photos/coffee.jpg", "sku-17")])
    with h5py.File(folder / "features.h5", "w") as file:
        file["features"] = np.eye(4, 8, dtype=np.float32)
        file["ids"] = ["one", "two", "three", "four"]
    for name in re.findall(r"~/([\w-]+\.jpg)", text):
        (folder / name).symlink_to(photographs[0])
    for command in page_commands(page):
        shown = re.fullmatch(r"(?:cat|head -\d+) (products|judged)\.csv", command.line)
        if shown:
            (folder / f"{shown[1]}.csv").write_text("\n".join(command.output) + "\n")


def write_csv(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def shapes(output: Iterable[str]) -> set[str]:
    """Return the lines of an output without the parts that differ if the images or the models are others.

    Of a table only the names of its columns remain.
    """
    text = re.sub(r"\b(vgg16|mobilenet)(-avg-[0-9a-f]+|-gem|-max)?\b", "MODEL", "\n".join(output))
    text = re.sub(r"\S*/\S+|\S+\.jpg", "PATH", text)
    text = re.sub(r"\b\d[\d.,]*( [\d.,]+)*", "0", text)
    lines = (" ".join(line.split()) for line in text.splitlines())
    return {line for line in lines if line and line != "..." and line[0] not in "│┏┡└"}


def test_every_page_with_preparations_exists() -> None:
    assert BEFORE.keys() <= {str(page) for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_commands_of_a_page_run_and_print_what_it_shows(page: Path, reader: Reader) -> None:
    write_files(page, reader.folder)
    for line in BEFORE.get(str(page), ()):
        reader.type(line)
    for command in page_commands(page):
        if reason_not_to_execute(command.line):
            continue
        printed = reader.type(command.line)
        shown = {line for line in shapes(command.output) if not line.startswith(DIFFERENT)}
        if not re.match(r"cat|head|sed", command.line):
            assert shown <= shapes(printed.splitlines()), command.line


@pytest.mark.parametrize("page", [page for page in ALL_PAGES if python_examples(page)], ids=str)
def test_the_python_of_a_page_runs(page: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reader.folder)
    for name in "abc":
        (reader.folder / f"{name}.jpg").symlink_to(reader.folder / "photos" / "coffee.jpg")
    for line in BEFORE_PYTHON.get(str(page), ["imagesearch ingest photos"]):
        reader.type(line)
    names: dict[str, object] = {}
    for code in python_examples(page):
        here = code.replace("127.0.0.1:50052", reader.search).replace("127.0.0.1:50051", reader.embedder)
        exec(compile(here, str(page), "exec"), names)  # noqa: S102 - the code of a page of this repository
