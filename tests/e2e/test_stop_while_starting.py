"""A service that is asked to stop before it serves ends at once, as the first process of a container too."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("service", ["embedder", "search"])
def test_a_service_ends_well(service: str, tmp_path: Path) -> None:
    settings = {
        f"{service.upper()}_LISTEN_ADDRESS": "127.0.0.1:0",
        f"{service.upper()}_LOG_FORMAT": "json",
        "SEARCH_MILVUS_URI": str(tmp_path / "milvus.db"),
    }
    command = [sys.executable, "-m", f"{service}_service"]
    with subprocess.Popen(command, env={**os.environ, **settings}, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        # Its settings are what it logs first, and the weights and Milvus come after.
        assert "settings" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert '"serving"' not in process.stderr.read()


IGNORANT = """
import time
from grpc_kit.server.grpc_server import end_when_asked

end_when_asked()
print("ready", flush=True)
try:
    time.sleep(60)
except SystemExit:
    pass  # as Python does with an exit that is raised in a callback of an import
time.sleep(60)
"""


def test_an_exit_that_is_ignored_is_raised_again() -> None:
    with subprocess.Popen([sys.executable, "-c", IGNORANT], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
