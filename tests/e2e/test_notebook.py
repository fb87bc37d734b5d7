"""The tutorial: its cells run, and their outputs are those that the notebook holds."""

import re
from pathlib import Path

import nbformat
import pytest

from docs.notebook import TUTORIAL, executed, read_notebook


def outline(notebook: nbformat.NotebookNode) -> list[tuple[str, int]]:
    """Return the kind of each output, and the number of images that it shows. Other models have other hits."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            ids = re.findall(r">(\w+\.(?:png|jpg))<", data.get("text/html", ""))
            found.append((" ".join([output.output_type, *data]), len(ids)))
    return found


def test_the_tutorial_runs_and_shows_its_outputs(
    lite_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGESEARCH_TARGET", lite_address)
    assert outline(executed(TUTORIAL, tmp_path)) == outline(read_notebook(TUTORIAL))
    assert list(tmp_path.iterdir()) == []
