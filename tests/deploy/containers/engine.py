"""A Docker engine for the tests: the one that answers, or one of their own that goes with them."""

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
# Of all that the tests make, so that it can be found and removed.
LABEL = "imagesearch.test"
# How an operator who trusts nobody runs the images. There may be no bridge, so containers use the host's network, and
# the services in them listen on loopback.
HARDENED = (
    *("--network", "host", "--read-only", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges", "--pids-limit", "256"),
)


class EngineError(Exception):
    """There is no engine, or it cannot do what was asked. The message says what to install."""


def program(name: str, package: str) -> str:
    """The path of a program of Debian's packages. Raises EngineError."""
    # The system's own first: what else is called docker may be another program.
    found = shutil.which(name, path=SYSTEM_PATHS) or shutil.which(name)
    if found is None:
        raise EngineError(f"{name} not found; install it: apt-get install {package}")
    return found


@dataclass(frozen=True)
class Engine:
    """The `docker` command, and the engine that it speaks to."""

    docker: str
    environment: Mapping[str, str]

    def attempt(self, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Runs a command of docker, whatever comes of it."""
        return subprocess.run(
            [self.docker, *arguments],
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def run(self, *arguments: str, seconds: float = 120) -> str:
        """Runs a command of docker that has to succeed; gives its output."""
        done = self.attempt(*arguments, seconds=seconds)
        assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def inspect(self, name: str) -> dict[str, Any]:
        """What the engine knows of a container or an image."""
        (found,) = json.loads(self.run("inspect", name))
        return dict(found)

    def answers(self) -> bool:
        """Whether the engine is there."""
        return self.attempt("version", "--format", "{{.Server.Version}}", seconds=30).returncode == 0

    def remove_all(self, session: str) -> None:
        """Removes the containers and volumes of a session."""
        mine = f"label={LABEL}={session}"
        for container in self.run("ps", "--all", "--quiet", "--filter", mine).split():
            self.run("rm", "--force", "--volumes", container)
        for volume in self.run("volume", "ls", "--quiet", "--filter", mine).split():
            self.run("volume", "rm", volume)


def default_engine() -> Engine:
    """The engine at DOCKER_HOST, or at the default socket; it may not be there. Raises EngineError."""
    return Engine(program("docker", "docker.io"), {**os.environ, "DOCKER_BUILDKIT": "1"})


class OwnEngine:
    """An engine that keeps everything in one folder. It needs root, and changes nothing of the host's network."""

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
        # dockerd leaves the host's network namespace mounted.
        mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for path in reversed([path for path in mounted if path.startswith(f"{self._folder}/")]):
            subprocess.run([program("umount", "mount"), path], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)


def import_base_image(engine: Engine, tag: str, folder: Path) -> None:
    """Makes a base image of Debian's own Python, for where the official one is not at hand. Raises EngineError."""
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
    # As the official slim images do.
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
    """A container that was made by `run`."""

    engine: Engine
    name: str

    @property
    def state(self) -> dict[str, Any]:
        """Its state, as the engine tells it."""
        return dict(self.engine.inspect(self.name)["State"])

    @property
    def logs(self) -> str:
        """All that it wrote."""
        done = self.engine.attempt("logs", self.name)
        return done.stdout + done.stderr

    def entry(self, event: str) -> dict[str, Any]:
        """The last line of its log for an event."""
        lines = [json.loads(line) for line in self.logs.splitlines() if line.startswith("{")]
        return dict([line for line in lines if line["event"] == event][-1])

    def wait_until_healthy(self, seconds: float = 120) -> None:
        """Returns when its HEALTHCHECK says so."""
        deadline = time.monotonic() + seconds
        while (state := self.state)["Status"] == "running" and time.monotonic() < deadline:
            if state["Health"]["Status"] == "healthy":
                return
            time.sleep(0.2)
        raise AssertionError(f"{self.name} is not healthy: {json.dumps(state)}\n{self.logs}")

    def wait(self, seconds: float = 120) -> int:
        """Waits for its end; gives its exit code."""
        return int(self.engine.run("wait", self.name, seconds=seconds))

    def stop(self, seconds: int = 30) -> int:
        """`docker stop`; gives the exit code."""
        self.engine.run("stop", "--time", str(seconds), self.name)
        return int(self.state["ExitCode"])

    def start(self) -> None:
        """Starts it again, as it was."""
        self.engine.run("start", self.name)


@dataclass(frozen=True)
class Containers:
    """Makes containers of a session."""

    engine: Engine
    session: str

    def run(self, name: str, image: str, *options: str) -> Container:
        """A hardened container in the background."""
        full = f"imagesearch-{self.session}-{name}"
        self.engine.run("run", "--detach", "--name", full, *self._labelled, *HARDENED, *options, image)
        return Container(self.engine, full)

    def once(self, image: str, options: Sequence[str], *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a hardened container to its end."""
        return self.engine.attempt("run", "--rm", *self._labelled, *HARDENED, *options, image, *command)

    def volume(self, name: str) -> str:
        """A new volume; gives its name."""
        return self.engine.run("volume", "create", *self._labelled, f"imagesearch-{self.session}-{name}")

    @property
    def _labelled(self) -> tuple[str, str]:
        return ("--label", f"{LABEL}={self.session}")
