"""`make up` leaves no process behind, reports ports and data in use, and respects log levels."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.local_stack import free_port, is_healthy
from imagesearch_client import Client, NewImage

ROOT = Path(__file__).parents[2]
UP = [sys.executable, "-m", "demo.local_stack"]
# The recipe of the Makefile without its set-up, in the environment of the tests.
MAKE_UP = ["make", "-s", "-C", str(ROOT), "up", f"VENV={sys.prefix}", "-o", "weights"]
# Runs a shell command in a session whose terminal is standard input, like a terminal window.
IN_TERMINAL = [
    sys.executable,
    "-c",
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp('sh', ['sh', *sys.argv[1:]])",
    "-c",
    '"$@"; exit',
    "sh",
]
# Opens the data of Milvus Lite until standard input ends.
HOLD = [
    sys.executable,
    "-c",
    """
import sys
from milvus_lite.db import MilvusLite
kept = MilvusLite(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
""",
]
SECONDS = 90  # for services to start or to end, on a busy machine


class Up:
    """A run of `make up` or of its program, with its own ports and data."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data" / "milvus.db"
        self._log = folder / "log"
        self.embedder = f"127.0.0.1:{free_port()}"
        self.search = f"127.0.0.1:{free_port()}"
        self.settings = {
            "EMBEDDER_LISTEN_ADDRESS": self.embedder,
            "SEARCH_LISTEN_ADDRESS": self.search,
            "SEARCH_MILVUS_URI": str(self._data),
        }
        self.process: subprocess.Popen[bytes]

    def start(self, command: list[str], stdin: int = subprocess.DEVNULL) -> None:
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **self.settings},
                stdin=stdin,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # Processes in the background ignore SIGHUP; the tests may run there.
                preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # noqa: PLW1509 - nothing but that
            )

    def log(self) -> str:
        return self._log.read_text()

    def processes(self) -> dict[int, str]:
        """Return the processes with these settings: id and command."""
        marker = f"SEARCH_MILVUS_URI={self._data}\0".encode()
        found = {}
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdecimal() and marker in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it has ended, or belongs to another user
        return found

    def wait_until_gone(self) -> dict[int, str]:
        """Wait until no process is left; return those that remain after the timeout."""
        deadline = time.monotonic() + SECONDS
        while self.processes() and time.monotonic() < deadline:
            self.process.poll()
            time.sleep(0.1)
        return self.processes()

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + SECONDS
        while not (is_healthy(self.embedder) and is_healthy(self.search)):
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.2)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    up = Up(tmp_path)
    yield up
    for pid in up.processes():
        os.kill(pid, signal.SIGKILL)


def send(*signals: signal.Signals, pause: float = 0.05) -> Callable[[Up], None]:
    """Send signals only to the started process."""

    def interrupt(up: Up) -> None:
        for number in signals:
            up.process.send_signal(number)
            time.sleep(pause)
            up.process.poll()

    return interrupt


@pytest.mark.parametrize(
    ("command", "interrupt"),
    [
        pytest.param(UP, send(signal.SIGTERM, signal.SIGTERM), id="SIGTERM twice"),
        pytest.param(UP, send(signal.SIGINT, signal.SIGINT), id="SIGINT twice"),
        pytest.param(UP, send(signal.SIGTERM, signal.SIGINT, pause=1.2), id="an impatient user"),
        pytest.param(UP, send(signal.SIGHUP), id="SIGHUP"),
        pytest.param(UP, send(signal.SIGKILL), id="SIGKILL"),
        pytest.param(MAKE_UP, send(signal.SIGTERM, signal.SIGTERM), id="SIGTERM twice to make"),
        pytest.param(MAKE_UP, send(signal.SIGKILL), id="SIGKILL of make"),
    ],
)
def test_an_interrupted_start_leaves_no_process(command: list[str], interrupt: Callable[[Up], None], up: Up) -> None:
    moment = random.uniform(0, 8)
    up.start(command)
    time.sleep(moment)
    interrupt(up)
    assert up.wait_until_gone() == {}, f"interrupted after {moment:.2f} s: {up.log()}"
    up.process.wait(SECONDS)


def test_a_closed_terminal_leaves_no_process(up: Up) -> None:
    moment = random.uniform(0, 8)
    terminal, inside = os.openpty()
    up.start([*IN_TERMINAL, *MAKE_UP], stdin=inside)
    os.close(inside)
    time.sleep(moment)
    os.close(terminal)
    assert up.wait_until_gone() == {}, f"closed after {moment:.2f} s: {up.log()}"


def test_if_one_service_ends_the_other_is_stopped(up: Up) -> None:
    up.start(UP)
    deadline = time.monotonic() + SECONDS
    while not (embedder := [pid for pid, command in up.processes().items() if "-m embedder_service" in command]):
        assert time.monotonic() < deadline, up.log()
        time.sleep(0.1)
    os.kill(embedder[0], signal.SIGKILL)
    assert up.process.wait(SECONDS) == 1
    assert up.processes() == {}
    assert up.log().splitlines()[-1] == "demo.local_stack: embedder_service ended with exit code -9"


@pytest.mark.parametrize("service", ["EMBEDDER", "SEARCH"])
def test_a_port_in_use_is_reported_before_the_start(service: str, up: Up) -> None:
    up.settings |= {"EMBEDDER_LOG_LEVEL": "INFO", "SEARCH_LOG_LEVEL": "INFO"}
    address = up.settings[f"{service}_LISTEN_ADDRESS"]
    host, _, port = address.rpartition(":")
    with socket.create_server((host, int(port))):
        up.start(UP)
        assert up.process.wait(SECONDS) == 1
    assert f"{address} is in use by another program" in up.log()
    assert f"set {service}_LISTEN_ADDRESS to another address" in up.log()
    assert "settings" not in up.log(), "a service began to start"


def test_data_in_use_is_reported_before_the_start(up: Up) -> None:
    up.settings |= {"EMBEDDER_LOG_LEVEL": "INFO", "SEARCH_LOG_LEVEL": "INFO"}
    folder = Path(up.settings["SEARCH_MILVUS_URI"])
    folder.parent.mkdir()
    with subprocess.Popen([*HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
        up.start(UP)
        assert up.process.wait(SECONDS) == 1
        assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before
        holder.communicate()
    assert f"Milvus Lite cannot use {folder}: it is open in another process" in up.log()
    assert "set SEARCH_MILVUS_URI to another path" in up.log()
    assert "settings" not in up.log(), "a service began to start"


def test_log_levels_of_the_environment_are_respected(up: Up, photographs: Path) -> None:
    up.settings |= {"SEARCH_LOG_LEVEL": "INFO", "EMBEDDER_MAX_BATCH_SIZE": "1"}
    up.start(UP)
    up.wait_until_healthy()
    content = (photographs / "coins.jpg").read_bytes()
    with Client(up.search, timeout=60) as client:
        client.create_collection("photos")
        assert [result.error for result in client.write("photos", [NewImage("coins", content)])] == [None]
        assert [hit.image.id for hit in client.search_by_image("photos", content)] == ["coins"]
    # The services answer a moment before the command reports it.
    until = time.monotonic() + SECONDS
    while "Both services are up" not in up.log() and time.monotonic() < until:
        time.sleep(0.05)
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(SECONDS) == 0
    assert up.processes() == {}
    log = up.log()
    assert re.search(r"call .*imagesearch\.search\.v1\.SearchService/Search", log)
    # The embedder has the default level and logs no line; the search service logs at INFO.
    others = [line for line in log.splitlines() if not re.match(r"\S+Z \[info +\] ", line)]
    ready = [re.sub(r" after \d+ s$", "", line) for line in others if "still starting" not in line]
    assert ready[0].startswith("Starting the embedder")
    assert set(ready[1:3]) == {
        f"  search service ready at {up.search}",
        f"  embedder service ready at {up.embedder}",
    }
    assert ready[3:8] == [
        "Both services are up. In another terminal:",
        f"  .venv/bin/imagesearch ingest FOLDER --target {up.search} --embedder {up.embedder}",
        f"  .venv/bin/imagesearch search IMAGE --target {up.search}",
        "Warnings and errors appear below. With EMBEDDER_LOG_LEVEL=INFO and",
        "SEARCH_LOG_LEVEL=INFO, make up also logs every call.",
    ]
    assert ready[8:] == ["stopping both services; Ctrl-C again kills them", "both services are stopped"]
