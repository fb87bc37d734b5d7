"""Shows how far a load is: a line that changes on a terminal, lines of a log elsewhere."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from imagesearch_ingest.load.report import LoadReport

# Seconds between looks at the report, and between lines of a log.
TERMINAL_SECONDS, LOG_SECONDS = 0.5, 10.0
# Seconds that the rate is of: so that it tells what is going on, and does not jump.
RATE_SECONDS = 30.0


class LoadProgress:
    """What is shown of an report while it grows."""

    def __init__(self, report: LoadReport, console: Console) -> None:
        self._report = report
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
                text = f"{time.strftime('%H:%M:%S')} {progress_text(self._report, speed)}"
                self._console.print(Text(text), soft_wrap=True)
            return
        while not self._ended.wait(TERMINAL_SECONDS):
            self._status.update(Text(progress_text(self._report, speed)))


@contextmanager
def show_progress(report: LoadReport, console: Console) -> Iterator[LoadProgress]:
    """Shows an report while it grows."""
    shown = LoadProgress(report, console)
    shown.start()
    try:
        yield shown
    finally:
        shown.end()


class Speed:
    """Images and bytes by the second, lately."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque([(time.monotonic(), 0, 0)])

    def look(self, report: LoadReport) -> tuple[float, float]:
        """Items whose outcome is new and bytes that were read, by the second."""
        now = time.monotonic()
        self._seen.append((now, report.done, report.bytes))
        while now - self._seen[0][0] > RATE_SECONDS and len(self._seen) > 1:
            self._seen.popleft()
        then, done, read = self._seen[0]
        seconds = now - then
        return ((report.done - done) / seconds, (report.bytes - read) / seconds) if seconds else (0.0, 0.0)


def progress_text(report: LoadReport, speed: Speed) -> str:
    """How far it is, in words."""
    items, read = speed.look(report)
    of_all = f" of {report.expected:,}" if report.expected is not None else ""
    parts = [f"{report.done:,}{of_all}", f"{report.stored:,} stored", f"{report.failed:,} failed"]
    parts += [f"{report.skipped:,} skipped"] if report.skipped else []
    parts += [f"{items:,.1f}/s"]
    parts += [f"{read / 1e6:,.1f} MB/s"] if report.bytes else []
    if report.expected is not None and items > 0 and report.expected > report.done and not report.stopped:
        parts.append(f"{duration_text((report.expected - report.done) / items)} left")
    if report.waiting_for:
        parts.append(f"waiting: {report.waiting_for}")
    if report.interrupted:
        parts.append("waiting some seconds for calls in flight; Ctrl-C ends it now")
    elif report.stopped:
        parts.append(f"ending: {report.stopped}")
    return ", ".join(parts)


def duration_text(seconds: float) -> str:
    """Seconds as 42 s, 3:07 or 1:02:03."""
    whole = int(seconds)
    if whole < 60:  # noqa: PLR2004 - seconds of a minute
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
