"""Imports TensorFlow without its notes about the processor, which it writes to standard error at any log level."""

import os
import subprocess
import sys

# Parts of the lines to drop. All other lines are passed on.
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
    """Import TensorFlow, with standard error redirected through a filter.

    TensorFlow writes from C++, so this redirects the file descriptor. The filter is a separate process. So lines also
    arrive if TensorFlow aborts, as it does on an old processor.
    """
    command = [sys.executable, "-I", "-S", "-c", FILTER]
    # In a session of its own, the filter gets no signals of the terminal. It ends when the pipe is closed.
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as filtering:
        assert filtering.stdin is not None  # noqa: S101 - the argument stdin is PIPE
        saved = os.dup(STANDARD_ERROR)
        os.dup2(filtering.stdin.fileno(), STANDARD_ERROR)
        try:
            import tensorflow as tf  # noqa: F401, PLC0415 - takes seconds
        finally:
            os.dup2(saved, STANDARD_ERROR)
            os.close(saved)
