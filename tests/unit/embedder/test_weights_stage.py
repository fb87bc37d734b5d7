"""The image's stage that fetches weights copies single files: what they import has to be among them."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCKERFILE = ROOT / "deploy" / "docker" / "embedder.Dockerfile"


def copied() -> list[Path]:
    """The Python files of the stage."""
    stage = re.split(r"(?m)^FROM ", DOCKERFILE.read_text())
    (fetching,) = [part for part in stage if part.startswith("packages AS weights-baked")]
    lines = fetching.replace("\\\n", " ").splitlines()
    names = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    return [ROOT / name for name in names]


def imported(path: Path) -> set[str]:
    """The modules of the embedder that a file imports, also within functions."""
    return {
        module
        for node in ast.walk(ast.parse(path.read_text()))
        for module in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        if module.partition(".")[0] in {"embedder_service", "grpc_kit", "imagesearch"}
    }


def test_it_has_all_that_its_files_import() -> None:
    files = copied()
    assert len(files) > 5
    there = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in files}
    wanted = {module for path in files for module in imported(path)}
    assert wanted <= there | {name.removesuffix(".__init__") for name in there}
    # Packages too, or nothing in them is found.
    assert {f"{module.rpartition('.')[0]}.__init__" for module in wanted} <= there
