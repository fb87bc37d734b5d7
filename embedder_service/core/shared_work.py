"""Runs equal work once for all callers that request it at the same time."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from embedder_service.core.deadlines import AnyDeadline, deadline_exceeded
from embedder_service.core.types import Lane

Value = TypeVar("Value")


@dataclass(eq=False)
class _Work(Generic[Value]):
    """Work in flight, and the deadlines of its callers. Its own deadline is the latest of these."""

    lane: Lane
    deadlines: list[AnyDeadline] = field(default_factory=list)
    task: "asyncio.Task[Value] | None" = None

    def remaining(self) -> float:
        # A copy, because decoding threads call this while callers come and go.
        return max((deadline.remaining() for deadline in tuple(self.deadlines)), default=0.0)


class SharedWork(Generic[Value]):
    """Lets callers join work that is in flight. All methods belong to one event loop."""

    def __init__(self) -> None:
        """Start without work."""
        self._in_flight: dict[Hashable, _Work[Value]] = {}

    async def run(
        self,
        key: Hashable,
        lane: Lane,
        deadline: AnyDeadline,
        work: Callable[[AnyDeadline], Coroutine[Any, Any, Value]],
        release: Callable[[], None],
    ) -> tuple[Value, bool]:
        """Return the result of `work`, or of equal work in flight, and whether the call joined such work.

        The work continues while at least one caller waits, and is cancelled when the last one leaves. An interactive
        call never joins bulk work: it starts its own, and later calls join that. Raises the errors of the work, and
        DeadlineExceededError.

        Args:
            key: equal for equal work.
            lane: the caller's lane.
            deadline: the caller's deadline.
            work: starts the work; receives the latest deadline of its callers.
            release: called once, when the input of this call's `work` is no longer needed. That is at once if the call
                joins other work; otherwise when `work` has ended, which may be long after this call.
        """
        shared = self._in_flight.get(key)
        # Work whose deadline has passed may be about to fail.
        joins = (
            shared is not None
            and not (lane is Lane.INTERACTIVE and shared.lane is Lane.BULK)
            and shared.remaining() > 0
        )
        if shared is None or not joins:
            shared = _Work(lane, [deadline])
            self._in_flight[key] = shared
            shared.task = asyncio.create_task(work(shared))
            shared.task.add_done_callback(lambda task: self._ended(key, shared, task))
            shared.task.add_done_callback(lambda _: release())
        else:
            shared.deadlines.append(deadline)
            release()
        try:
            return await self._result(shared, deadline), joins
        finally:
            shared.deadlines.remove(deadline)
            if not shared.deadlines:
                self._forget(key, shared)
                if shared.task is not None:
                    shared.task.cancel()

    async def _result(self, shared: _Work[Value], deadline: AnyDeadline) -> Value:
        assert shared.task is not None  # noqa: S101 - work in `_in_flight` has a task
        remaining = deadline.remaining()
        result = asyncio.shield(shared.task)
        if remaining == float("inf"):
            return await result
        try:
            async with asyncio.timeout(remaining) as limit:
                return await result
        except TimeoutError:
            if limit.expired():
                raise deadline_exceeded() from None
            raise

    def _ended(self, key: Hashable, shared: _Work[Value], task: "asyncio.Task[Value]") -> None:
        self._forget(key, shared)
        # The frames of a failed task refer to `shared`. This cycle would keep the image in memory.
        shared.task = None
        if not task.cancelled():
            # If all callers have left, nothing else retrieves the error, and asyncio would log it.
            task.exception()

    def _forget(self, key: Hashable, shared: _Work[Value]) -> None:
        if self._in_flight.get(key) is shared:
            del self._in_flight[key]
