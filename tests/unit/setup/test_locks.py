"""The run lock is part of the development lock, and has the size that set-up prints."""

import importlib.metadata
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
REQUIREMENTS = ROOT / "requirements"


def pins(lock: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9._-]+==[^\s;\\]+)", (REQUIREMENTS / lock).read_text(), re.MULTILINE))


@pytest.mark.parametrize("lock", ["run.lock", "installer.lock"])
def test_the_development_lock_includes_the_run_lock(lock: str) -> None:
    assert pins(lock)
    assert pins(lock) <= pins("dev.lock")


def test_the_demo_needs_no_tools_and_no_milvus_server() -> None:
    names = {pin.partition("==")[0] for pin in pins("run.lock")}
    assert names.isdisjoint({"milvus", "pytest", "mypy", "ruff", "uv", "umap-learn", "s3fs", "gcsfs", "moto"})


def test_set_up_prints_the_right_download_size() -> None:
    printed = re.search(r"run\.lock .*--size \".* ([0-9.]+) GB on disk", (ROOT / "Makefile").read_text())
    assert printed
    size = 0
    for pin in pins("run.lock"):
        name, _, version = pin.partition("==")
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a package for another system
        if package.version == version:
            size += sum(Path(str(file.locate())).stat().st_size for file in package.files or () if file.size)
    assert size / 1e9 == pytest.approx(float(printed.group(1)), rel=0.15)
