"""Fixtures: a Docker engine, and the images, which are built once. Only `make test-containers` runs these tests."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from demo.photographs import write_photographs
from tests.deploy.containers import pip_settings
from tests.deploy.containers.engine import (
    Containers,
    Engine,
    EngineError,
    OwnEngine,
    default_engine,
    import_base_image,
)

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
OFFICIAL_BASE = "python:3.11-slim-bookworm"
BUILD_SECONDS = 1200
TEST_SECONDS = 1800
IMAGES = ("search", "client", "embedder")
FIGURES = pytest.StashKey[dict[str, str]]()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore this folder unless the command names it, because the tests need Docker and take some minutes."""
    named = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    return None if any(path.is_relative_to(HERE) for path in named) else collection_path.is_relative_to(HERE)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test a long timeout, because the first test waits until all images are built."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash[FIGURES]
    if figures:
        terminalreporter.section("figures")
        for name, value in figures.items():
            terminalreporter.write_line(f"{name:<58}{value:>12}")


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> dict[str, str]:
    """Return the table of measurements, which pytest prints at the end."""
    return pytestconfig.stash[FIGURES]


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Return the engine at DOCKER_HOST or at the default socket, or start one for the tests."""
    try:
        found = default_engine()
        if found.answers():
            yield found
            return
        with OwnEngine(Path(tempfile.mkdtemp(prefix="imagesearch-engine-"))) as own:
            yield own
    except EngineError as error:
        pytest.fail(str(error), pytrace=False)


@dataclass(frozen=True)
class Builder:
    """Builds the images."""

    engine: Engine
    base: str
    secrets: tuple[str, ...]

    def build(self, name: str, *options: str, context: Path = ROOT) -> subprocess.CompletedProcess[str]:
        """Build one image and return the finished process, even if the build failed."""
        proxies = [f"--build-arg={name}" for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY") if name in os.environ]
        return self.engine.attempt(
            *("build", "--progress=plain", "--network=host", f"--build-arg=BASE={self.base}", *proxies, *self.secrets),
            *("--file", str(context / "deploy" / "docker" / f"{name}.Dockerfile"), *options, str(context)),
            seconds=BUILD_SECONDS,
        )


@pytest.fixture(scope="session")
def builder(engine: Engine, tmp_path_factory: pytest.TempPathFactory, figures: dict[str, str]) -> Builder:
    secrets = tuple(pip_settings.secrets(tmp_path_factory.mktemp("pip")))
    if engine.attempt("image", "inspect", OFFICIAL_BASE).returncode == 0:
        return Builder(engine, OFFICIAL_BASE, secrets)
    base = "imagesearch/stand-in-for-python:bookworm"
    if engine.attempt("image", "inspect", base).returncode != 0:
        begin = time.monotonic()
        try:
            import_base_image(engine, base, tmp_path_factory.mktemp("base"))
        except EngineError as error:
            pytest.fail(str(error), pytrace=False)
        figures["base image by debootstrap, s"] = f"{time.monotonic() - begin:.0f}"
    figures["base image (Debian's Python instead of the official image), MB"] = f"{megabytes(engine, base):.0f}"
    return Builder(engine, base, secrets)


def megabytes(engine: Engine, image: str) -> float:
    return float(engine.inspect(image)["Size"]) / 1e6


@dataclass(frozen=True)
class Images:
    """The names of the images. Their tag is unique, so the tests replace no other images."""

    tag: str
    revision: str = "0123456789abcdef"
    names: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        return self.names[name]


@pytest.fixture(scope="session")
def images(builder: Builder, figures: dict[str, str]) -> Iterator[Images]:
    """Build all images: search, client, embedder, and `mounted`, the embedder without weights."""
    images = Images(f"test-{os.getpid()}")
    variants = [*((name, name, ()) for name in IMAGES), ("mounted", "embedder", ("--build-arg=WEIGHTS=mounted",))]
    for variant, name, options in variants:
        tag = f"imagesearch/{name}:{images.tag}{'-mounted' if variant == 'mounted' else ''}"
        begin = time.monotonic()
        done = builder.build(name, f"--build-arg=REVISION={images.revision}", *options, "--tag", tag)
        assert done.returncode == 0, done.stdout + done.stderr
        images.names[variant] = tag
        figures[f"{variant}: build, s"] = f"{time.monotonic() - begin:.0f}"
        figures[f"{variant}: image, MB"] = f"{megabytes(builder.engine, tag):.0f}"
    yield images
    builder.engine.run("image", "rm", "--force", *images.names.values())


@pytest.fixture(scope="session")
def containers(engine: Engine) -> Iterator[Containers]:
    """Return an object that creates containers. The containers are removed at the end."""
    containers = Containers(engine, f"test-{os.getpid()}")
    yield containers
    engine.remove_all(containers.session)


@pytest.fixture(scope="session")
def photographs() -> Iterator[Path]:
    """Return a folder of photographs that any user in a container can read."""
    folder = Path(tempfile.mkdtemp(prefix="imagesearch-photographs-"))
    write_photographs(folder)
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the locked Docker Compose in a temporary folder, and return its path."""
    if (sys.platform, platform.machine()) not in {("linux", "x86_64"), ("linux", "aarch64")}:
        pytest.fail(f"Docker Compose is not locked for {sys.platform} {platform.machine()}", pytrace=False)
    folder = tmp_path_factory.mktemp("compose")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(folder)]
    subprocess.run([*pip, "--require-hashes", "--requirement", str(HERE / "compose.lock")], check=True)
    return folder / "bin" / "docker-compose"
