"""Three embedders and two search services on loopback addresses, behind DNS names that change like those of pods.

Only `make test-cluster` runs these tests, because they take minutes.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

# Before gRPC starts: only this resolver supports dns://HOST:PORT/NAME, which names the DNS server.
os.environ["GRPC_DNS_RESOLVER"] = "ares"

from benchmarks import photographs
from embedder_service.adapters import weights_files
from embedder_service.adapters.weights_files import VGG16
from tests.deploy.cluster.load import Callers
from tests.deploy.cluster.replicas import Deployment, deployment
from tests.milvus_server import MilvusProcess

HERE = Path(__file__).parent
EMBEDDERS, SEARCHES = 3, 2
IMAGES = 60
# Timeout of a test. The rolling restart takes two minutes on an idle machine.
TEST_SECONDS = 480
FIGURES = pytest.StashKey[list[tuple[str, str]]]()


def pytest_ignore_collect(config: pytest.Config) -> "bool | None":
    asked = (Path(argument.partition("::")[0]).resolve() for argument in config.args)
    return None if any(path.is_relative_to(HERE) for path in asked) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    figures = terminalreporter.config.stash.get(FIGURES, [])
    if figures:
        terminalreporter.section("figures")
        width = max(len(name) for name, _ in figures)
        for name, value in figures:
            terminalreporter.write_line(f"{name:{width}}  {value}")


class Figures:
    """The table of measurements at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._figures = config.stash[FIGURES]

    def add(self, name: str, value: object) -> None:
        """Add a line. Numbers are rounded."""
        shown = value
        if isinstance(value, float):
            shown = f"{value:.1f}"
        elif isinstance(value, list):
            shown = " ".join(f"{part:.3f}" for part in value)
        self._figures.append((name, str(shown)))


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> Figures:
    """Return the table of measurements."""
    return Figures(request.config)


@dataclass(frozen=True)
class Cluster:
    """The running services, and their callers."""

    embedder: Deployment
    search: Deployment
    milvus: MilvusProcess
    callers: Callers


@pytest.fixture(scope="session")
def contents() -> list[bytes]:
    """Return the files of distinct images."""
    return photographs.jpegs(IMAGES, width=320, height=240)


@pytest.fixture(scope="session")
def image_folder(contents: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the images."""
    folder = tmp_path_factory.mktemp("images")
    for number, content in enumerate(contents):
        (folder / f"{number:04}.jpg").write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusProcess]:
    """Start a Milvus server that tests may stop."""
    with MilvusProcess(tmp_path_factory.mktemp("milvus")) as server:
        yield server


@pytest.fixture(scope="session")
def cluster(
    milvus: MilvusProcess, contents: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Start the cluster. A test that removes a replica must add another one."""
    weights_files.read_verified(weights_files.default_cache() / VGG16.file_name, VGG16)
    folder = tmp_path_factory.mktemp("cluster")
    with ExitStack() as stack:
        embedder = stack.enter_context(deployment("embedder", "127.0.1", {"EMBEDDER_THREADS": "1"}, folder))
        settings = {"SEARCH_EMBEDDER_TARGET": embedder.target, "SEARCH_MILVUS_URI": milvus.uri}
        search = stack.enter_context(deployment("search", "127.0.2", settings, folder))
        embedder.add(EMBEDDERS)
        search.add(SEARCHES)
        callers = Callers(search.target, embedder.target, contents)
        stack.callback(callers.close)
        callers.prepare()
        yield Cluster(embedder, search, milvus, callers)
