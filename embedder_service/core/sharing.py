"""Does equal work once for all who want it at the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from embedder_service.core.batching import TimeLeft, out_of_time
from embedder_service.core.types import Lane

Value = TypeVar("Value")


@dataclass(eq=False)
class _Flight(Generic[Value]):
    """Work under way, and those who wait for it. Its patience is that of the most patient of them."""

    lane: Lane
    waiting: list[TimeLeft] = field(default_factory=list)
    task: "asyncio.Task[Value] | None" = None

    def remaining(self) -> float:
        # A copy: threads that decode ask too, while callers come and go.
        return max((patience.remaining() for patience in tuple(self.waiting)), default=0.0)


class SharedWork(Generic[Value]):
    """Joins whoever asks for work that is under way already. It belongs to one event loop."""

    def __init__(self) -> None:
        """Nothing is under way."""
        self._flights: dict[Hashable, _Flight[Value]] = {}

    async def run(
        self,
        key: Hashable,
        lane: Lane,
        patience: TimeLeft,
        work: Callable[[TimeLeft], Coroutine[Any, Any, Value]],
        unneeded: Callable[[], None],
    ) -> tuple[Value, bool]:
        """The result of `work`, or of the equal work that is under way; and whether it was that.

        The work goes on while one of those who want it still waits, and is cancelled when the last one leaves. Who is
        interactive does not wait for bulk work: it begins anew, and whoever comes later joins that. Raises what the
        work raises, and DeadlineExceededError.

        `unneeded` is called once, when the input of `work` is no longer needed: at once if this call joins other work,
        else when `work` has ended. That may be long after this call.
        """
        flight = self._flights.get(key)
        # Work that nobody has time for may be giving up already.
        joins = (
            flight is not None
            and not (lane is Lane.INTERACTIVE and flight.lane is Lane.BULK)
            and flight.remaining() > 0
        )
        if flight is None or not joins:
            flight = _Flight(lane)
            self._flights[key] = flight
            flight.waiting.append(patience)
            flight.task = asyncio.create_task(work(flight))
            flight.task.add_done_callback(lambda task: self._land(key, flight, task))
            flight.task.add_done_callback(lambda _: unneeded())
        else:
            flight.waiting.append(patience)
            unneeded()
        try:
            return await self._wait(flight, patience), joins
        finally:
            flight.waiting.remove(patience)
            if not flight.waiting:
                self._forget(key, flight)
                if flight.task is not None:
                    flight.task.cancel()

    async def _wait(self, flight: _Flight[Value], patience: TimeLeft) -> Value:
        remaining = patience.remaining()
        waiting: Awaitable[Value] = asyncio.shield(_task(flight))
        if remaining == float("inf"):
            return await waiting
        try:
            async with asyncio.timeout(remaining) as limit:
                return await waiting
        except TimeoutError:
            if limit.expired():
                raise out_of_time() from None
            raise

    def _land(self, key: Hashable, flight: _Flight[Value], task: "asyncio.Task[Value]") -> None:
        self._forget(key, flight)
        # A failed task's frames lead back to the flight: in a ring they would keep the image.
        flight.task = None
        if not task.cancelled():
            # Where all who waited have left, nobody else asks for it.
            task.exception()

    def _forget(self, key: Hashable, flight: _Flight[Value]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


def _task(flight: _Flight[Value]) -> "asyncio.Task[Value]":
    assert flight.task is not None  # noqa: S101 - set before anybody sees the flight, until nobody can join it
    return flight.task
