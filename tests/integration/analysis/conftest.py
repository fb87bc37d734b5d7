"""Search services for what needs all of a collection, and the command."""

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from demo.local_stack import ServiceProcess, free_port
from imagesearch_client import Client
from tests.milvus_server import MilvusProcess

Command: TypeAlias = Callable[..., str]


@contextmanager
def search_service(folder: Path, **settings: str) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    environment = {f"SEARCH_{name.upper()}": value for name, value in settings.items()}
    environment["SEARCH_LISTEN_ADDRESS"] = address
    with ServiceProcess("search_service", address, environment, folder / "log"):
        yield address


@pytest.fixture(scope="session")
def embedder_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    log = tmp_path_factory.mktemp("embedder") / "log"
    with ServiceProcess("embedder_service", address, {"EMBEDDER_LISTEN_ADDRESS": address}, log):
        yield address


@pytest.fixture(scope="session")
def lite_address(embedder_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("lite")
    with search_service(folder, milvus_uri=str(folder / "milvus.db"), embedder_target=embedder_address) as address:
        yield address


@pytest.fixture(scope="session", params=["lite", "server"])
def search_address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A search service on each backend."""
    if request.param == "lite":
        yield request.getfixturevalue("lite_address")
        return
    server: MilvusProcess = request.getfixturevalue("milvus_server")
    with search_service(tmp_path_factory.mktemp("server"), milvus_uri=server.uri) as address:
        yield address


@pytest.fixture
def client(lite_address: str) -> Iterator[Client]:
    with Client(lite_address, timeout=60) as client:
        yield client


@pytest.fixture
def name() -> str:
    """A name for a collection that no other test has."""
    return f"c_{uuid.uuid4().hex[:16]}"


@pytest.fixture
def command(lite_address: str) -> Command:
    """Runs `imagesearch` with a target; gives what it printed."""

    def run(*arguments: str | Path, code: int = 0) -> str:
        environment = {"IMAGESEARCH_TARGET": lite_address, "COLUMNS": "150", "PATH": "/usr/bin:/bin"}
        # Threads that wait for one another on a busy machine take far more than they give.
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "imagesearch_client.cli", *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run
