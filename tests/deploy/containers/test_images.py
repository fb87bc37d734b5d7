"""What is in the images, and what is not."""

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

# Prints what should not be there.
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
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, dockerfile], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(params=VARIANTS)
def image(request: pytest.FixtureRequest, images: Images) -> str:
    """Each of the images."""
    return images[request.param]


def test_who_runs_what_is_written_into_an_image(image: str, engine: Engine, images: Images) -> None:
    config = engine.inspect(image)["Config"]
    assert config["User"] == "65532:65532"
    assert config["StopSignal"] == "SIGTERM"
    # Not through a shell, which would keep SIGTERM to itself.
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


def test_an_image_has_nothing_to_build_with(image: str, containers: Containers) -> None:
    code = FOUND.format(modules=INSTALLERS, programs=BUILD_PROGRAMS, files=LEFT_OVERS)
    # As root, who sees every folder.
    done = containers.once(image, ["--user", "0", "--cap-add", "DAC_OVERRIDE", "--entrypoint", "python"], "-c", code)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["search", "client"])
def test_only_the_embedder_has_tensorflow(name: str, images: Images, containers: Containers) -> None:
    code = FOUND.format(modules=("tensorflow", "keras"), programs=(), files=())
    done = containers.once(images[name], ["--entrypoint", "python"], "-c", code)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_an_image_has_the_code_that_it_needs_and_no_other(images: Images, containers: Containers) -> None:
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


def test_nobody_can_write_to_the_code(image: str, containers: Containers) -> None:
    # Files anywhere that everybody may write to, folders too but for those like /tmp; and what is not root's in /app.
    find = (
        r"find / -xdev \( -path /proc -o -path /sys -o -path /dev \) -prune -o "
        r"\( -type f -perm -0002 -o -type d -perm -0002 ! -perm -1000 \) -print; "
        r"for folder in /app /weights; do test ! -e $folder || find $folder ! -user root -print; done"
    )
    root = ["--user", "0", "--cap-add", "DAC_OVERRIDE", "--entrypoint", "sh"]
    done = containers.once(image, root, "-c", find)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_image_brings_its_byte_code(image: str, containers: Containers) -> None:
    done = containers.once(image, ["--entrypoint", "python"], "-c", UNCOMPILED)
    assert (done.returncode, done.stdout.strip()) == (0, "")


def test_an_image_tells_nothing_of_where_it_was_built(image: str, engine: Engine, builder: Builder) -> None:
    told = engine.run("history", "--no-trunc", "--format", "{{.CreatedBy}} {{.Comment}}", image)
    told += json.dumps(engine.inspect(image))
    assert "://" not in told.replace("https://docs.docker.com", "")
    assert "index-url" not in told
    assert "PIP_" not in json.dumps(engine.inspect(image)["Config"])
    # The paths of the secrets on this machine.
    for secret in builder.secrets[1::2]:
        assert secret.partition("src=")[2] not in told


def test_the_search_image_is_small(images: Images, engine: Engine) -> None:
    assert megabytes(engine, images["search"]) < MAX_SEARCH_MEGABYTES


def test_baked_weights_say_whose_they_are(images: Images, containers: Containers) -> None:
    done = containers.once(images["embedder"], ["--entrypoint", "cat"], "/weights/vgg16.txt")
    assert "University of Oxford" in done.stdout
    assert "CC BY 4.0" in done.stdout


def test_a_build_ends_where_the_weights_are_not_the_published_ones(builder: Builder, tmp_path: Path) -> None:
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


def test_a_build_ends_where_a_package_is_not_the_locked_one(builder: Builder, tmp_path: Path) -> None:
    for part in ("requirements", "search_service", "grpc_kit", "protos", "deploy/docker"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "LICENSE", tmp_path)
    lock = tmp_path / "requirements" / "search.lock"
    package, _, others = lock.read_text().partition("\ncachetools")
    # Whatever file of the first package the index has, it is another one.
    lock.write_text(re.sub("sha256:[0-9a-f]{4}", "sha256:0000", package) + "\ncachetools" + others)

    done = builder.build("search", context=tmp_path)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stdout + done.stderr
