"""Find and run external programs: kubectl, hadolint, promtool and others."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Programs that no package index has are unpacked here.
CACHE = ROOT / ".tools"


class ToolError(Exception):
    """A program is missing. The message tells what to install."""


class ProblemError(Exception):
    """A program failed. The message is its output."""


def run(program: Path | str, *arguments: str | Path) -> str:
    """Run a program and return its output. Raise ProblemError with its output if it fails."""
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise ProblemError(f"{done.stdout}{done.stderr}".strip())
    return done.stdout


def installed(name: str) -> Path:
    """Return the path of a program in this Python environment. Raise ToolError if it is missing."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise ToolError(f"{name} is not in this environment: run make check-deploy, which installs it")
    return path


def checkov() -> Path:
    """Return the path of Checkov, which has its own environment. Raise ToolError if it is missing."""
    path = ROOT / ".venv-checkov" / "bin" / "checkov"
    if not path.exists():
        raise ToolError("checkov is not installed: run make check-deploy, which installs it")
    return path


def prometheus_tool(name: str) -> Path:
    """Return the path of `prometheus` or `promtool`: on PATH, or unpacked (not installed) from Debian's package."""
    found = shutil.which(name)
    if found:
        return Path(found)
    unpacked = CACHE / "prometheus"
    if not unpacked.exists():
        if not shutil.which("apt-get"):
            raise ToolError(
                f"{name} is not on PATH: install Prometheus 2.42 or newer (https://prometheus.io/download/)"
            )
        _unpack_from_debian("prometheus", unpacked)
    return unpacked / "usr" / "bin" / name


def _unpack_from_debian(package: str, folder: Path) -> None:
    """Download and unpack a package in own folders: needs no root, and leaves the system unchanged."""
    work = folder.with_suffix(".part")
    shutil.rmtree(work, ignore_errors=True)
    for part in ("lists/partial", "archives/partial", "deb"):
        (work / part).mkdir(parents=True)
    options = [f"Dir::State::Lists={work}/lists", f"Dir::Cache={work}", f"APT::Sandbox::User={_user()}"]
    apt = ["apt-get", "--quiet", "--quiet", *(part for option in options for part in ("-o", option))]
    for command in ([*apt, "update"], [*apt, "download", package]):
        _require(command, work / "deb")
    (archive,) = (work / "deb").glob("*.deb")
    _require(["dpkg-deb", "--extract", str(archive), str(work / "files")], work)
    (work / "files").rename(folder)
    shutil.rmtree(work)


def _require(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"{' '.join(command)} failed: {done.stderr.strip()}")


def _user() -> str:
    # apt would drop root and then could not write here.
    return "root" if os.geteuid() == 0 else os.environ.get("USER", "")
