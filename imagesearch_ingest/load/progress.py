"""Shows how far a load is: a line that changes on a terminal, lines of a log elsewhere."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from imagesearch_ingest.load.report import LoadReport

# Seconds between looks at the account, and between lines of a log.
TERMINAL_SECONDS, LOG_SECONDS = 0.5, 10.0
# Seconds that the rate is of: so that it tells what is going on, and does not jump.
RATE_SECONDS = 30.0


class Shown:
    """What is shown of an account while it grows."""

    def __init__(self, account: LoadReport, console: Console) -> None:
        self._account = account
        self._console = console
        self._ended = threading.Event()
        self._status = console.status("") if console.is_terminal else None
        self._watcher = threading.Thread(target=self._watch, name="progress", daemon=True)

    def start(self) -> None:
        """Begins to show it."""
        if self._status is not None:
            self._status.start()
        self._watcher.start()

    def end(self) -> None:
        """Shows it no longer."""
        self._ended.set()
        self._watcher.join()
        if self._status is not None:
            self._status.stop()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Leaves a terminal to somebody else, for a question."""
        if self._status is None:
            yield
            return
        self._status.stop()
        try:
            yield
        finally:
            self._status.start()

    def _watch(self) -> None:
        speed = Speed()
        if self._status is None:
            while not self._ended.wait(LOG_SECONDS):
                text = f"{time.strftime('%H:%M:%S')} {described(self._account, speed)}"
                self._console.print(Text(text), soft_wrap=True)
            return
        while not self._ended.wait(TERMINAL_SECONDS):
            self._status.update(Text(described(self._account, speed)))


@contextmanager
def show(account: LoadReport, console: Console) -> Iterator[Shown]:
    """Shows an account while it grows."""
    shown = Shown(account, console)
    shown.start()
    try:
        yield shown
    finally:
        shown.end()


class Speed:
    """Images and bytes by the second, lately."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque([(time.monotonic(), 0, 0)])

    def look(self, account: LoadReport) -> tuple[float, float]:
        """Items whose outcome is new and bytes that were read, by the second."""
        now = time.monotonic()
        self._seen.append((now, account.done, account.bytes))
        while now - self._seen[0][0] > RATE_SECONDS and len(self._seen) > 1:
            self._seen.popleft()
        then, done, read = self._seen[0]
        seconds = now - then
        return ((account.done - done) / seconds, (account.bytes - read) / seconds) if seconds else (0.0, 0.0)


def described(account: LoadReport, speed: Speed) -> str:
    """How far it is, in words."""
    items, read = speed.look(account)
    of_all = f" of {account.expected:,}" if account.expected is not None else ""
    parts = [f"{account.done:,}{of_all}", f"{account.stored:,} stored", f"{account.failed:,} failed"]
    parts += [f"{account.skipped:,} skipped"] if account.skipped else []
    parts += [f"{items:,.1f}/s"]
    parts += [f"{read / 1e6:,.1f} MB/s"] if account.bytes else []
    if account.expected is not None and items > 0 and account.expected > account.done and not account.stopped:
        parts.append(f"{duration((account.expected - account.done) / items)} left")
    if account.waiting_for:
        parts.append(f"waiting: {account.waiting_for}")
    if account.interrupted:
        parts.append("waiting some seconds for calls in flight; Ctrl-C ends it now")
    elif account.stopped:
        parts.append(f"ending: {account.stopped}")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as 42 s, 3:07 or 1:02:03."""
    whole = int(seconds)
    if whole < 60:  # noqa: PLR2004 - seconds of a minute
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
