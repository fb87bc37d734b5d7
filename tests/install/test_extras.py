"""The wheel, installed with each extra into an environment of its own."""

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
# What `pip install .` needs, with what these packages need themselves.
BASE_PACKAGES = {
    "googleapis-common-protos",
    "grpcio",
    "grpcio-health-checking",
    "imagesearch",
    "numpy",
    "protobuf",
    "tenacity",
    "typing-extensions",
}
BASE_MEGABYTES = 150
SDK_PROGRAM = """
import asyncio, numpy
from imagesearch_client import AsyncClient, Client, Embedding, EmbedderClient, Hits
with Client.from_env() as client, EmbedderClient.from_env() as embedder:
    assert (client.target, embedder.target) == ("127.0.0.1:50052", "127.0.0.1:50051")
asyncio.run(AsyncClient("127.0.0.1:1").close())
assert Embedding([1, 2], "f").values.dtype == numpy.float32
assert "<table" in Hits()._repr_html_()
"""


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


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The interpreter of an empty environment."""
    venv.create(tmp_path / "venv", with_pip=True)
    return tmp_path / "venv" / "bin" / "python"


@pytest.mark.soak
def test_the_client_library_installs_with_few_and_small_packages(wheel: Path, python: Path, tmp_path: Path) -> None:
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, cwd=tmp_path)
    listed = run(python, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check", cwd=tmp_path)
    packages = {line.split("==")[0].replace("_", "-") for line in listed.split()} - {"pip", "setuptools"}
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    ours = [path for path in site.rglob("*") if path.is_file() and path.relative_to(site).parts[0] not in TOOLS]
    megabytes = sum(path.stat().st_size for path in ours) / 1e6
    print(f"{len(packages)} packages, {megabytes:.0f} MB: {', '.join(sorted(packages))}")  # noqa: T201 - a figure
    assert packages <= BASE_PACKAGES
    assert megabytes < BASE_MEGABYTES
    run(python, "-c", SDK_PROGRAM, cwd=tmp_path)


TOOLS = {"pip", "setuptools", "pkg_resources", "_distutils_hack"}


@pytest.mark.soak
@pytest.mark.parametrize(
    ("extra", "program"),
    [
        ("search", "import search_service.bootstrap, imagesearch_client"),
        ("cli", "import imagesearch_cli, imagesearch_analysis.query_plot"),
    ],
)
def test_an_extra_installs_and_runs_without_tensorflow(
    extra: str, program: str, wheel: Path, python: Path, tmp_path: Path
) -> None:
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "--require-hashes", "--requirement", REQUIREMENTS / f"{extra}.lock", cwd=tmp_path)
    run(*pip, "--no-deps", wheel, cwd=tmp_path)
    run(python, "-m", "pip", "check", cwd=tmp_path)
    found = run(python, "-c", f"{program}; import importlib.util as u; print(u.find_spec('tensorflow'))", cwd=tmp_path)
    assert found.strip() == "None"
    if extra == "cli":
        command = python.with_name("imagesearch")
        duplicates = failure(command, "duplicates", "-o", "d.csv", cwd=tmp_path)
        assert "pip install '.[cli,analysis]'" in duplicates
        training = failure(command, "train-autoencoder", tmp_path, "-o", tmp_path / "model", cwd=tmp_path)
        assert "pip install '.[cli,training]'" in training


def pins(lock: Path) -> set[str]:
    return set(re.findall(r"^([a-z0-9._-]+==[^\s;]+)", lock.read_text(), re.MULTILINE))


@pytest.mark.parametrize("extra", ["embedder", "search", "cli"])
def test_the_locks_install_the_tested_versions(extra: str) -> None:
    lock = REQUIREMENTS / f"{extra}.lock"
    assert pins(lock)
    assert pins(lock) <= pins(REQUIREMENTS / "dev.lock")


@pytest.mark.parametrize("lock", sorted(REQUIREMENTS.glob("*.lock")), ids=lambda path: path.name)
def test_a_lock_has_hashes_and_no_addresses(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert len(re.findall(r"^[a-z]", text, re.MULTILINE)) <= text.count("--hash=sha256:")
