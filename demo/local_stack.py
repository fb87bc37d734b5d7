"""Both services on this machine: `python -m demo.local_stack` runs them until Ctrl-C.

The embedder listens on 127.0.0.1:50051 and the search service on 127.0.0.1:50052, with Milvus Lite in ./data; the
services' own environment variables change that.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import grpc

from grpc_kit.health import is_serving

START_SECONDS = 120
STOP_SECONDS = 30


class StartError(Exception):
    """A service did not come up; the message has the end of its log."""


@dataclass(frozen=True)
class LocalStack:
    """Where the two services are."""

    embedder: str
    search: str


@contextmanager
def running(module: str, address: str, environment: Mapping[str, str], log: IO[str] | None) -> Iterator[None]:
    """Runs a service until it is healthy, and stops it at the end. Raises StartError."""
    command = [sys.executable, "-m", module]
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
    try:
        wait_until_healthy(module, address, process, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_healthy(module: str, address: str, process: "subprocess.Popen[bytes]", log: IO[str] | None) -> None:
    """Returns when the service says that it serves. Raises StartError where it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StartError(f"{module} ended with exit code {process.returncode}{_end_of(log)}")
        if is_healthy(address):
            return
        time.sleep(0.2)
    raise StartError(f"{module} was not healthy within {START_SECONDS} s{_end_of(log)}")


def is_healthy(address: str) -> bool:
    """Whether a gRPC server at HOST:PORT reports SERVING."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            return is_serving(channel, timeout=2)
        except grpc.RpcError:
            return False


def _end_of(log: IO[str] | None) -> str:
    if log is None:
        return ""
    lines = Path(log.name).read_text(errors="replace").splitlines()[-15:]
    return ":\n" + "\n".join(f"  {line}" for line in lines)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def local_stack(folder: Path) -> Iterator[LocalStack]:
    """Both services on free ports, their data and logs in `folder`. Raises StartError."""
    addresses = LocalStack(f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")
    embedder = {"EMBEDDER_LISTEN_ADDRESS": addresses.embedder}
    search = {
        "SEARCH_LISTEN_ADDRESS": addresses.search,
        "SEARCH_EMBEDDER_TARGET": addresses.embedder,
        "SEARCH_MILVUS_URI": str(folder / "milvus.db"),
    }
    with ExitStack() as stack:
        for module, address, environment in (
            ("embedder_service", addresses.embedder, embedder),
            ("search_service", addresses.search, search),
        ):
            log = stack.enter_context((folder / f"{module}.log").open("w"))
            stack.enter_context(running(module, address, environment, log))
        yield addresses


def main() -> None:
    """Runs both services in the foreground, their logs on this terminal."""
    embedder = os.environ.setdefault("EMBEDDER_LISTEN_ADDRESS", "127.0.0.1:50051")
    search = os.environ.setdefault("SEARCH_LISTEN_ADDRESS", "127.0.0.1:50052")
    os.environ.setdefault("SEARCH_EMBEDDER_TARGET", embedder)
    try:
        with running("embedder_service", embedder, {}, None), running("search_service", search, {}, None):
            print(f"\nboth services are up; try:  .venv/bin/imagesearch --help   (search: {search})\n", flush=True)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        print("stopping")
    except StartError as error:
        sys.exit(f"demo.local_stack: {error}")


if __name__ == "__main__":
    main()
