"""`make demo` with a folder of images."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

NAME = "a name that needs more than one line of the table because it is so long.jpg"


def test_it_finds_the_originals_of_edited_copies(photographs: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(photographs / "coffee.jpg", images / NAME)
    shutil.copy(photographs / "coins.jpg", images)
    (images / "notes.txt").write_text("no image")
    picture = tmp_path / "results.png"
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--images", str(images), "--results", str(picture)],
        env={**os.environ, "COLUMNS": "80", "EMBEDDER_MAX_BATCH_SIZE": "1", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    # Paths of this test may exceed a line; the text of the demo does not.
    assert all(len(line.rstrip()) <= 80 for line in lines)
    ready = [
        line for line in lines if re.match(r"  (search|embedder) service ready at 127\.0\.0\.1:\d+ after \d+ s", line)
    ]
    assert len(ready) == 2
    assert any(re.match(r" coins\.jpg( +\d\.\d{3}){4}$", line.rstrip()) for line in lines), done.stdout
    assert "8 of 8 edited copies found their original first (100%)" in lines
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [path for path in tmp_path.iterdir() if path.name.startswith("imagesearch-demo-")] == []
