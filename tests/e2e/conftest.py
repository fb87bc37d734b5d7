"""Services that a test can stop and start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.photographs import write_photographs
from tests.harness.command import Command
from tests.harness.processes import EmbedderProcess, SearchProcess


def small_embedder(log: Path) -> EmbedderProcess:
    """An embedder that starts fast and embeds fast."""
    return EmbedderProcess(log, models="mobilenet", max_batch_size="2")


class Stack:
    """Both services. Each keeps its address over restarts."""

    def __init__(
        self,
        folder: Path,
        milvus_uri: str,
        embedder_seconds: float = 30,
        embedder_process: EmbedderProcess | None = None,
    ) -> None:
        """Prepare the services.

        `embedder_seconds` is the search service's time limit for a call of the embedder; `embedder_process` is one
        that runs already.
        """
        self.embedder_process = embedder_process or small_embedder(folder / "embedder.log")
        self.embedder = self.embedder_process.address
        self.search_process = SearchProcess(
            folder / "search.log",
            milvus_uri=milvus_uri,
            embedder_target=self.embedder,
            milvus_timeout_seconds="5",
            embedder_timeout_seconds=str(embedder_seconds),
        )
        self.search = self.search_process.address
        self.command = Command(
            {
                "IMAGESEARCH_TARGET": self.search,
                "IMAGESEARCH_EMBEDDER": self.embedder,
                "XDG_STATE_HOME": str(folder / "state"),
            }
        )


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """Both services, running, on Milvus Lite."""
    stack = Stack(tmp_path, str(tmp_path / "milvus.db"))
    with stack.embedder_process, stack.search_process:
        yield stack


@pytest.fixture
def own_search(embedder_address: str, tmp_path: Path) -> Iterator[SearchProcess]:
    """A search service on Milvus Lite for one test, with the shared embedder."""
    uri = str(tmp_path / "milvus.db")
    with SearchProcess(tmp_path / "search.log", milvus_uri=uri, embedder_target=embedder_address) as process:
        yield process


# One kill in `make test`, and --kills kills in the soak tier.
ONCE_AND_OFTEN = pytest.mark.parametrize(
    "kills", [1, pytest.param(None, marks=pytest.mark.soak)], indirect=True, ids=["once", "often"]
)


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """Return the number of kills."""
    return int(getattr(request, "param", None) or request.config.getoption("--kills"))


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of photographs, one of them in a subfolder."""
    folder = tmp_path_factory.mktemp("photographs")
    paths = write_photographs(folder)
    (folder / "below").mkdir()
    paths[0].rename(folder / "below" / paths[0].name)
    return folder


@pytest.fixture
def photographs_loaded(command: Command, photographs: Path) -> None:
    """Load all photographs into the collection of the test."""
    command("ingest", photographs)
