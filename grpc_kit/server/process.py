"""How a server process starts and stops: signals, and an exit even if a thread hangs."""

import asyncio
import faulthandler
import os
import signal
import sys
from collections.abc import Awaitable

import structlog

from grpc_kit.server.grpc_server import Server

log = structlog.stdlib.get_logger()

# Seconds after which a process that was asked to stop while it starts exits once more.
AGAIN_SECONDS = 1.0
# Seconds after which a process exits if only a restart can help. Kubernetes restarts it within 60 s.
DEAD_SECONDS = 90.0
# Seconds after the drain in which a stopping process must exit. With the default drain this is before the 30 s after
# which Kubernetes kills the process.
END_SECONDS = 8.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STDERR = 2


async def end_after(death: Awaitable[object], server: Server) -> None:
    """Wait for the `death` of a worker, report NOT_SERVING so that callers use other servers, and exit later.

    Kubernetes restarts a process that fails its liveness probe. Docker restarts only a process that has ended.
    """
    await death
    await server.report_dead()
    await asyncio.sleep(DEAD_SECONDS)
    log.critical("the process exits, because only a restart can help")
    # A normal exit would wait forever for threads that hang.
    os._exit(1)


def end_when_asked() -> None:
    """Make SIGTERM end the process, until `stop_signals` replaces this handler.

    The first process of a container receives only signals that it handles. Without this handler, a container that is
    stopped while it starts would run until it is killed.
    """

    def end(*_: object) -> None:
        # Python ignores SystemExit in some callbacks, such as those of an import, so a timer raises it again.
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
        sys.exit(0)

    signal.signal(signal.SIGALRM, end)
    signal.signal(signal.SIGTERM, end)


def stop_signals(drain_seconds: float) -> asyncio.Event:
    """Return an event that is set when SIGTERM or Ctrl-C asks the process to stop. Call this before the process serves.

    If a thread hangs, the process ends some seconds after the drain.
    """
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask() -> None:
        # A second signal does not extend the time.
        if not asked.is_set():
            asked.set()
            end_within(drain_seconds + END_SECONDS)

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, ask)
    return asked


def finish() -> None:
    """Prepare the exit of a process that has stopped serving: ignore further signals, and exit even if a thread hangs.

    Otherwise a second SIGTERM would kill the process while it exits, and its exit status would report a failure.
    """
    loop = asyncio.get_running_loop()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    for number in STOP_SIGNALS:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    end_within(END_SECONDS)


def end_within(seconds: float) -> None:
    """End the process with status 1 after some seconds, even if it is busy, and write the stacks to stderr.

    A normal exit would wait forever for threads that hang.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=STDERR)
