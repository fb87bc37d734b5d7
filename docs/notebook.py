"""Execute the tutorial and keep its outputs: `python -m docs.notebook`, with both services running.

IMAGESEARCH_TARGET is the search service, as for the `imagesearch` command.
"""

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TUTORIAL = Path(__file__).parent / "get-started" / "tutorial.ipynb"


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """Return the notebook in a file."""
    node: nbformat.NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return node


def executed(notebook: Path, folder: Path) -> nbformat.NotebookNode:
    """Return a notebook with the outputs of its cells. The cells run in `folder`. Raises an error if a cell fails."""
    node = read_notebook(notebook)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(node, timeout=120, kernel_name="python3", coalesce_streams=True, resources=resources).execute()
    for cell in node.cells:
        cell.metadata = {}
        for output in cell.get("outputs", ()):
            # A table is shown as HTML; its text would repeat it.
            if "text/html" in output.get("data", {}):
                del output.data["text/plain"]
    return node


def main() -> None:
    """Write the outputs into the notebook."""
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(executed(TUTORIAL, Path(folder)), TUTORIAL)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
