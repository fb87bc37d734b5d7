"""Run coroutines from synchronous functions, even where an event loop runs already, as in Jupyter."""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class _Run(Generic[Result]):
    """A coroutine and the event loop that runs it."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, Result]]) -> None:
        self._make = make
        self._started, self._done = threading.Event(), threading.Event()
        self._result: Result | BaseException
        self.interrupt: Callable[[], object] | None = None
        """Ends the coroutine in an orderly way; None cancels it."""

    def in_this_thread(self) -> Result:
        """Run the coroutine in this thread."""
        _RUN.set(self)
        return asyncio.run(self._work())

    def in_new_thread(self) -> Result:
        """Run the coroutine in a thread, and wait for it. A KeyboardInterrupt of this thread interrupts it."""
        context = copy_context()
        threading.Thread(target=context.run, args=(self._keep_result,), name="imagesearch", daemon=True).start()
        interrupted: KeyboardInterrupt | None = None
        while True:
            try:
                self._done.wait()
                break
            except KeyboardInterrupt as error:
                self._started.wait()
                if self.interrupt is None:
                    interrupted = error
                # The loop may be closed already.
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self.interrupt or self._task.cancel)
        if interrupted is not None:
            raise interrupted
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result

    def _keep_result(self) -> None:
        try:
            self._result = self.in_this_thread()
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            self._result = error
        finally:
            self._started.set()
            self._done.set()

    async def _work(self) -> Result:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio.run makes one
        self._loop, self._task = asyncio.get_running_loop(), task
        self._started.set()
        return await self._make()


# None in a loop that `run_coroutine` has not started.
_RUN: ContextVar[_Run[Any] | None] = ContextVar("run", default=None)


def run_coroutine(make: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run the coroutine that `make` returns, and return its result.

    If a loop runs in this thread, as in a notebook, the coroutine runs in a loop in another thread. This thread waits,
    and an interrupt of it, as by the notebook's stop button, interrupts the coroutine.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return copy_context().run(_Run(make).in_this_thread)
    return _Run(make).in_new_thread()


@contextmanager
def interrupted_by_signals(interrupt: Callable[[], object]) -> Iterator[None]:
    """Call `interrupt` in the loop on SIGINT and SIGTERM, or on a KeyboardInterrupt of the waiting thread.

    In a loop that `run_coroutine` has not started, the program handles its signals itself.
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
