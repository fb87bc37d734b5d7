"""Detects threads that hang. Python cannot stop such a thread: only a restart helps."""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog

from grpc_kit.deadline import Clock
from grpc_kit.errors import UnavailableError

log = structlog.stdlib.get_logger()

Result = TypeVar("Result")
# Seconds between two checks.
TICK = 1.0


class HungError(UnavailableError):
    """A thread of this process hangs, and the process does no more work."""


def hung_error() -> HungError:
    """Return the error for callers: another server can do the work, or this one after a restart."""
    return HungError(
        "WORKER_DIED", "a thread of this server hangs, and it must be restarted; call another server", retry_after=1.0
    )


@dataclass(eq=False)
class _Work:
    """The current work of a thread."""

    what: str
    limit: float
    since: float
    spent: float = 0.0
    """Seconds in which this process was awake."""
    is_waiting: bool = False


class HangWatch:
    """Tracks the work of a process's threads. It detects hangs only while `watch` runs."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        """Start without work; `clock` returns seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._work: dict[int, _Work] = {}
        self._calls: set[asyncio.Future[Any]] = set()
        # Wakes the watch, which sleeps while there is no work; None while it is awake.
        self._wake: Callable[[], object] | None = None
        self.hung = asyncio.Event()
        """Set when a thread hangs; from then on `run` refuses all work."""

    def watched(self, what: str, limit: float, function: Callable[..., Result], *arguments: object) -> Result:
        """Call a function in this thread. The thread hangs if that takes more than `limit` seconds."""
        thread = threading.get_ident()
        with self._lock:
            outer = self._work.get(thread)
            self._work[thread] = _Work(what, limit, self._clock())
            wake, self._wake = self._wake, None
        if wake is not None:
            # The event loop may have ended.
            with suppress(RuntimeError):
                wake()
        try:
            return function(*arguments)
        finally:
            with self._lock:
                if outer is None:
                    del self._work[thread]
                else:
                    self._work[thread] = outer

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Do not count the time in this context: the thread only waits for other threads."""
        work = self._work.get(threading.get_ident())
        if work is None:
            yield
            return
        work.is_waiting = True
        try:
            yield
        finally:
            work.is_waiting = False

    def note_progress(self) -> None:
        """Note that this thread makes progress: its time starts again at zero."""
        if work := self._work.get(threading.get_ident()):
            work.spent = 0.0

    async def run(
        self, executor: Executor, what: str, limit: float, function: Callable[..., Result], *arguments: object
    ) -> Result:
        """Call a function in a pool of threads. Raises HungError when any thread hangs."""
        self.refuse_if_hung()
        return await self.wait_for(
            asyncio.get_running_loop().run_in_executor(executor, self.watched, what, limit, function, *arguments)
        )

    def refuse_if_hung(self) -> None:
        """Raise HungError if a thread hangs."""
        if self.hung.is_set():
            raise hung_error()

    async def wait_for(self, call: "asyncio.Future[Result]") -> Result:
        """Wait for a call in a thread. Cancels the call and raises HungError when any thread hangs."""
        self._calls.add(call)
        try:
            return await call
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.hung.is_set() and (task is None or not task.cancelling()):
                raise hung_error() from None
            raise
        finally:
            self._calls.discard(call)

    async def watch(self) -> None:
        """Return when a thread hangs, after logging where. It does not wake up while there is no work."""
        while not self.hung.is_set():
            await self._wait_for_work()
            before = self._clock()
            await asyncio.sleep(TICK)
            now = self._clock()
            with self._lock:
                working = list(self._work.items())
            for thread, work in working:
                # Time in which the process was frozen does not count.
                work.spent += 0.0 if work.is_waiting else min(now - max(before, work.since), 2 * TICK)
                if work.spent > work.limit:
                    self._report(thread, work)
                    break

    async def _wait_for_work(self) -> None:
        """Wait until there is work."""
        begun = asyncio.Event()
        with self._lock:
            if self._work:
                return
            self._wake = partial(asyncio.get_running_loop().call_soon_threadsafe, begun.set)
        await begun.wait()

    def _report(self, thread: int, work: _Work) -> None:
        frame = sys._current_frames().get(thread)  # noqa: SLF001 - no public function returns the stack of another thread
        stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
        log.critical("a thread hangs", what=work.what, seconds=round(work.spent, 1), stack=stack)
        self.hung.set()
        for call in tuple(self._calls):
            call.cancel()
