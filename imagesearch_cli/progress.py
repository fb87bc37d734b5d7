"""Progress of commands on standard error: a bar on a terminal, elsewhere a line every ten seconds."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from imagesearch_cli.console import err
from imagesearch_ingest.load.report import LoadReport

# Seconds between updates of a bar, and between lines without a terminal.
BAR_SECONDS, LINE_SECONDS = 0.2, 10.0
# Rates are averages of these seconds, so that they do not jump.
RATE_SECONDS = 30.0
BAR_WIDTH = 20


class Rate:
    """How fast counts have grown lately."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, tuple[int, ...]]] = deque()

    def per_second(self, *counts: int) -> list[float]:
        """Return the growth of each count per second; all counts were 0 at the first call."""
        now = time.monotonic()
        if not self._seen:
            self._seen.append((now, (0,) * len(counts)))
        self._seen.append((now, counts))
        while now - self._seen[0][0] > RATE_SECONDS and len(self._seen) > 1:
            self._seen.popleft()
        then, before = self._seen[0]
        seconds = now - then
        return [(count - old) / seconds if seconds else 0.0 for count, old in zip(counts, before, strict=True)]


class Shown(Protocol):
    """What a display shows."""

    @property
    def done(self) -> int:
        """Return how much is done."""

    @property
    def expected(self) -> int | None:
        """Return how much there is to do; None if that is not known."""

    def describe(self) -> str:
        """Return the line to print."""


class Counter:
    """The progress of a command that knows how much it has to do."""

    def __init__(self, expected: int | None = None) -> None:
        self.expected = expected
        self.done = 0
        self.failed = 0
        self._rate = Rate()
        self._rate.per_second(0)

    def start(self, expected: int) -> None:
        """Set how much there is to do."""
        self.expected = expected

    def step(self, failed: int) -> None:
        """Count one more as done; `failed` is the number of failures so far."""
        self.done += 1
        self.failed = failed

    def reach(self, done: int) -> None:
        """Set how much is done."""
        self.done = done

    def describe(self) -> str:
        """Return the counts, the rate and the time left."""
        if self.expected is None:
            return ""
        (rate,) = self._rate.per_second(self.done)
        parts = [f"{self.done:,} of {self.expected:,}"]
        parts += [f"{self.failed:,} failed"] if self.failed else []
        parts += [f"{rate:,.1f}/s"] if rate else []
        parts += [f"{duration_text((self.expected - self.done) / rate)} left"] if rate else []
        return ", ".join(parts)


class LoadCounts:
    """The progress of a load, from its report."""

    def __init__(self, report: LoadReport) -> None:
        self._report = report
        self._rate = Rate()
        self._rate.per_second(0, 0)

    @property
    def done(self) -> int:
        """Return the number of items with an outcome."""
        return self._report.done

    @property
    def expected(self) -> int | None:
        """Return the number of items that the sources hold; None if that is not known."""
        return self._report.expected

    def describe(self) -> str:
        """Return the counts, the rates, the time left, and what the load waits for."""
        report = self._report
        items, read = self._rate.per_second(report.done, report.bytes)
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


class Display:
    """Shows progress until it is stopped."""

    def __init__(self, shown: Shown, console: Console) -> None:
        self._shown = shown
        self._console = console
        self._stopped = threading.Event()
        # A long line continues below the bar.
        text = TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold"))
        self._bars = Progress(
            BarColumn(BAR_WIDTH), text, console=console, transient=True, disable=not console.is_terminal
        )
        self._task = self._bars.add_task("", total=None)
        self._watcher = threading.Thread(target=self._watch, name="progress", daemon=True)

    def start(self) -> None:
        """Begin to show the progress."""
        self._bars.start()
        self._watcher.start()

    def stop(self) -> None:
        """Remove the bar, and show no more lines."""
        self._stopped.set()
        self._watcher.join()
        self._bars.stop()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Hide the bar during a question to the user."""
        self._bars.stop()
        try:
            yield
        finally:
            self._bars.start()

    def _watch(self) -> None:
        seconds = BAR_SECONDS if self._console.is_terminal else LINE_SECONDS
        while not self._stopped.wait(seconds):
            line = self._shown.describe()
            if self._console.is_terminal:
                self._bars.update(self._task, description=line, completed=self._shown.done, total=self._shown.expected)
            elif line:
                self._console.print(
                    f"{time.strftime('%H:%M:%S')} {line}", markup=False, highlight=False, soft_wrap=True
                )


@contextmanager
def _displayed(shown: Shown, console: Console) -> Iterator[Display]:
    display = Display(shown, console)
    display.start()
    try:
        yield display
    finally:
        display.stop()


@contextmanager
def show_progress(expected: int | None = None) -> Iterator[Counter]:
    """Show the progress of a command. A command that does not know yet how much it has to do calls `start`."""
    counter = Counter(expected)
    with _displayed(counter, err):
        yield counter


@contextmanager
def show_load(report: LoadReport, console: Console = err) -> Iterator[Display]:
    """Show the progress of a load while its report grows."""
    with _displayed(LoadCounts(report), console) as display:
        yield display


def duration_text(seconds: float) -> str:
    """Return a duration as 42 s, 3:07 or 1:02:03."""
    whole = int(seconds)
    if whole < 60:  # noqa: PLR2004 - seconds of a minute
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
