"""A bar that shows how far a command is."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Bar:
    """Shows how many of all are done; does nothing where there is no terminal."""

    def __init__(self, bars: Progress) -> None:
        """Shows in `bars`."""
        self._bars = bars
        self._task: TaskID | None = None

    def start(self, total: int) -> None:
        """Begins with `total` to do."""
        self._task = self._bars.add_task("", total=total, failed=0)

    def step(self, failed: int) -> None:
        """One more is done; `failed` is the number of failures so far."""
        if self._task is not None:
            self._bars.update(self._task, advance=1, failed=failed)

    def reach(self, done: int) -> None:
        """So many are done."""
        if self._task is not None:
            self._bars.update(self._task, completed=done)


@contextmanager
def show_progress(console: Console) -> Iterator[Bar]:
    """A bar on a console."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # Without a terminal the bars would leave an empty line.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield Bar(bars)
