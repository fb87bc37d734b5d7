"""A Docker engine for the tests: a running one, or one that exists only for the tests."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS = 30
SYSTEM_PATHS = "/usr/sbin:/sbin:/usr/bin:/bin"
# Label of everything that the tests create, so that they can remove it.
LABEL = "imagesearch.test"
# Strict options for all containers. The engine may have no bridge, so containers use the host's network, and their
# services listen on loopback.
HARDENED = (
    *("--network", "host", "--read-only", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges", "--pids-limit", "256"),
)


class EngineError(Exception):
    """There is no engine, or it lacks something. The message tells what to install."""


def program(name: str, package: str) -> str:
    """Return the path of a program from Debian's packages. Raise EngineError if it is missing."""
    # System folders first: another program on PATH may also be called docker.
    found = shutil.which(name, path=SYSTEM_PATHS) or shutil.which(name)
    if found is None:
        raise EngineError(f"{name} not found; install it: apt-get install {package}")
    return found


@dataclass(frozen=True)
class Engine:
    """The `docker` command and its engine."""

    docker: str
    environment: Mapping[str, str]

    def attempt(self, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a docker command and return the finished process, even if it failed."""
        return subprocess.run(
            [self.docker, *arguments],
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def run(self, *arguments: str, seconds: float = 120) -> str:
        """Run a docker command and return its output. Fail if the command fails."""
        done = self.attempt(*arguments, seconds=seconds)
        assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def inspect(self, name: str) -> dict[str, Any]:
        """Return the engine's description of a container or an image."""
        (found,) = json.loads(self.run("inspect", name))
        return dict(found)

    def answers(self) -> bool:
        """Return whether the engine answers."""
        return self.attempt("version", "--format", "{{.Server.Version}}", seconds=30).returncode == 0

    def remove_all(self, session: str) -> None:
        """Remove the containers and volumes of a session."""
        mine = f"label={LABEL}={session}"
        for container in self.run("ps", "--all", "--quiet", "--filter", mine).split():
            self.run("rm", "--force", "--volumes", container)
        for volume in self.run("volume", "ls", "--quiet", "--filter", mine).split():
            self.run("volume", "rm", volume)


def default_engine() -> Engine:
    """Return the engine at DOCKER_HOST or at the default socket. It may not answer. Raise EngineError if no docker."""
    return Engine(program("docker", "docker.io"), {**os.environ, "DOCKER_BUILDKIT": "1"})


class OwnEngine:
    """A context manager for an engine that keeps everything in one folder.

    It requires root and does not change the host's network.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "dockerd.log"
        self._process: subprocess.Popen[bytes] | None = None
        socket = f"unix://{folder}/docker.sock"
        self.engine = Engine(
            program("docker", "docker.io"), {**os.environ, "DOCKER_BUILDKIT": "1", "DOCKER_HOST": socket}
        )
        self._command = [
            *(program("dockerd", "docker.io"), "--host", socket),
            *(f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/dockerd.pid"),
            *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
        ]

    def __enter__(self) -> Engine:
        if os.geteuid() != 0:
            raise EngineError("no Docker engine answers, and starting one needs root; set DOCKER_HOST or start Docker")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self.engine.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                end = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
                raise EngineError(f"dockerd did not start:\n{end}")
            time.sleep(0.2)
        return self.engine

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        # dockerd leaves the network namespace of the host mounted.
        mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for path in reversed([path for path in mounted if path.startswith(f"{self._folder}/")]):
            subprocess.run([program("umount", "mount"), path], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)


def import_base_image(engine: Engine, tag: str, folder: Path) -> None:
    """Create a base image with Debian's Python, to replace the official image. Raise EngineError if it fails."""
    root = folder / "root"
    debootstrap = [program("debootstrap", "debootstrap"), "--variant=minbase"]
    done = subprocess.run(
        [*debootstrap, "--include=python3,python3-venv,ca-certificates", "bookworm", root],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise EngineError(f"debootstrap failed:\n{done.stdout[-2000:]}")
    # Like the official slim images.
    for below in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(root / below)
        (root / below).mkdir()
    (root / "usr/bin/python").symlink_to("python3")
    with subprocess.Popen([program("tar", "tar"), "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(
            [engine.docker, "import", "--change", "ENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "-", tag],
            env=dict(engine.environment),
            stdin=tar.stdout,
            stdout=subprocess.DEVNULL,
            check=True,
        )
    shutil.rmtree(folder)


@dataclass(frozen=True)
class Container:
    """A container that `Containers.run` created."""

    engine: Engine
    name: str

    @property
    def state(self) -> dict[str, Any]:
        """The state that the engine reports."""
        return dict(self.engine.inspect(self.name)["State"])

    @property
    def logs(self) -> str:
        """The output of the container."""
        done = self.engine.attempt("logs", self.name)
        return done.stdout + done.stderr

    def entry(self, event: str) -> dict[str, Any]:
        """Return the last line of the log for an event."""
        lines = [json.loads(line) for line in self.logs.splitlines() if line.startswith("{")]
        return dict([line for line in lines if line["event"] == event][-1])

    def wait_until_healthy(self, seconds: float = 300) -> None:
        """Wait until HEALTHCHECK reports healthy."""
        deadline = time.monotonic() + seconds
        while (state := self.state)["Status"] == "running" and time.monotonic() < deadline:
            if state["Health"]["Status"] == "healthy":
                return
            time.sleep(0.2)
        raise AssertionError(f"{self.name} is not healthy: {json.dumps(state)}\n{self.logs}")

    def wait(self, seconds: float = 120) -> int:
        """Wait until the container ends, and return its exit code."""
        return int(self.engine.run("wait", self.name, seconds=seconds))

    def stop(self, seconds: int = 150) -> int:
        """Run `docker stop`, and return the exit code of the container."""
        self.engine.run("stop", "--time", str(seconds), self.name, seconds=seconds + 60)
        return int(self.state["ExitCode"])

    def start(self) -> None:
        """Start the stopped container again."""
        self.engine.run("start", self.name)


@dataclass(frozen=True)
class Containers:
    """Creates the containers of a session."""

    engine: Engine
    session: str

    def run(self, name: str, image: str, *options: str) -> Container:
        """Start a hardened container in the background."""
        full = f"imagesearch-{self.session}-{name}"
        self.engine.run("run", "--detach", "--name", full, *self._labelled, *HARDENED, *options, image)
        return Container(self.engine, full)

    def once(self, image: str, options: Sequence[str], *command: str) -> subprocess.CompletedProcess[str]:
        """Run a hardened container until it ends."""
        return self.engine.attempt("run", "--rm", *self._labelled, *HARDENED, *options, image, *command)

    def volume(self, name: str) -> str:
        """Create a volume and return its name."""
        return self.engine.run("volume", "create", *self._labelled, f"imagesearch-{self.session}-{name}")

    @property
    def _labelled(self) -> tuple[str, str]:
        return ("--label", f"{LABEL}={self.session}")
