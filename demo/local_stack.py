"""Both services on this machine: `python -m demo.local_stack` runs them until Ctrl-C.

The embedder listens on 127.0.0.1:50051 and the search service on 127.0.0.1:50052, with Milvus Lite in ./data; the
services' own environment variables change that.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from grpc_kit.health import is_serving
from imagesearch_client.client import DEFAULT_EMBEDDER, DEFAULT_TARGET

START_SECONDS = 240
STOP_SECONDS = 30


class StartError(Exception):
    """A service did not come up; the message has the end of its log."""


@dataclass(frozen=True)
class LocalStack:
    """Where the two services are."""

    embedder: str
    search: str


class ServiceProcess:
    """A service in a process of its own. As a context manager it is healthy inside and stopped outside."""

    def __init__(self, module: str, address: str, environment: Mapping[str, str], log: Path | None) -> None:
        """Prepares a service; `start` runs it.

        Args:
            module: what `python -m` runs.
            address: where it will serve, HOST:PORT; it must be what `environment` tells it.
            environment: added to this process' own.
            log: the file that its output is added to; None leaves it on the terminal.
        """
        self._module = module
        self._address = address
        self._environment = environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Runs the service, and does not wait for it. Raises StartError where the address is taken."""
        host, _, port = self._address.rpartition(":")
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                raise StartError(f"{self._address} is taken: something serves there already")
        command = [sys.executable, "-m", self._module]
        environment = {**os.environ, **self._environment}
        if self._log is None:
            self._process = subprocess.Popen(command, env=environment)
        else:
            with self._log.open("a") as output:
                self._process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)

    @property
    def pid(self) -> int:
        """The process id. Raises StartError where the service was not started."""
        if self._process is None:
            raise StartError(f"{self._module} was not started")
        return self._process.pid

    def check(self) -> None:
        """Returns while the service runs. Raises StartError where it has ended."""
        code = self._process.poll() if self._process else None
        if code is not None:
            raise StartError(f"{self._module} ended with exit code {code}{self._end_of_log()}")

    def wait_until_healthy(self) -> None:
        """Returns when the service says that it serves. Raises StartError where it ends or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.check()
            if is_healthy(self._address):
                return
            time.sleep(0.2)
        raise StartError(f"{self._module} was not healthy within {START_SECONDS} s{self._end_of_log()}")

    def _end_of_log(self) -> str:
        if self._log is None:
            return ""
        lines = self._log.read_text(errors="replace").splitlines()[-15:]
        return ":\n" + "\n".join(f"  {line}" for line in lines)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        if self._process is not None:
            self._process.send_signal(number)

    def ask_to_stop(self) -> None:
        """Asks the service to stop (SIGTERM), and does not wait."""
        self.signal(signal.SIGTERM)

    def stop(self) -> int:
        """Asks the service to stop and waits; kills it where it does not. Gives its exit code."""
        if self._process is None:
            return 0
        self.ask_to_stop()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """Kills the service (SIGKILL). Gives its exit code."""
        if self._process is None:
            return 0
        self._process.kill()
        return self._process.wait()

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_until_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def is_healthy(address: str) -> bool:
    """Whether a gRPC server at HOST:PORT reports SERVING."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            return is_serving(channel, timeout=2)
        except grpc.RpcError:
            return False


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
    with (
        ServiceProcess("embedder_service", addresses.embedder, embedder, folder / "embedder_service.log"),
        ServiceProcess("search_service", addresses.search, search, folder / "search_service.log"),
    ):
        yield addresses


def stop_on_sigterm() -> None:
    """Makes SIGTERM end this process as Ctrl-C does, so that the services it started are stopped too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def main() -> None:
    """Runs both services in the foreground, their logs on this terminal, until one of them ends or Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.local_stack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    embedder = os.environ.setdefault("EMBEDDER_LISTEN_ADDRESS", DEFAULT_EMBEDDER)
    search = os.environ.setdefault("SEARCH_LISTEN_ADDRESS", DEFAULT_TARGET)
    os.environ.setdefault("SEARCH_EMBEDDER_TARGET", embedder)
    stop_on_sigterm()
    try:
        with (
            ServiceProcess("embedder_service", embedder, {}, None) as embedder_process,
            ServiceProcess("search_service", search, {}, None) as search_process,
        ):
            print(f"\nboth services are up (search: {search}); in another terminal:", flush=True)
            target = "" if search == DEFAULT_TARGET else f" --target {search}"
            images = target if embedder == DEFAULT_EMBEDDER else f"{target} --embedder {embedder}"
            print(
                f"  .venv/bin/imagesearch ingest FOLDER{images}\n  .venv/bin/imagesearch search IMAGE{target}\n",
                flush=True,
            )
            while True:
                time.sleep(1)
                embedder_process.check()
                search_process.check()
    except KeyboardInterrupt:
        print("stopping")
    except StartError as error:
        sys.exit(f"demo.local_stack: {error}")


if __name__ == "__main__":
    main()
