"""What the tests of this folder share: time that passes when a test says so, and a listener."""

import asyncio
from collections.abc import Callable

from embedder_service.core.types import Lane


class FakeClock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Told:
    """An Observer that keeps what it is told."""

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
    """Lets every task go on until it waits for something that only the test or a thread can give."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what threads do; fails where they never do it."""
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise TimeoutError
