"""Programs of a test's own, in processes of their own."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

AT_MOST = 120


@dataclass(frozen=True)
class Script:
    """A program that runs, and what it has written to its output."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def wait_for(self, pattern: str) -> str:
        """Return what the first group of a pattern matched, as soon as the output has it."""
        deadline = time.monotonic() + AT_MOST
        while time.monotonic() < deadline:
            if found := re.search(pattern, re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text())):
                return found[1]
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())


@contextmanager
def running(source: str, folder: Path, **environment: str) -> Iterator[Script]:
    """Run Python source with further environment variables, and kill it at the end."""
    log = folder / "log"
    with (
        log.open("w") as file,
        subprocess.Popen(
            [sys.executable, "-c", source], env={**os.environ, **environment}, stdout=file, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            yield Script(process, log)
        finally:
            process.kill()
