"""The wheel, installed by parts into environments of their own."""

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def failure(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.soak
@pytest.mark.parametrize(
    ("extra", "program"),
    [
        ("search", "import search_service.bootstrap, imagesearch_client"),
        ("client", "import imagesearch_cli, imagesearch_analysis.query_plot"),
    ],
)
def test_an_extra_installs_and_runs_without_tensorflow(extra: str, program: str, wheel: Path, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    venv.create(tmp_path / "venv", with_pip=True)
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "--require-hashes", "--requirement", REQUIREMENTS / f"{extra}.lock", cwd=tmp_path)
    run(*pip, "--no-deps", wheel, cwd=tmp_path)
    run(python, "-m", "pip", "check", cwd=tmp_path)
    found = run(python, "-c", f"{program}; import importlib.util as u; print(u.find_spec('tensorflow'))", cwd=tmp_path)
    assert found.strip() == "None"
    if extra == "client":
        command = python.with_name("imagesearch")
        duplicates = failure(command, "duplicates", "c", "-o", "d.csv", cwd=tmp_path)
        assert "pip install '.[client,analysis]'" in duplicates
        training = failure(command, "train-autoencoder", tmp_path, "-o", tmp_path / "model", cwd=tmp_path)
        assert "pip install '.[client,training]'" in training


def pins(lock: Path) -> set[str]:
    return set(re.findall(r"^([a-z0-9._-]+==[^\s;]+)", lock.read_text(), re.MULTILINE))


@pytest.mark.parametrize("extra", ["embedder", "search", "client"])
def test_the_locks_install_the_tested_versions(extra: str) -> None:
    lock = REQUIREMENTS / f"{extra}.lock"
    assert pins(lock)
    assert pins(lock) <= pins(REQUIREMENTS / "dev.lock")


@pytest.mark.parametrize("lock", sorted(REQUIREMENTS.glob("*.lock")), ids=lambda path: path.name)
def test_a_lock_has_hashes_and_no_addresses(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert len(re.findall(r"^[a-z]", text, re.MULTILINE)) <= text.count("--hash=sha256:")
