"""Runs a service in a child process that ends with this process, even if this process is killed."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from weakref import WeakSet

import grpc

from grpc_kit.health import is_serving

START_SECONDS = 240
STOP_SECONDS = 30
POLL_SECONDS = 0.2

# Asks the kernel (PR_SET_PDEATHSIG is 1) to kill this process when the thread that started it ends, then becomes the
# service. If that thread has ended already, the kernel does not notice; then the process has another parent.
LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent has ended")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""

_started: WeakSet[subprocess.Popen[bytes]] = WeakSet()


class StartError(Exception):
    """A service did not start; the message has the end of its log."""


class ServiceProcess:
    """A service in a child process. As a context manager it starts the service, waits for its health, and stops it."""

    def __init__(self, module: str, address: str, environment: Mapping[str, str], log: Path | None) -> None:
        """Prepare a service; `start` runs it.

        Args:
            module: module that `python -m` runs.
            address: address of the service, HOST:PORT; must agree with `environment`.
            environment: variables to add to those of this process.
            log: file to which the output is appended; None means the terminal.
        """
        self._module = module
        self._address = address
        self._environment = environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """Return the name for people, such as "search service"."""
        return self._module.replace("_", " ")

    @property
    def address(self) -> str:
        """Return the address, HOST:PORT."""
        return self._address

    def check_address(self) -> None:
        """Raise StartError if the address is in use or its port is 0."""
        host, _, port = self._address.rpartition(":")
        variable = next((name for name, value in self._environment.items() if value == self._address), "its address")
        if not port.isdecimal():
            return  # The service reports the error itself.
        if int(port) == 0:
            raise StartError(f"{self._address} has no port: set {variable} to HOST:PORT with a port from 1 to 65535")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            socket.create_server((host.strip("[]"), int(port)), family=family).close()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise StartError(
                    f"{self._address} is in use by another program: stop it, or set {variable} to another address"
                ) from None
            # The service reports the same error itself.

    def start(self) -> None:
        """Start the service without waiting for it. Raises StartError if the address is in use.

        On Linux, a service that the main thread starts ends with this process, even if this process is killed.
        """
        self.check_address()
        command = [sys.executable, "-m", self._module]
        if sys.platform == "linux" and self.thread_stays():
            command = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), *command[1:]]
        environment = {**os.environ, **self._environment}
        with ExitStack() as stack:
            output = stack.enter_context(self._log.open("a")) if self._log else None
            # In its own session it receives no signals from the terminal: this process decides when it stops.
            self._process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        _started.add(self._process)

    def thread_stays(self) -> bool:
        """Return whether this thread lives as long as the service may run: the kernel ends the service with it."""
        return threading.current_thread() is threading.main_thread()

    @property
    def pid(self) -> int:
        """The process id. Raises StartError if the service was not started."""
        if self._process is None:
            raise StartError(f"{self._module} was not started")
        return self._process.pid

    def check(self) -> None:
        """Raise StartError if the service has ended."""
        code = self._process.poll() if self._process else None
        if code is not None:
            raise StartError(f"{self._module} ended with exit code {code}{self._end_of_log()}")

    def is_healthy(self) -> bool:
        """Return whether the service reports that it serves. Raises StartError if it has ended."""
        self.check()
        return is_healthy(self._address)

    def wait_until_healthy(self) -> None:
        """Wait until the service is healthy. Raises StartError if it ends or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.is_healthy():
                return
            time.sleep(POLL_SECONDS)
        raise self.late()

    def late(self) -> StartError:
        """Return the error for a service that takes too long to start."""
        return StartError(f"{self._module} was not healthy within {START_SECONDS} s{self._end_of_log()}")

    def _end_of_log(self) -> str:
        if self._log is None:
            return ""
        lines = self._log.read_text(errors="replace").splitlines()[-15:]
        return ":\n" + "\n".join(f"  {line}" for line in lines)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        if self._process is not None:
            self._process.send_signal(number)

    def ask_to_stop(self) -> None:
        """Send SIGTERM without waiting."""
        self.signal(signal.SIGTERM)

    def stop(self) -> int:
        """Send SIGTERM and wait. Kill the service if it does not stop, or on an interrupt. Return the exit code."""
        if self._process is None:
            return 0
        self.ask_to_stop()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return self.kill()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> int:
        """Kill the service. Return its exit code."""
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


def kill_services() -> None:
    """Kill every service that this process started and that still runs."""
    for process in list(_started):
        process.kill()


def is_healthy(address: str) -> bool:
    """Return whether a gRPC server at HOST:PORT reports SERVING."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            return is_serving(channel, timeout=2)
        except grpc.RpcError:
            return False


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
