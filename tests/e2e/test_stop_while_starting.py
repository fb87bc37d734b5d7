"""A service that is stopped while it starts exits immediately, also as the first process of a container."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("service", ["embedder", "search"])
def test_a_service_stopped_while_it_starts_exits_with_0(service: str, tmp_path: Path) -> None:
    settings = {
        f"{service.upper()}_LISTEN_ADDRESS": "127.0.0.1:0",
        f"{service.upper()}_LOG_FORMAT": "json",
        "SEARCH_MILVUS_URI": str(tmp_path / "milvus.db"),
    }
    command = [sys.executable, "-m", f"{service}_service"]
    with subprocess.Popen(command, env={**os.environ, **settings}, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        # It logs its settings first; the weights and Milvus come later.
        assert "settings" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert '"serving"' not in process.stderr.read()


IGNORANT = """
import time
from grpc_kit.server.process import end_when_asked

end_when_asked()
print("ready", flush=True)
try:
    time.sleep(60)
except SystemExit:
    pass  # like Python with an exit that is raised in a callback of an import
time.sleep(60)
"""


def test_an_ignored_exit_is_raised_again() -> None:
    with subprocess.Popen([sys.executable, "-c", IGNORANT], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
