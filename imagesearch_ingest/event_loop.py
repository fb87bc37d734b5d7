"""Runs coroutines for functions that are no coroutines, also where an event loop runs already, as in Jupyter."""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class _Run(Generic[Result]):
    """A coroutine in a loop of its own."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, Result]]) -> None:
        self._make = make
        self._begun, self._done = threading.Event(), threading.Event()
        self._result: Result | BaseException
        self.interrupt: Callable[[], object] | None = None
        """Ends the work in an orderly way; None cancels it."""

    def here(self) -> Result:
        """Runs it in this thread."""
        _RUN.set(self)
        return asyncio.run(self._work())

    def elsewhere(self) -> Result:
        """Runs it in a thread, and waits for it; a KeyboardInterrupt of this thread interrupts the work."""
        context = copy_context()
        threading.Thread(target=context.run, args=(self._keep_result,), name="imagesearch", daemon=True).start()
        interrupted: KeyboardInterrupt | None = None
        while True:
            try:
                self._done.wait()
                break
            except KeyboardInterrupt as error:
                self._begun.wait()
                if self.interrupt is None:
                    interrupted = error
                # The loop may be closed by now.
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self.interrupt or self._task.cancel)
        if interrupted is not None:
            raise interrupted
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result

    def _keep_result(self) -> None:
        try:
            self._result = self.here()
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            self._result = error
        finally:
            self._begun.set()
            self._done.set()

    async def _work(self) -> Result:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio.run makes one
        self._loop, self._task = asyncio.get_running_loop(), task
        self._begun.set()
        return await self._make()


# None in a loop that a caller of coroutines has started.
_RUN: ContextVar[_Run[Any] | None] = ContextVar("run", default=None)


def run_coroutine(make: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run the coroutine that `make` returns, and return its result.

    If a loop runs in this thread, as in a notebook, the coroutine runs in a loop in another thread. This thread waits,
    and an interrupt of it, as by the notebook's stop button, interrupts the coroutine.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return copy_context().run(_Run(make).here)
    return _Run(make).elsewhere()


@contextmanager
def interrupted_by_signals(interrupt: Callable[[], object]) -> Iterator[None]:
    """Call `interrupt` in the loop for SIGINT and SIGTERM, or for the KeyboardInterrupt of the thread that waits.

    In a loop that `run_coroutine` has not started, signals are the program's own and stay as they are.
    """
    running, loop = _RUN.get(), asyncio.get_running_loop()
    if running is None:
        yield
        return
    running.interrupt = interrupt
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if in_main_thread}
    for number in before:
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        running.interrupt = None
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
