"""The output of TensorFlow's import: its notes are removed, other lines are kept."""

import subprocess
import sys
from pathlib import Path

WORDS = """
import os
os.write(2, b"I0000 port.cc:153] oneDNN custom operations are on.\\n")
os.write(2, b"F0000 this processor has no AVX\\n")
{end}
"""
IMPORT = (
    "from embedder_service.adapters.quiet_tensorflow import import_tensorflow; import_tensorflow(); import sys; {rest}"
)


def written(folder: Path, end: str) -> tuple[int, str]:
    """Import a module of that name which writes as TensorFlow does; return the exit code and what was written."""
    (folder / "tensorflow.py").write_text(WORDS.format(end=end))
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); " + IMPORT.format(rest="sys.stderr.write('after')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_notes_are_removed_from_standard_error(tmp_path: Path) -> None:
    assert written(tmp_path, "") == (0, "F0000 this processor has no AVX\nafter")


def test_output_before_an_abort_arrives(tmp_path: Path) -> None:
    code, text = written(tmp_path, "os.abort()")
    assert code < 0
    assert text == "F0000 this processor has no AVX\n"
