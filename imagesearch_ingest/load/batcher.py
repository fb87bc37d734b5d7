"""Puts what many ask for, one by one, into few calls."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

from grpc_kit.errors import UnavailableError

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class PendingRequest(Generic[Asked, Answer]):
    """One thing that was asked for, and the place for its answer."""

    asked: Asked
    size: int
    alone: bool
    answer: "asyncio.Future[Answer]"

    def give(self, answer: Answer) -> None:
        """Answers; who no longer waits is not told."""
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: BaseException) -> None:
        """Answers with an error; who no longer waits is not told."""
        if not self.answer.done():
            self.answer.set_exception(error)


@dataclass(frozen=True)
class BatchLimits:
    """How much goes into one call, and how many calls there are at a time."""

    calls: int
    entries: int
    size: int
    """Bytes of all entries of a call; a single entry may have more."""
    linger: float = 0.0
    """Seconds that a call waits for more entries after its first; it does not, when there is nothing more to come."""


class Batcher(Generic[Asked, Answer]):
    """Calls that each answer several who ask; begins with `async with`."""

    def __init__(
        self, call: Callable[[Sequence[PendingRequest[Asked, Answer]]], Awaitable[None]], bounds: BatchLimits
    ) -> None:
        """`call` answers entries; those that it leaves without an answer get its exception."""
        self._call = call
        self._bounds = bounds
        self._waiting: deque[PendingRequest[Asked, Answer]] = deque()
        self._arrived = asyncio.Event()
        self._taking = asyncio.Lock()
        self._hurried = False
        self._given_up = False
        self._callers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Begins."""
        self._callers = [asyncio.create_task(self._work()) for _ in range(self._bounds.calls)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the calls that are under way."""
        for caller in self._callers:
            caller.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)

    async def ask(self, asked: Asked, size: int = 0, *, alone: bool = False) -> Answer:
        """The answer; `alone` gets a call of its own. Raises what the call raises; CancelledError after `give_up`."""
        if self._given_up:
            raise asyncio.CancelledError
        entry: PendingRequest[Asked, Answer] = PendingRequest(
            asked, size, alone, asyncio.get_running_loop().create_future()
        )
        self._waiting.append(entry)
        self._arrived.set()
        return await entry.answer

    def hurry(self) -> None:
        """Waits no longer for calls to be full: there is nothing more to come."""
        self._hurried = True
        self._arrived.set()

    def give_up(self) -> None:
        """Cancels what no call has taken yet, and what is asked from now on; calls in flight go on."""
        self._given_up = True
        while self._waiting:
            self._waiting.popleft().answer.cancel()

    async def _work(self) -> None:
        while True:
            # One at a time, or several calls would each wait for a part of the same entries.
            async with self._taking:
                batch = await self._take()
            try:
                await self._call(batch)
            except asyncio.CancelledError:
                for entry in batch:
                    entry.fail(UnavailableError("CANCELLED", "the call was cancelled"))
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
            except Exception as error:  # noqa: BLE001 - those who asked are told
                for entry in batch:
                    entry.fail(error)
            else:
                for entry in batch:
                    entry.fail(UnavailableError("NO_ANSWER", "the call ended without an answer to this"))

    async def _take(self) -> list[PendingRequest[Asked, Answer]]:
        await self._wait(None)
        batch = [self._waiting.popleft()]
        size = batch[0].size
        loop = asyncio.get_running_loop()
        until = loop.time() + self._bounds.linger
        while not batch[0].alone and len(batch) < self._bounds.entries:
            if not self._waiting and (
                self._hurried or (left := until - loop.time()) <= 0 or not await self._wait(left)
            ):
                break
            following = self._waiting[0]
            size += following.size
            if following.alone or size > self._bounds.size:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _wait(self, seconds: float | None) -> bool:
        """Waits for entries; whether there are any."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._waiting and (seconds is None or not self._hurried):
                    self._arrived.clear()
                    await self._arrived.wait()
        return bool(self._waiting)
