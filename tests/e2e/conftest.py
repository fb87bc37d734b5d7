"""Services that a test may stop and start as it likes."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.local_stack import ServiceProcess, free_port
from demo.photographs import write_photographs


class Stack:
    """Both services, each on an address of its own that it keeps over restarts."""

    def __init__(self, folder: Path, milvus_uri: str, embedder_seconds: float = 30) -> None:
        self._state = folder / "state"
        self.embedder = f"127.0.0.1:{free_port()}"
        self.search = f"127.0.0.1:{free_port()}"
        embedder = {"EMBEDDER_LISTEN_ADDRESS": self.embedder}
        search = {
            "SEARCH_LISTEN_ADDRESS": self.search,
            "SEARCH_EMBEDDER_TARGET": self.embedder,
            "SEARCH_MILVUS_URI": milvus_uri,
            "SEARCH_MILVUS_TIMEOUT_SECONDS": "5",
            "SEARCH_EMBEDDER_TIMEOUT_SECONDS": str(embedder_seconds),
        }
        self.embedder_process = ServiceProcess("embedder_service", self.embedder, embedder, folder / "embedder.log")
        self.search_process = ServiceProcess("search_service", self.search, search, folder / "search.log")

    @property
    def environment(self) -> dict[str, str]:
        """What `imagesearch` is told of this stack; its ledgers are the stack's own."""
        return {
            "IMAGESEARCH_TARGET": self.search,
            "IMAGESEARCH_EMBEDDER": self.embedder,
            "XDG_STATE_HOME": str(self._state),
            "COLUMNS": "150",
            "PATH": "/usr/bin:/bin",
        }

    def command(self, *arguments: str, code: int = 0) -> str:
        """Runs `imagesearch` against this stack; gives what it printed to standard output."""
        done = subprocess.run(
            [sys.executable, "-m", "imagesearch_client.cli", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stdout + done.stderr


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """Both services, running, on Milvus Lite."""
    stack = Stack(tmp_path, str(tmp_path / "milvus.db"))
    with stack.embedder_process, stack.search_process:
        yield stack


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photographs, one of them in a folder below."""
    folder = tmp_path_factory.mktemp("photographs")
    paths = write_photographs(folder)
    (folder / "below").mkdir()
    paths[0].rename(folder / "below" / paths[0].name)
    return folder
