"""Measures bulk loads: how busy they keep embedders, and what the ledger costs.

The peer of one embedder is the bare engine on ready batches, measured in turn with the load; that of three embedders is
one of them; the ledger is measured with vectors that were made before, so that it is not the network that is.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks import photographs
from benchmarks.embedder_throughput import Engine
from benchmarks.report import Report, arguments
from benchmarks.search_latency import clustered, service
from benchmarks.serving import embedder, resident_bytes
from demo.local_stack import ServiceProcess, free_port
from tests.milvus_server import MilvusProcess
from tests.name_server import name_server

PARTS = ("engine", "replicas", "ledger")
IMAGES = 2000
ENGINE_SECONDS = 10.0
READY = 64
REPLICAS = 3
REPLICA_IMAGES = 600
ITEMS = 200_000
# Fraction of the items after which the memory of a load should be stable.
WARM_PART = 0.1
LOOK_SECONDS = 0.25


@contextmanager
def folder_of_photographs(count: int) -> Iterator[Path]:
    """Write distinct JPEG files of 640x480 pixels."""
    with TemporaryDirectory() as folder:
        for number, content in enumerate(photographs.jpegs(count)):
            (Path(folder) / f"{number:05}.jpg").write_bytes(content)
        yield Path(folder)


class Loads:
    """Runs `imagesearch` against a search service, each time with a new collection."""

    def __init__(self, name: str, search: str, folder: Path, embedder_target: str = "") -> None:
        """Keep ledgers in `folder`; the names of the collections start with `name`."""
        self._name = name
        self._folder = folder
        self._environment = os.environ | {"IMAGESEARCH_TARGET": search, "IMAGESEARCH_EMBEDDER": embedder_target}
        # With this resolver dns://HOST:PORT/NAME queries the name server in the address.
        self._environment["GRPC_DNS_RESOLVER"] = "ares"
        self._runs = 0

    def start(self, command: str, source: Path, collection: str, *options: str) -> "subprocess.Popen[str]":
        """Start a load."""
        ledger = str(self._folder / f"{collection}.ledger")
        arguments = [command, str(source), "-c", collection, "--ledger", ledger, "--json", *options]
        return subprocess.Popen(
            [sys.executable, "-m", "imagesearch_cli", *arguments],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def rate(self, source: Path, count: int, *options: str) -> float:
        """Return the images per second of a whole load, from the first file to the last record in the ledger."""
        self._runs += 1
        account = finished(self.start("ingest", source, f"{self._name}_{self._runs}", *options))
        if account["stored"] != count:
            raise RuntimeError(f"not all were stored: {account}")
        return count / float(account["seconds"])


def finished(load: "subprocess.Popen[str]") -> dict[str, float]:
    """Wait for a load and return its report. Raises RuntimeError if it failed."""
    output, _ = load.communicate()
    if load.returncode:
        raise RuntimeError(f"a load ended with exit code {load.returncode}: {output}")
    account: dict[str, float] = json.loads(output)
    return account


def over_engine(report: Report, rounds: int) -> None:
    """Load a folder into Milvus 2.3.5 with one embedder, alternating with the bare engine."""
    engine = Engine()
    ready = np.stack([engine.decode(content) for content in photographs.jpegs(READY, seed=3)])
    rates: dict[str, list[float]] = {"engine": [], "ingest": []}
    with ExitStack() as stack:
        folder = stack.enter_context(folder_of_photographs(IMAGES))
        state = Path(stack.enter_context(TemporaryDirectory()))
        milvus = stack.enter_context(MilvusProcess(state / "milvus"))
        # Turn the embedder's cache off, so that every load embeds its images.
        address, _ = stack.enter_context(embedder(cache_vectors="0"))
        search, _ = stack.enter_context(service(milvus.uri, address))
        loads = Loads("engine", search, state, address)
        for _ in range(rounds):
            rates["engine"].append(engine.rate(ready, engine.model.info.max_batch_size, ENGINE_SECONDS))
            rates["ingest"].append(loads.rate(folder, IMAGES))
    base = report.median("engine_images_per_second", rates["engine"])
    load = report.median("ingest_images_per_second", rates["ingest"])
    report.ratio("ingest_over_engine", load / base, ">= 0.92")


@contextmanager
def waiting_embedders(count: int, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Run sleeping embedders on loopback addresses; yield the dns:/// name of all, and their addresses."""
    port = free_port()
    hosts = [f"127.0.0.{number}" for number in range(1, count + 1)]
    with ExitStack() as stack:
        for host in hosts:
            settings = {"EMBEDDER_LISTEN_ADDRESS": f"{host}:{port}", "EMBEDDER_CACHE_VECTORS": "0"}
            log = folder / f"{host}.log"
            stack.enter_context(ServiceProcess("benchmarks.waiting_embedder", f"{host}:{port}", settings, log))
        names = stack.enter_context(name_server(hosts))
        yield names.target("embedders", port), [f"{host}:{port}" for host in hosts]


def over_replicas(report: Report, rounds: int) -> None:
    """Compare three embedders behind a name with one embedder, alternating."""
    rates: dict[str, list[float]] = {"one": [], "three": []}
    with ExitStack() as stack:
        folder = stack.enter_context(folder_of_photographs(REPLICA_IMAGES))
        state = Path(stack.enter_context(TemporaryDirectory()))
        milvus = stack.enter_context(MilvusProcess(state / "milvus"))
        name, addresses = stack.enter_context(waiting_embedders(REPLICAS, state))
        search, _ = stack.enter_context(service(milvus.uri, addresses[0]))
        one_of_them, all_of_them = Loads("one", search, state, addresses[0]), Loads("three", search, state, name)
        for _ in range(rounds):
            rates["one"].append(one_of_them.rate(folder, REPLICA_IMAGES))
            rates["three"].append(all_of_them.rate(folder, REPLICA_IMAGES))
    one = report.median("one_waiting_embedder_images_per_second", rates["one"])
    three = report.median("three_waiting_embedders_images_per_second", rates["three"])
    report.ratio("three_over_one", three / one, ">= 2.8")


def over_ledger(report: Report) -> None:
    """Load 200,000 vectors: memory during the load, and the time of a second run with nothing to do."""
    with ExitStack() as stack:
        state = Path(stack.enter_context(TemporaryDirectory()))
        source = state / "vectors.npz"
        ids = np.array([f"image_{number:06}" for number in range(ITEMS)])
        np.savez(source, features=clustered(ITEMS), ids=ids)
        milvus = stack.enter_context(MilvusProcess(state / "milvus"))
        search, _ = stack.enter_context(service(milvus.uri))
        loads = Loads("ready", search, state)
        load = loads.start("import", source, "ledger", "--fingerprint", "benchmark")
        sizes = watch(load)
        account = finished(load)
        report.figure("ledger_items_per_second", ITEMS / float(account["seconds"]))
        warm = sizes[int(WARM_PART * len(sizes)) :]
        report.figure("ledger_memory_mb", statistics.median(warm) / 1e6)
        report.figure(f"ledger_memory_growth_over_{ITEMS}_mb", (max(warm) - warm[0]) / 1e6, "< 100")
        began = time.perf_counter()
        again = finished(loads.start("import", source, "ledger", "--fingerprint", "benchmark"))
        if again["skipped"] != ITEMS:
            raise RuntimeError(f"not all were skipped: {again}")
        report.figure("nothing_to_do_seconds", time.perf_counter() - began, "< 20")


def watch(process: "subprocess.Popen[str]") -> list[int]:
    """Return samples of the resident memory of a process until it ends."""
    sizes = []
    while process.poll() is None:
        try:
            sizes.append(resident_bytes(process.pid))
        except (FileNotFoundError, ProcessLookupError, IndexError):
            break
        time.sleep(LOOK_SECONDS)
    return sizes


def main() -> None:
    """Measure, print the table and write the report."""
    options = arguments("ingest_rate", __doc__, PARTS)
    parts = options.only or list(PARTS)
    report = Report("ingest_rate")
    if "replicas" in parts:
        over_replicas(report, options.rounds)
    if "ledger" in parts:
        over_ledger(report)
    if "engine" in parts:
        over_engine(report, options.rounds)
    report.finish(options.json)


if __name__ == "__main__":
    main()
