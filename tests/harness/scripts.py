"""Runs a program of a test as a child process."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

WAIT_SECONDS = 120


@dataclass(frozen=True)
class Script:
    """A running program and its output."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def wait_for(self, pattern: str) -> str:
        """Wait until the output matches a pattern; return the first group."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            if found := re.search(pattern, re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text())):
                return found[1]
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())


@contextmanager
def running(source: str, folder: Path, **environment: str) -> Iterator[Script]:
    """Run Python source with additional environment variables; kill it at the end."""
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
