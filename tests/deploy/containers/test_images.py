"""The content of the images."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.deploy.containers.conftest import ROOT, Builder, Images, megabytes
from tests.deploy.containers.engine import Containers, Engine

DOCKERFILES = sorted((ROOT / "deploy" / "docker").glob("*.Dockerfile"))
VARIANTS = ("search", "client", "embedder", "mounted")
MAX_SEARCH_MEGABYTES = 400
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

# Print the modules, programs and files that exist and should not.
FOUND = """
import importlib.util, pathlib, shutil, sys
modules = [name for name in {modules} if importlib.util.find_spec(name)]
programs = [name for name in {programs} if shutil.which(name)]
files = [name for name in {files} if pathlib.Path(name).exists()]
print(*modules, *programs, *files)
"""
INSTALLERS = ("pip", "setuptools", "wheel", "ensurepip")
BUILD_PROGRAMS = ("pip", "pip3", "gcc", "g++", "cc", "c++", "clang", "ld", "as", "make")
LEFT_OVERS = ("/build/", "/root/.cache/", "/etc/pip.conf", "/root/.config/pip/", "/run/secrets/pip_ca", "/run/trim.py")
UNCOMPILED = """
import importlib.util, pathlib
print(*(str(path) for path in pathlib.Path("/app").rglob("*.py")
        if path.parent.name != "bin" and not pathlib.Path(importlib.util.cache_from_source(str(path))).is_file()))
"""


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_accepts_dockerfile(dockerfile: Path) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, dockerfile], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(params=VARIANTS)
def image(request: pytest.FixtureRequest, images: Images) -> str:
    """Return each image."""
    return images[request.param]


def test_image_has_user_entrypoint_and_labels(image: str, engine: Engine, images: Images) -> None:
    config = engine.inspect(image)["Config"]
    assert config["User"] == "65532:65532"
    assert config["StopSignal"] == "SIGTERM"
    # No shell, which would not forward SIGTERM.
    assert config["Entrypoint"] in (
        ["python", "-m", "embedder_service"],
        ["python", "-m", "search_service"],
        ["imagesearch"],
    )
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["version"] == VERSION
    assert labels["revision"] == images.revision
    assert labels["licenses"] == "Apache-2.0"
    assert "imagesearch" in labels["title"]
    assert labels["description"]


def test_image_has_no_installers_compilers_or_build_files(image: str, containers: Containers) -> None:
    code = FOUND.format(modules=INSTALLERS, programs=BUILD_PROGRAMS, files=LEFT_OVERS)
    # As root, which can read every folder.
    done = containers.once(image, ["--user", "0", "--cap-add", "DAC_OVERRIDE", "--entrypoint", "python"], "-c", code)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["search", "client"])
def test_only_the_embedder_has_tensorflow(name: str, images: Images, containers: Containers) -> None:
    code = FOUND.format(modules=("tensorflow", "keras"), programs=(), files=())
    done = containers.once(images[name], ["--entrypoint", "python"], "-c", code)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_image_has_only_the_code_that_it_needs(images: Images, containers: Containers) -> None:
    expected = {
        "search": ["search_service"],
        "client": [
            "imagesearch_client",
            "imagesearch_ingest",
            "imagesearch_analysis",
            "imagesearch_cli",
            "imagesearch_pixels",
        ],
        "embedder": ["embedder_service", "imagesearch_pixels"],
    }
    for name, packages in expected.items():
        done = containers.once(images[name], ["--entrypoint", "ls"], "/app")
        assert sorted(done.stdout.split()) == sorted(["LICENSE", "grpc_kit", "imagesearch", "venv", *packages])


def test_only_root_can_write_to_the_code(image: str, containers: Containers) -> None:
    # World-writable files, world-writable folders unless they are like /tmp, and files in /app that root does not own.
    find = (
        r"find / -xdev \( -path /proc -o -path /sys -o -path /dev \) -prune -o "
        r"\( -type f -perm -0002 -o -type d -perm -0002 ! -perm -1000 \) -print; "
        r"for folder in /app /weights; do test ! -e $folder || find $folder ! -user root -print; done"
    )
    root = ["--user", "0", "--cap-add", "DAC_OVERRIDE", "--entrypoint", "sh"]
    done = containers.once(image, root, "-c", find)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_image_has_compiled_byte_code(image: str, containers: Containers) -> None:
    done = containers.once(image, ["--entrypoint", "python"], "-c", UNCOMPILED)
    assert (done.returncode, done.stdout.strip()) == (0, "")


def test_image_contains_no_address_or_path_of_its_build(image: str, engine: Engine, builder: Builder) -> None:
    text = engine.run("history", "--no-trunc", "--format", "{{.CreatedBy}} {{.Comment}}", image)
    text += json.dumps(engine.inspect(image))
    assert "://" not in text.replace("https://docs.docker.com", "")
    assert "index-url" not in text
    assert "PIP_" not in json.dumps(engine.inspect(image)["Config"])
    # Paths of the secrets on this machine.
    for secret in builder.secrets[1::2]:
        assert secret.partition("src=")[2] not in text


def test_search_image_is_small(images: Images, engine: Engine) -> None:
    assert megabytes(engine, images["search"]) < MAX_SEARCH_MEGABYTES


def test_image_names_authors_and_licence_of_weights(images: Images, containers: Containers) -> None:
    done = containers.once(images["embedder"], ["--entrypoint", "cat"], "/weights/vgg16.txt")
    assert "University of Oxford" in done.stdout
    assert "CC BY 4.0" in done.stdout


def test_build_fails_if_weights_differ_from_published_ones(builder: Builder, tmp_path: Path) -> None:
    for part in ("requirements", "embedder_service", "imagesearch_pixels", "grpc_kit", "protos", "deploy/docker"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "LICENSE", tmp_path)
    weights = tmp_path / "embedder_service" / "adapters" / "weights.py"
    text = weights.read_text()
    weights.write_text(text.replace('sha256="0e13a8ef', 'sha256="00000000'))
    assert weights.read_text() != text

    done = builder.build("embedder", context=tmp_path)
    assert done.returncode != 0
    assert "its tensors have SHA-256 0e13a8ef" in done.stdout + done.stderr


def test_build_fails_if_package_differs_from_lock(builder: Builder, tmp_path: Path) -> None:
    for part in ("requirements", "search_service", "grpc_kit", "protos", "deploy/docker"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "LICENSE", tmp_path)
    lock = tmp_path / "requirements" / "search.lock"
    package, _, others = lock.read_text().partition("\ncachetools")
    # No file of the first package has these hashes.
    lock.write_text(re.sub("sha256:[0-9a-f]{4}", "sha256:0000", package) + "\ncachetools" + others)

    done = builder.build("search", context=tmp_path)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stdout + done.stderr
