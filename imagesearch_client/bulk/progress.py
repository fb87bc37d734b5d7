"""Shows how far a load is: a line that changes on a terminal, lines of a log elsewhere."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from imagesearch_client.bulk.accounts import Account

# Seconds between looks at the account, and between lines of a log.
TERMINAL_SECONDS, LOG_SECONDS = 0.5, 10.0
# Seconds that the rate is of: so that it tells what is going on, and does not jump.
RATE_SECONDS = 30.0


@contextmanager
def show(account: Account, console: Console) -> Iterator[None]:
    """Shows an account while it grows."""
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(account, console, ended), name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _watch(account: Account, console: Console, ended: threading.Event) -> None:
    speed = Speed()
    if not console.is_terminal:
        while not ended.wait(LOG_SECONDS):
            console.print(Text(f"{time.strftime('%H:%M:%S')} {described(account, speed)}"), soft_wrap=True)
        return
    with console.status("") as status:
        while not ended.wait(TERMINAL_SECONDS):
            status.update(Text(described(account, speed)))


class Speed:
    """Images and bytes by the second, lately."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque([(time.monotonic(), 0, 0)])

    def look(self, account: Account) -> tuple[float, float]:
        """Items whose outcome is new and bytes that were read, by the second."""
        now = time.monotonic()
        self._seen.append((now, account.done, account.bytes))
        while now - self._seen[0][0] > RATE_SECONDS and len(self._seen) > 1:
            self._seen.popleft()
        then, done, read = self._seen[0]
        seconds = now - then
        return ((account.done - done) / seconds, (account.bytes - read) / seconds) if seconds else (0.0, 0.0)


def described(account: Account, speed: Speed) -> str:
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
