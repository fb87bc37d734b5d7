"""Run both services on this machine until Ctrl-C: `python -m demo.local_stack`.

The embedder listens on 127.0.0.1:50051, the search service on 127.0.0.1:50052. Milvus Lite stores the data in ./data.
The environment variables of the services change these defaults. The services log only warnings and errors; set
EMBEDDER_LOG_LEVEL and SEARCH_LOG_LEVEL to change that.
"""

import argparse
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from demo.service_process import (
    POLL_SECONDS,
    START_SECONDS,
    ServiceProcess,
    StartError,
    free_port,
    is_healthy,
    kill_services,
)
from imagesearch_client import DEFAULT_EMBEDDER, DEFAULT_TARGET
from search_service.adapters.lite_files import check_unused
from search_service.settings import SearchSettings

__all__ = ["LocalStack", "ServiceProcess", "StartError", "free_port", "is_healthy", "local_stack", "stop_on_signals"]

# Seconds between two lines that name the services that are still starting.
REPORT_SECONDS = 10
# A second signal within this time counts as the same request: make forwards SIGTERM to its children, which may have
# received it already.
REPEAT_SECONDS = 1.0
PR_SET_PDEATHSIG = 1

Report = Callable[[str], None]

# The moment of the first stop signal, by the monotonic clock; empty before it.
_stop_signals: list[float] = []


@dataclass(frozen=True)
class LocalStack:
    """The addresses of the two services."""

    embedder: str
    search: str


@contextmanager
def running(embedder: ServiceProcess, search: ServiceProcess, report: Report) -> Iterator[None]:
    """Start both services in parallel; stop them at the end of the context. Raises StartError."""
    for name in ("EMBEDDER_TLS_CERTIFICATE", "SEARCH_TLS_CERTIFICATE"):
        if os.environ.get(name):
            raise StartError(f"this command cannot use TLS: unset {name}, or start the services yourself")
    with ExitStack() as stack:
        for service in (embedder, search):
            service.check_address()
        try:
            for service in (embedder, search):
                # The search service stops first, because it calls the embedder.
                stack.callback(service.stop)
                service.start()
            _wait_until_healthy([search, embedder], report)
            yield
        except KeyboardInterrupt:
            report("stopping both services; Ctrl-C again kills them")
            raise


def _wait_until_healthy(services: list[ServiceProcess], report: Report) -> None:
    began = reported = time.monotonic()
    waiting = list(services)
    while waiting:
        check_signals()
        for service in list(waiting):
            if service.is_healthy():
                waiting.remove(service)
                report(f"  {service.name} ready at {service.address} after {time.monotonic() - began:.0f} s")
        now = time.monotonic()
        if waiting and now - began > START_SECONDS:
            raise waiting[0].late()
        if waiting and now - reported > REPORT_SECONDS:
            reported = now
            names = " and ".join(service.name for service in waiting)
            report(f"  still starting after {now - began:.0f} s: {names}")
        time.sleep(POLL_SECONDS)


def say_nothing(_: str) -> None:
    """Ignore the report."""


@contextmanager
def local_stack(folder: Path, report: Report = say_nothing) -> Iterator[LocalStack]:
    """Run both services on free ports, with data and logs in `folder`. Raises StartError."""
    addresses = LocalStack(f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")
    embedder = {
        "EMBEDDER_LISTEN_ADDRESS": addresses.embedder,
        # The embedder runs every batch size before it is ready, which takes most of the start on a slow machine. A
        # batch size of 2 has 95 % of the throughput of 8.
        "EMBEDDER_MAX_BATCH_SIZE": os.environ.get("EMBEDDER_MAX_BATCH_SIZE") or "2",
    }
    search = {
        "SEARCH_LISTEN_ADDRESS": addresses.search,
        "SEARCH_EMBEDDER_TARGET": addresses.embedder,
        "SEARCH_MILVUS_URI": str(folder / "milvus.db"),
    }
    with running(
        ServiceProcess("embedder_service", addresses.embedder, embedder, folder / "embedder_service.log"),
        ServiceProcess("search_service", addresses.search, search, folder / "search_service.log"),
        report,
    ):
        yield addresses


def stop_on_signals() -> None:
    """Make SIGTERM, Ctrl-C and a closed terminal raise KeyboardInterrupt, once, so that the services are stopped.

    A later signal kills the services that are still stopping.
    """

    def handle(_number: int, _frame: object) -> None:
        if not _stop_signals:
            _stop_signals.append(time.monotonic())
            raise KeyboardInterrupt
        if time.monotonic() - _stop_signals[0] > REPEAT_SECONDS:
            kill_services()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
        signal.signal(signal.SIGHUP, handle)


def check_signals() -> None:
    """Raise KeyboardInterrupt if a signal has asked this process to stop.

    The handler's own exception is lost if it strikes while Python runs a destructor.
    """
    if _stop_signals:
        raise KeyboardInterrupt


def stop_with(parent: int) -> None:
    """Make the kernel send this process SIGTERM when its parent, process `parent`, ends, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:
            sys.exit(f"process {parent}, with which this one should stop, has ended")


def say(text: str) -> None:
    """Print a line, unless the terminal is closed."""
    with suppress(OSError):
        print(text, flush=True)


def main() -> None:
    """Run both services in the foreground, with their logs on this terminal, until one of them ends or Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.local_stack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parent", type=int, metavar="PID", help="stop when this process, the parent, ends (Linux)")
    options = parser.parse_args()
    stop_on_signals()
    if options.parent:
        stop_with(options.parent)
    for service in ("EMBEDDER", "SEARCH"):
        os.environ.setdefault(f"{service}_LOG_LEVEL", "WARNING")
    embedder = os.environ.get("EMBEDDER_LISTEN_ADDRESS") or DEFAULT_EMBEDDER
    search = os.environ.get("SEARCH_LISTEN_ADDRESS") or DEFAULT_TARGET
    os.environ.setdefault("SEARCH_EMBEDDER_TARGET", embedder)
    try:
        run(LocalStack(embedder, search))
    except KeyboardInterrupt:
        say("both services are stopped")
    except StartError as error:
        sys.exit(f"demo.local_stack: {error}")


def run(addresses: LocalStack) -> None:
    """Run both services until one of them ends or a signal comes. Raises StartError, KeyboardInterrupt."""
    data = os.environ.get("SEARCH_MILVUS_URI") or SearchSettings.model_fields["milvus_uri"].default
    try:
        check_unused(data)
    except OSError as error:
        raise StartError(str(error)) from None
    embedder = ServiceProcess(
        "embedder_service", addresses.embedder, {"EMBEDDER_LISTEN_ADDRESS": addresses.embedder}, None
    )
    search = ServiceProcess("search_service", addresses.search, {"SEARCH_LISTEN_ADDRESS": addresses.search}, None)
    say("Starting the embedder (it loads the model) and the search service; Ctrl-C stops both")
    with running(embedder, search, say):
        say(usage(addresses))
        while True:
            time.sleep(1)
            check_signals()
            embedder.check()
            search.check()


def usage(addresses: LocalStack) -> str:
    """Return the next commands, with the addresses if they differ from the defaults."""
    target = "" if addresses.search == DEFAULT_TARGET else f" --target {addresses.search}"
    images = target if addresses.embedder == DEFAULT_EMBEDDER else f"{target} --embedder {addresses.embedder}"
    return (
        "Both services are up. In another terminal:\n"
        f"  .venv/bin/imagesearch ingest FOLDER{images}\n"
        f"  .venv/bin/imagesearch search IMAGE{target}\n"
        "Warnings and errors appear below. With EMBEDDER_LOG_LEVEL=INFO and\n"
        "SEARCH_LOG_LEVEL=INFO, make up also logs every call."
    )


if __name__ == "__main__":
    main()
