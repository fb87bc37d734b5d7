"""The stage of the embedder's image that fetches weights copies single files; it must copy all that they import."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCKERFILE = ROOT / "deploy" / "docker" / "embedder.Dockerfile"


def copied_modules() -> dict[str, Path]:
    """Return the file of each module that the stage can import."""
    stages = re.split(r"(?m)^FROM ", DOCKERFILE.read_text())
    (stage,) = [part for part in stages if part.startswith("packages AS weights-baked")]
    modules = {}
    for line in stage.replace("\\\n", " ").splitlines():
        if line.startswith("COPY "):
            *sources, folder = line.split()[1:]
            for source in sources:
                path = Path(folder).relative_to("/build") / Path(source).name
                modules[".".join(path.with_suffix("").parts).removesuffix(".__init__")] = ROOT / source
    return modules


def imported_modules(path: Path) -> set[str]:
    """Return this project's modules that a file imports, also within functions."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            modules.add(node.module or "")
        elif isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
    return {name for name in modules if name.partition(".")[0] in {"embedder_service", "grpc_kit", "imagesearch"}}


def test_stage_copies_all_that_its_files_import() -> None:
    modules = copied_modules()
    assert "embedder_service.weights" in modules
    imported = {name for path in modules.values() for name in imported_modules(path)}
    packages = {name.rpartition(".")[0] for name in modules} - {""}
    assert imported | packages <= modules.keys()
