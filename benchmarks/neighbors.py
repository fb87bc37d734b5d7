"""The neighbours of everything: seconds, memory by size, a kill on the way, and recall against scikit-learn.

The vectors are clustered, as those of photographs are, and lie in a snapshot, as the command leaves them there. The
work is done by a process of its own, which is killed (SIGKILL) on the way and begun again.
"""

import json
import multiprocessing
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from sklearn.neighbors import NearestNeighbors

from benchmarks.report import Report, arguments
from benchmarks.search_latency import DIMENSION, FINGERPRINT, Matrix, clustered
from imagesearch_analysis.neighbor_files import Style, records, write_neighbors
from imagesearch_analysis.neighbors import Work
from imagesearch_analysis.snapshot import Origin, Snapshot, SnapshotWriter
from imagesearch_client import Embedding, Image
from imagesearch_client.listing import Place
from imagesearch_client.types import Metric

SIZES = (25_000, 100_000)
K = 10
QUERIES = 1000
PAGE = 1000
# Of all images, when the process is killed.
KILLED_AT = 0.4


def fill(folder: Path, vectors: Matrix) -> None:
    """Writes a snapshot of vectors."""
    now = datetime.now(UTC)
    with SnapshotWriter(folder, Origin("bench", FINGERPRINT, Metric.COSINE.value, DIMENSION)) as writer:
        for begin in range(0, len(vectors), PAGE):
            images = [
                Image(f"i{begin + row:06d}", "", {}, "", now, now, Embedding(vector, FINGERPRINT))
                for row, vector in enumerate(vectors[begin : begin + PAGE])
            ]
            writer.add(images, Place(complete=begin + PAGE >= len(vectors)))


def find(snapshot_folder: Path, target: Path, told: Any) -> None:
    """Writes the neighbours of a snapshot to a file; puts how far it is into `told`, and how much was done before."""
    work = Work(target)
    with Snapshot(snapshot_folder) as snapshot, work.held():
        work.run(snapshot, K, tell=told.put)
        write_neighbors(target, records(snapshot.ids, work.parts(snapshot), Style(snapshot.metric)), snapshot.metric)
        work.remove()
    told.put(-work.resumed)


def run(snapshot_folder: Path, target: Path, kill_at: int | None = None) -> tuple[float, float, int]:
    """Seconds, the most megabytes in memory, and images that were done before; it is killed at so many images."""
    context = multiprocessing.get_context("spawn")
    told = context.SimpleQueue()
    began = time.perf_counter()
    process = context.Process(target=find, args=(snapshot_folder, target, told))
    process.start()
    peak, resumed = 0.0, 0
    while process.is_alive():
        peak = max(peak, _peak_megabytes(process.pid))
        while not told.empty():
            images = told.get()
            resumed = max(resumed, -images)
            if kill_at is not None and images >= kill_at:
                process.kill()
        time.sleep(0.05)
    while not told.empty():
        resumed = max(resumed, -told.get())
    if process.exitcode and kill_at is None:
        raise RuntimeError(f"it ended with {process.exitcode}")
    return time.perf_counter() - began, peak, resumed


def _peak_megabytes(pid: int | None) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def recall(vectors: Matrix, target: Path) -> float:
    """The part of the true neighbours of some images that is in a file of JSON lines."""
    rows = np.random.default_rng(1).choice(len(vectors), QUERIES, replace=False)
    brute = NearestNeighbors(n_neighbors=K + 1, algorithm="brute", metric="cosine").fit(vectors)
    truth = brute.kneighbors(vectors[rows], return_distance=False)
    wanted = {
        f"i{row:06d}": [f"i{other:06d}" for other in near if other != row][:K]
        for row, near in zip(rows, truth, strict=True)
    }
    found = 0
    with target.open() as file:
        for line in file:
            record = json.loads(line)
            if record["id"] in wanted:
                found += len({neighbor["id"] for neighbor in record["neighbors"]}.intersection(wanted[record["id"]]))
    return found / (K * QUERIES)


def measure(report: Report, size: int) -> None:
    """One size, straight through and with a kill on the way."""
    vectors = clustered(size)
    with TemporaryDirectory() as folder:
        snapshot, target = Path(folder) / "snapshot", Path(folder) / "neighbors.jsonl"
        fill(snapshot, vectors)
        seconds, peak, _ = run(snapshot, target)
        report.figure(f"{size}_seconds", seconds)
        report.figure(f"{size}_peak_mb", peak, "flat")
        straight = target.read_bytes()
        report.ratio(f"{size}_recall_at_{K}", recall(vectors, target), ">= 0.99")
        target.unlink()
        killed_after, _, _ = run(snapshot, target, int(KILLED_AT * size))
        if target.exists():
            raise RuntimeError("it was done before it was killed")
        seconds, _, resumed = run(snapshot, target)
        report.figure(f"{size}_killed_after_seconds", killed_after)
        report.figure(f"{size}_resumed_images", resumed)
        report.figure(f"{size}_rest_seconds", seconds)
        report.figure(f"{size}_same_file", float(target.read_bytes() == straight), "1")


def main() -> None:
    """Measures, prints a table and writes the result."""
    options = arguments("neighbors", __doc__, [str(size) for size in SIZES])
    report = Report("neighbors")
    for size in SIZES:
        if not options.only or str(size) in options.only:
            measure(report, size)
            report.save(options.json)
    report.finish(options.json)


if __name__ == "__main__":
    main()
