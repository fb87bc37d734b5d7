"""Test doubles of this folder: a clock that the test sets, and an observer that records."""

import asyncio
from collections.abc import Callable, Sequence

from embedder_service.core.types import ImageVectors, Lane, Pixels, RegionRequest, Vectors


def without_regions(
    embed: Callable[[Pixels], Vectors],
) -> Callable[[Pixels, Sequence[RegionRequest | None]], list[ImageVectors]]:
    """Return the run of a model that embeds whole images only."""

    def run(pixels: Pixels, requests: Sequence[RegionRequest | None]) -> list[ImageVectors]:
        assert list(requests) == [None] * len(pixels)
        return [ImageVectors(vector) for vector in embed(pixels)]

    return run


class FakeClock:
    """A clock that stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class RecordingObserver:
    """An Observer that records its events."""

    def __init__(self) -> None:
        self.decodes: list[tuple[Lane, float]] = []
        self.waits: list[tuple[Lane, float]] = []
        self.runs: list[tuple[int, float]] = []
        self.answers: list[tuple[Lane, str]] = []

    def decoded(self, lane: Lane, seconds: float) -> None:
        self.decodes.append((lane, seconds))

    def queued(self, lane: Lane, seconds: float) -> None:
        self.waits.append((lane, seconds))

    def batch_ran(self, images: int, seconds: float) -> None:
        self.runs.append((images, seconds))

    def answered(self, lane: Lane, result: str) -> None:
        self.answers.append((lane, result))


async def settle() -> None:
    """Run all tasks until they wait for the test or for a thread."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true; fail after some seconds."""
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise TimeoutError
