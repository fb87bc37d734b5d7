"""Imports TensorFlow without what it writes to standard error about the processor, whatever its log level is."""

import os
import tempfile

# How its lines begin, or what they say; every other line is passed on.
NOTES = (b"All log messages before absl::InitializeLog()", b"oneDNN custom operations are on", b"cpu_feature_guard")
STANDARD_ERROR = 2


def import_tensorflow() -> None:
    """Import TensorFlow. It writes from C++, so that the file descriptor is redirected for as long as that takes."""
    kept = os.dup(STANDARD_ERROR)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), STANDARD_ERROR)
        try:
            import tensorflow as tf  # noqa: F401, PLC0415 - takes seconds
        finally:
            os.dup2(kept, STANDARD_ERROR)
            os.close(kept)
            written.seek(0)
            for line in written:
                if not any(note in line for note in NOTES):
                    os.write(STANDARD_ERROR, line)
