"""Measures how long a model takes."""

import statistics
import time
from collections.abc import Callable

from embedder_service.core.types import Pixels

# Number of timed runs; the median counts.
TIMED_RUNS = 3


def median_seconds(embed: Callable[[Pixels], object], pixels: Pixels, runs: int = TIMED_RUNS) -> float:
    """Return the median seconds of some runs with the same images."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        embed(pixels)
        times.append(time.perf_counter() - began)
    return statistics.median(times)
