"""Measures the neighbors of all images: seconds, memory by size, a kill, and recall against scikit-learn.

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
from imagesearch_analysis.neighbor_files import RecordOptions, records, write_neighbors
from imagesearch_analysis.neighbors import NeighborParts
from imagesearch_analysis.snapshot import Origin, Snapshot
from imagesearch_analysis.snapshot_writer import SnapshotWriter
from imagesearch_client import Embedding, Image
from imagesearch_client.listing import ListingPosition
from imagesearch_client.types import Metric

SIZES = (25_000, 100_000)
K = 10
QUERIES = 1000
PAGE = 1000
# Fraction of the images after which the process is killed.
KILLED_AT = 0.4


def fill(folder: Path, vectors: Matrix) -> None:
    """Write a snapshot of vectors."""
    now = datetime.now(UTC)
    with SnapshotWriter(folder, Origin("bench", FINGERPRINT, Metric.COSINE.value, DIMENSION)) as writer:
        for begin in range(0, len(vectors), PAGE):
            images = [
                Image(f"i{begin + row:06d}", "", {}, "", now, now, Embedding(vector, FINGERPRINT))
                for row, vector in enumerate(vectors[begin : begin + PAGE])
            ]
            writer.add(images, ListingPosition(complete=begin + PAGE >= len(vectors)))


def find(snapshot_folder: Path, target: Path, reports: Any) -> None:
    """Write the neighbors of a snapshot to a file. Put the progress into `reports`, then minus the resumed images."""
    parts = NeighborParts(target)
    with Snapshot(snapshot_folder) as snapshot, parts.locked():
        parts.compute(snapshot, K, on_progress=reports.put)
        batches = records(snapshot.ids, parts.read(snapshot), RecordOptions(snapshot.metric))
        write_neighbors(target, batches, snapshot.metric)
        parts.remove()
    reports.put(-parts.resumed)


def run(snapshot_folder: Path, target: Path, kill_at: int | None = None) -> tuple[float, float, int]:
    """Run `find` in a process; kill it after `kill_at` images. Return seconds, peak megabytes and resumed images."""
    context = multiprocessing.get_context("spawn")
    reports = context.SimpleQueue()
    began = time.perf_counter()
    process = context.Process(target=find, args=(snapshot_folder, target, reports))
    process.start()
    peak, resumed = 0.0, 0
    while process.is_alive():
        peak = max(peak, _peak_megabytes(process.pid))
        while not reports.empty():
            images = reports.get()
            resumed = max(resumed, -images)
            if kill_at is not None and images >= kill_at:
                process.kill()
        time.sleep(0.05)
    while not reports.empty():
        resumed = max(resumed, -reports.get())
    if process.exitcode and kill_at is None:
        raise RuntimeError(f"the process ended with exit code {process.exitcode}")
    return time.perf_counter() - began, peak, resumed


def _peak_megabytes(pid: int | None) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def recall(vectors: Matrix, target: Path) -> float:
    """Return the fraction of the true neighbors of sampled images that a file of JSON lines has."""
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
    """Measure one size, without and with a kill."""
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
            raise RuntimeError("the process finished before it was killed")
        seconds, _, resumed = run(snapshot, target)
        report.figure(f"{size}_killed_after_seconds", killed_after)
        report.figure(f"{size}_resumed_images", resumed)
        report.figure(f"{size}_rest_seconds", seconds)
        report.figure(f"{size}_same_file", float(target.read_bytes() == straight), "1")


def main() -> None:
    """Measure, print the table and write the report."""
    options = arguments("neighbors", __doc__, [str(size) for size in SIZES])
    report = Report("neighbors")
    for size in SIZES:
        if not options.only or str(size) in options.only:
            measure(report, size)
            report.save(options.json)
    report.finish(options.json)


if __name__ == "__main__":
    main()
