"""Imports TensorFlow without what it writes to standard error about the processor, whatever its log level is."""

import os
import subprocess
import sys

# What its notes say; every other line is passed on.
NOTES = ("All log messages before absl::InitializeLog()", "oneDNN custom operations are on", "cpu_feature_guard")
STANDARD_ERROR = 2
FILTER = f"""
import sys
for line in sys.stdin:
    if not any(note in line for note in {NOTES!r}):
        sys.stderr.write(line)
        sys.stderr.flush()
"""


def import_tensorflow() -> None:
    """Import TensorFlow. It writes from C++, so that the file descriptor is redirected for as long as that takes.

    A process of its own passes the lines on: they arrive also if TensorFlow aborts, as it does on an old processor.
    """
    command = [sys.executable, "-I", "-S", "-c", FILTER]
    # Apart from the terminal's signals: it ends when this process closes the pipe, however it ends.
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as passing:
        assert passing.stdin is not None  # noqa: S101 - a pipe was asked for
        kept = os.dup(STANDARD_ERROR)
        os.dup2(passing.stdin.fileno(), STANDARD_ERROR)
        try:
            import tensorflow as tf  # noqa: F401, PLC0415 - takes seconds
        finally:
            os.dup2(kept, STANDARD_ERROR)
            os.close(kept)
