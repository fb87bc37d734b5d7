"""What every tier needs: the services that all tests share, the tiers, and the order of tests."""

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

# The folder of the session's locks and counts. It is set for worker processes too.
FOLDER_VARIABLE = "TESTS_FOLDER"

if "PYTEST_XDIST_WORKER" in os.environ:
    # Threads of numerical libraries that wait for each other on a busy machine take far more time than they save.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=4, help="how often a process is killed by the soak tests of crashes")
    parser.addoption("--random-sources", type=int, default=200, help="how many random sources a soak test loads")


def pytest_configure(config: pytest.Config) -> None:
    counts.watch_subprocesses()
    # A traceback with all local variables takes a tenth of a second, in which a test's event loop stands still.
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, plain])
    if hasattr(config, "workerinput"):
        return
    # Workers hand out tests in the order in which they are collected.
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
        # It waits for the tests of the other workers, so it must not hold them up.
        return (yield)
    tier = "soak" if item.get_closest_marker("soak") else item.nodeid.split("/")[1]
    alone = item.get_closest_marker("alone") is not None
    with scheduling.turn(Path(os.environ[FOLDER_VARIABLE]), alone=alone):
        counts.set_tier(tier)
        done = yield
    counts.add(counts.TESTS)
    return done


@pytest.fixture(scope="session")
def milvus_uri() -> str:
    """The Milvus server that all tests share."""
    return shared_services.find("milvus")["uri"]


@pytest.fixture(scope="session")
def embedder_address() -> str:
    """The embedder that all tests share; its models are those of `shared_services.MODELS`."""
    return shared_services.find("embedder")["address"]


@pytest.fixture(scope="session")
def lite_address() -> str:
    """The search service on Milvus Lite that all tests share. Its embedder is that of `embedder_address`."""
    return shared_services.find("search-lite")["address"]


@pytest.fixture(scope="session")
def server_address() -> str:
    """The search service on the Milvus server that all tests share. Its embedder is that of `embedder_address`."""
    return shared_services.find("search-server")["address"]


@pytest.fixture
def name() -> str:
    """A name for a collection that no other test has."""
    return f"c_{uuid.uuid4().hex[:16]}"


@pytest.fixture
def command(lite_address: str, embedder_address: str, name: str, tmp_path: Path) -> Command:
    """Runs `imagesearch` against the shared services on Milvus Lite; its collection is the test's own, `name`."""
    return Command(
        {
            "IMAGESEARCH_TARGET": lite_address,
            "IMAGESEARCH_EMBEDDER": embedder_address,
            "IMAGESEARCH_COLLECTION": name,
            "XDG_STATE_HOME": str(tmp_path / "state"),
        }
    )
