"""Fixtures and hooks for all tests: shared services, tiers, and the order of tests."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.harness import counts, scheduling, shared_services
from tests.harness.command import Command

# Variable with the folder of the session's locks and counts. Worker processes inherit it.
FOLDER_VARIABLE = "TESTS_FOLDER"

if "PYTEST_XDIST_WORKER" in os.environ:
    # On a busy machine, threads of numerical libraries lose more time by waiting for each other than they save.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=4, help="number of kills in the soak tests of crashes")
    parser.addoption("--random-sources", type=int, default=200, help="number of random sources that a soak test loads")


def pytest_configure(config: pytest.Config) -> None:
    counts.watch_subprocesses()
    # A traceback with all local variables takes 0.1 s and blocks the event loop of a test.
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, plain])
    if hasattr(config, "workerinput"):
        return
    # Workers receive tests in the order of the collection.
    config.option.loadscopereorder = False
    folder = Path(tempfile.mkdtemp(prefix="imagesearch-tests-"))
    os.environ |= {FOLDER_VARIABLE: str(folder), counts.FILE_VARIABLE: str(folder / "counts")}
    (folder / "counts").touch()
    server = shared_services.SharedServicesServer(shared_services.SharedServices(folder))

    def end() -> None:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)

    config.add_cleanup(end)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> scheduling.GroupScheduling:
    return scheduling.GroupScheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: scheduling.position_of(item.nodeid))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if item.nodeid.startswith(scheduling.LAST):
        # It waits for the other workers, so it must not hold the machine lock.
        return (yield)
    tier = "soak" if item.get_closest_marker("soak") else item.nodeid.split("/")[1]
    alone = item.get_closest_marker("alone") is not None
    with scheduling.machine(Path(os.environ[FOLDER_VARIABLE]), alone=alone):
        counts.set_tier(tier)
        done = yield
    counts.add(counts.TESTS)
    return done


@pytest.fixture(scope="session")
def milvus_uri() -> str:
    """Return the URI of the shared Milvus server."""
    return shared_services.find("milvus")["uri"]


@pytest.fixture(scope="session")
def embedder_address() -> str:
    """Return the address of the shared embedder. It serves `shared_services.MODELS`."""
    return shared_services.find("embedder")["address"]


@pytest.fixture(scope="session")
def lite_address() -> str:
    """Return the address of the shared search service on Milvus Lite. It uses the shared embedder."""
    return shared_services.find("search-lite")["address"]


@pytest.fixture(scope="session")
def server_address() -> str:
    """Return the address of the shared search service on the Milvus server. It uses the shared embedder."""
    return shared_services.find("search-server")["address"]


@pytest.fixture
def name() -> str:
    """Return a unique name for a collection."""
    return f"c_{uuid.uuid4().hex[:16]}"


@pytest.fixture
def command(lite_address: str, embedder_address: str, name: str, tmp_path: Path) -> Command:
    """Return a runner of `imagesearch` for the shared services on Milvus Lite and the collection `name`."""
    return Command(
        {
            "IMAGESEARCH_TARGET": lite_address,
            "IMAGESEARCH_EMBEDDER": embedder_address,
            "IMAGESEARCH_COLLECTION": name,
            "XDG_STATE_HOME": str(tmp_path / "state"),
        }
    )
